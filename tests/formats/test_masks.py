from __future__ import annotations

import math

import numpy as np
import pycocotools.mask
import pytest
import torch

from dcn.formats.masks import decode_mask, decode_masks, encode_mask

SIZE = (37, 53)


def _oracle(segmentation: object) -> np.ndarray:
    """The reference implementation's own way from an annotation to a mask."""
    runs = pycocotools.mask.frPyObjects(segmentation, *SIZE)
    return np.asarray(pycocotools.mask.decode(pycocotools.mask.merge(runs) if isinstance(runs, list) else runs)) > 0


def _random_mask(seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).random(SIZE) > 0.6


def _uncompressed(mask: np.ndarray) -> dict[str, object]:
    flat = mask.flatten(order="F").astype(np.int8)
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flat)))).tolist()
    return {"size": list(SIZE), "counts": np.diff([0, *edges, flat.size]).tolist()}


def _compressed(mask: np.ndarray) -> dict[str, object]:
    runs = pycocotools.mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(SIZE), "counts": runs["counts"].decode()}


POLYGONS = {
    "triangle": [[2.5, 3.25, 40.0, 7.5, 20.0, 33.0]],
    "two-overlapping": [[5, 5, 30, 5, 30, 20, 5, 20], [20, 10, 45, 12, 33.3, 30.7]],
    "partly-outside": [[-10.0, 4.0, 70.0, 9.0, 25.0, 60.0]],
    "concave": [[3, 3, 50, 3, 50, 34, 26, 12, 3, 34]],
}


@pytest.mark.parametrize("polygons", POLYGONS.values(), ids=POLYGONS.keys())
def test_polygons_equal_the_reference(polygons: list[list[float]]) -> None:
    decoded = decode_mask(polygons, SIZE)
    assert decoded.dtype == torch.bool
    assert np.array_equal(decoded.numpy(), _oracle([[float(v) for v in p] for p in polygons]))
    assert decoded.any()


@pytest.mark.parametrize("encode", [_uncompressed, _compressed], ids=["list", "text"])
def test_run_lengths_equal_the_mask(encode: object) -> None:
    assert callable(encode)
    mask = _random_mask()
    assert np.array_equal(decode_mask(encode(mask), SIZE).numpy(), mask)


@pytest.mark.parametrize(
    "mask", [_random_mask(), np.zeros(SIZE, bool), np.ones(SIZE, bool)], ids=["any", "none", "all"]
)
def test_encoding_equals_the_reference(mask: np.ndarray) -> None:
    encoded = encode_mask(torch.from_numpy(mask))
    assert encoded == _compressed(mask)


BROKEN: dict[str, tuple[object, str]] = {
    "none": (None, "expected polygons or run lengths, got none"),
    "empty": ([], "expected polygons or run lengths, got"),
    "empty-part": ([[]], "expected polygons or run lengths, got"),
    "text": ("abc", "expected polygons or run lengths"),
    "two-points": ([[1, 1, 5, 5]], "three or more points"),
    "odd": ([[1, 1, 5, 5, 9, 9, 2]], "three or more points"),
    "not-a-list": ([7], "three or more points"),
    "nan": ([[1, 1, 5, math.nan, 9, 9]], "finite coordinates"),
    "far": ([[1, 1, 5, 1e9, 9, 9]], "finite coordinates no further than 106 pixels"),
    "words": ([[1, 1, "a", 3, 9, 9]], "finite coordinates"),
    "other-size": (
        {"size": [5, 5], "counts": [25]},
        r"image's size \[height, width\] = \[37, 53\], got \[5, 5\]",
    ),
    "no-size": ({"counts": [25]}, "= .37, 53., got nothing"),
    "no-counts": ({"size": list(SIZE)}, "'counts' must be a text or a list"),
    "short": ({"size": list(SIZE), "counts": [5, 5]}, "add up to 1961, got 10"),
    "long": ({"size": list(SIZE), "counts": [5, 5000]}, "add up to 1961, got 5005"),
    "negative": ({"size": list(SIZE), "counts": [-5, 1966]}, "integers >= 0"),
    "fraction": ({"size": list(SIZE), "counts": [0.5, 1960.5]}, "integers >= 0"),
    "bad-text": ({"size": list(SIZE), "counts": "11~11"}, "malformed run lengths: expected characters"),
    "long-text": ({"size": list(SIZE), "counts": "ooooo1"}, "got 67108863"),
    "endless-text": (
        {"size": list(SIZE), "counts": "o" * 40},
        "malformed run lengths: expected numbers of at most 60 bits",
    ),
    "cut-text": ({"size": list(SIZE), "counts": "11o"}, "malformed run lengths: the text breaks off"),
    "swapped-size": ({"size": [53, 37], "counts": [1961]}, "height and width are exchanged"),
}


@pytest.mark.parametrize(("segmentation", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_segmentations(segmentation: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode_mask(segmentation, SIZE)


def test_masks_beyond_a_bound_are_not_made() -> None:
    """A file of a few kilobytes can ask for a hundred gigabytes."""
    square = [[1, 1, 5, 1, 5, 5]]
    with pytest.raises(ValueError, match="expected masks of at most 4 GB, got 1000 of 10000x10000 pixels, 93 GB"):
        decode_masks([square] * 1000, (10_000, 10_000))
    assert decode_masks([square, square], SIZE).shape == (2, *SIZE)
