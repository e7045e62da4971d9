from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import features

from dcn.data.datasets import glyphs
from dcn.data.datasets.synthetic import Synthetic
from dcn.data.geometry import mask_boxes
from dcn.structures import SegmentationMap, Target


def _target(data: Synthetic, index: int) -> Target:
    target = data[index].target
    assert isinstance(target, Target)
    return target


def test_a_sample_is_a_function_of_seed_split_and_index() -> None:
    forwards = Synthetic("train", seed=3, length=4)
    images = [forwards[i].image for i in range(4)]
    again = Synthetic("train", seed=3, length=9)
    assert all(torch.equal(images[i], again[i].image) for i in (3, 1, 0, 2))
    others = [Synthetic("train", seed=4)[0], Synthetic("val", seed=3)[0], Synthetic("test", seed=3)[0], forwards[1]]
    assert not any(torch.equal(images[0], other.image) for other in others)


def test_drawing_leaves_the_global_streams_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    np.random.seed(5)  # noqa: NPY002  # the stream under test
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    Synthetic("train")[0]
    assert np.random.random() == expected  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("difficulty", [0.0, 0.7, 1.0])
def test_objects(difficulty: float) -> None:
    data = Synthetic("train", seed=1, length=40, size=(120, 160), difficulty=difficulty, objects=(2, 4))
    assert (data.classes, data.sizes[7]) == (glyphs.CLASSES[:8], (120, 160))
    for index in range(len(data)):
        target = _target(data, index)
        masks = target.masks
        assert masks is not None
        assert 1 <= len(target) <= 4
        assert torch.equal(mask_boxes(masks), target.boxes)
        assert int(masks.sum(0).max()) == 1  # a pixel shows one object
        assert target.area is not None
        assert torch.equal(masks.sum((1, 2)).float(), target.area)
        assert not target.ignored.any()
        assert (target.size, target.image_id) == ((120, 160), index)


def test_all_classes_and_counts_occur() -> None:
    data = Synthetic("train", length=120, size=(96, 96), num_classes=5, objects=(1, 3), glyph_size=(14, 30))
    targets = [_target(data, index) for index in range(len(data))]
    labels = Counter(label for target in targets for label in target.labels.tolist())
    assert labels.keys() == set(range(5))
    assert min(labels.values()) > 25
    assert {len(target) for target in targets} == {1, 2, 3}


def test_objects_stand_out_from_the_ground() -> None:
    data = Synthetic("val", length=30, difficulty=0.0)
    for index in range(len(data)):
        sample, masks = data[index], _target(data, index).masks
        assert masks is not None
        for mask, (x1, y1, x2, y2) in zip(masks, _target(data, index).boxes.int().tolist(), strict=True):
            window, inside = sample.image[:, y1:y2, x1:x2].float().mean(0), mask[y1:y2, x1:x2]
            free = ~masks[:, y1:y2, x1:x2].any(0)
            assert abs(float(window[inside].mean() - window[free].mean())) > 30


def test_difficulty_hides_and_bends() -> None:
    fill = {}
    for level in (0.0, 1.0):
        data = Synthetic("train", length=60, num_classes=2, objects=(1, 1), difficulty=level)
        boxes = torch.cat([_target(data, index).boxes for index in range(len(data))])
        sides = boxes[:, 2:] - boxes[:, :2]
        fill[level] = float((sides[:, 0] / sides[:, 1]).log().std())
    assert fill[1.0] > 2 * fill[0.0]


def _tilt(mask: torch.Tensor) -> float:
    """The angle of the longest axis of a mask in degrees, -90 to 90."""
    y, x = (axis - axis.mean() for axis in torch.nonzero(mask).double().T)
    return float(torch.rad2deg(torch.atan2(2 * (x * y).mean(), (x * x - y * y).mean())) / 2)


@pytest.mark.parametrize(("rotation", "low", "high"), [(0.0, 0.0, 2.0), (20.0, 4.0, 18.0), (180.0, 25.0, 65.0)])
def test_rotation_is_set_apart_from_the_difficulty(rotation: float, low: float, high: float) -> None:
    geometry = {"rotation": rotation, "bending": 0.0}
    data = Synthetic("train", length=40, num_classes=2, objects=(1, 1), glyph_size=(80, 80), geometry=geometry)
    # The letter X is higher than wide: its longest axis stands upright where it is not rotated.
    tilts = []
    for index in range(len(data)):
        target = _target(data, index)
        assert target.masks is not None
        if int(target.labels[0]) == 1 and float(target.area[0]) > 0:  # type: ignore[index]  # is never None
            tilts.append(abs(90 - abs(_tilt(target.masks[0]))))
    assert len(tilts) > 10
    assert low <= np.median(tilts) <= high  # of some letters a hidden part moves the axis


def test_scale_varies_as_far_as_asked() -> None:
    data = Synthetic("train", length=60, objects=(1, 1), glyph_size=(17, 110), difficulty=0.0)
    boxes = torch.cat([_target(data, index).boxes for index in range(len(data))])
    heights = boxes[:, 3] - boxes[:, 1]
    assert float(heights.max() / heights.min()) > 5
    even = Synthetic("train", length=30, objects=(1, 1), glyph_size=(48, 48), geometry={"rotation": 0, "bending": 0})
    full = [t for i in range(len(even)) if (t := _target(even, i)) and float(t.boxes[0, 3] - t.boxes[0, 1]) > 46]
    assert len(full) > 15  # the others are hidden in part


def test_a_stroke_makes_letters_fat_and_changes_nothing_else() -> None:
    thin, fat = (Synthetic("val", length=8, difficulty=0.2, geometry={"stroke": width}) for width in (0.035, 0.12))
    assert torch.equal(thin[3].image, Synthetic("val", length=8, difficulty=0.2)[3].image)
    areas = []
    for data in (thin, fat):
        targets = [_target(data, index) for index in range(8)]
        areas.append(sum(float(target.area[0]) for target in targets if target.area is not None))
    assert [int(_target(fat, i).labels[0]) for i in range(8)] == [int(_target(thin, i).labels[0]) for i in range(8)]
    assert areas[1] > 1.2 * areas[0]


def test_geometry_is_a_function_of_the_seed() -> None:
    geometry = {"rotation": 180.0, "bending": 1.0, "stroke": 0.1}
    first, again = (Synthetic("train", seed=5, length=3, difficulty=0.1, geometry=geometry) for _ in range(2))
    assert all(torch.equal(first[index].image, again[index].image) for index in (2, 0, 1))


def test_semantic_labels_are_those_of_the_masks() -> None:
    options = {"length": 5, "size": (96, 128), "num_classes": 4, "glyph_size": (20, 40)}
    data, maps = Synthetic("val", **options), Synthetic("val", semantic=True, **options)  # type: ignore[arg-type]
    assert maps.classes == ("background", "A", "X", "S", "E")
    for index in range(5):
        target, mask = _target(data, index), maps[index].target
        assert isinstance(mask, SegmentationMap)
        assert target.masks is not None
        expected = (target.masks * (target.labels + 1)[:, None, None]).sum(0)
        assert torch.equal(mask.labels, expected)
        assert torch.equal(maps[index].image, data[index].image)


def test_shapes_are_filled_and_known_by_their_outline_alone() -> None:
    data = Synthetic("train", length=60, symbols="shapes", objects=(1, 1), difficulty=0.0, glyph_size=(80, 100))
    assert data.classes == ("disc", "square", "triangle", "star", "cross", "crescent")
    shares: dict[int, list[float]] = {}
    for index in range(len(data)):
        target = _target(data, index)
        assert target.masks is not None
        sides = target.boxes[:, 2:] - target.boxes[:, :2]
        for label, mask, (width, height) in zip(target.labels.tolist(), target.masks, sides.tolist(), strict=True):
            shares.setdefault(label, []).append(float(mask.sum()) / (width * height))
    # Area of the shape over that of its box: pi/4, 1, 1/2, that of a five-pointed star of radii 1 and 0.42, of a cross.
    star = 5 * 0.42 * math.sin(math.pi / 5) / (2 * math.sin(math.radians(72)) * (1 + math.cos(math.radians(36))))
    for label, expected in enumerate((math.pi / 4, 1.0, 0.5, star, 1 - (1 - 0.34) ** 2)):
        assert float(np.median(shares[label])) == pytest.approx(expected, abs=0.03), data.classes[label]


def test_without_masks() -> None:
    assert _target(Synthetic("val", masks=False), 0).masks is None
    assert torch.equal(_target(Synthetic("val", masks=False), 0).boxes, _target(Synthetic("val"), 0).boxes)


def test_cache_gives_the_same_sample_again() -> None:
    data, plain = Synthetic("train", length=3, cache=True), Synthetic("train", length=3)
    assert data[1] is data[1] is data[-2]
    assert plain[1] is not plain[1]
    assert torch.equal(data[1].image, plain[1].image)


def test_indices_past_the_end() -> None:
    data = Synthetic("train", length=3, size=(64, 64), glyph_size=(14, 20))
    with pytest.raises(IndexError):
        data[3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "valid"}, "split: expected one of train, val, test, got 'valid'"),
        ({"seed": -1}, "seed: expected 0 to"),
        ({"length": 0}, "length: expected 1 to"),
        ({"size": (63, 100)}, "size: expected two numbers from 64 to 4096, got"),
        ({"size": (100,)}, "size: expected two numbers"),
        ({"num_classes": 1}, "num_classes: expected 2 to 12, got 1"),
        ({"num_classes": 13}, "num_classes: expected 2 to 12, got 13"),
        ({"num_classes": 7, "symbols": "shapes"}, "num_classes: expected 2 to 6, got 7"),
        ({"symbols": "digits"}, "symbols: expected one of letters, shapes, got 'digits'"),
        ({"objects": (0, 3)}, "objects: expected two numbers from 1 to 100 in ascending order"),
        ({"objects": (4, 3)}, "objects: expected two numbers from 1 to 100 in ascending order"),
        ({"glyph_size": (20, 150)}, "glyph_size: expected two numbers from 12 to 115.2"),
        ({"difficulty": 1.5}, "difficulty: expected 0 to 1, got 1.5"),
        ({"geometry": {"rotation": 181}}, "geometry.rotation: expected 0.0 to 180.0, got 181"),
        ({"geometry": {"bend": 1}}, "geometry: expected rotation, bending, stroke, got 'bend'.*'bending'"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Synthetic(**options)  # type: ignore[arg-type]


def test_pillow_without_freetype(monkeypatch: pytest.MonkeyPatch) -> None:
    glyphs.template.cache_clear()
    monkeypatch.setattr(features, "check", lambda feature: False)
    with pytest.raises(ValueError, match="expects a Pillow with FreeType, got one without"):
        Synthetic("train")
