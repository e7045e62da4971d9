from __future__ import annotations

import colorsys
from dataclasses import replace

import numpy as np
import pytest
import torch

from dcn.data import transforms as t
from dcn.data.dataset import Transform
from dcn.data.geometry import crop, flip, mask_boxes, resize, rotate, rotate90
from dcn.structures import Sample, SegmentationMap, Target


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _sample(height: int = 24, width: int = 32) -> Sample:
    image = torch.randint(256, (3, height, width), dtype=torch.uint8, generator=_generator())
    boxes = torch.tensor([[2.0, 2, 12, 12], [16, 8, 30, 20]])
    return Sample(image, Target(boxes, torch.tensor([0, 1]), (height, width)))


def _same(a: Sample, b: Sample) -> bool:
    assert isinstance(a.target, Target)
    assert isinstance(b.target, Target)
    return torch.equal(a.image, b.image) and torch.equal(a.target.boxes, b.target.boxes)


ALL: dict[str, Transform] = {
    "resize": t.Resize((20, 30, 40), 100),
    "scale": t.RandomScale(0.5, 2.0),
    "flip": t.RandomFlip(),
    "crop": t.RandomCrop((10, 12)),
    "color": t.RandomColor(),
    "quarter": t.RandomQuarterTurn(),
    "rotation": t.RandomRotation(30),
}


@pytest.mark.parametrize("transform", ALL.values(), ids=ALL.keys())
def test_one_seed_one_result_and_the_global_stream_is_left_alone(transform: Transform) -> None:
    before = torch.get_rng_state()
    results = [transform(_sample(), _generator(seed)) for seed in range(8)]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(_same(result, transform(_sample(), _generator(seed))) for seed, result in enumerate(results))
    assert any(not _same(results[0], result) for result in results[1:])


@pytest.mark.parametrize("transform", ALL.values(), ids=ALL.keys())
def test_the_given_sample_is_not_changed(transform: Transform) -> None:
    sample = _sample()
    transform(sample, _generator())
    assert _same(sample, _sample())


def test_resize_picks_every_side_as_often() -> None:
    generator = _generator()
    sides = [min(t.Resize((20, 30, 40), 100)(_sample(), generator).image.shape[1:]) for _ in range(300)]
    counts = {side: sides.count(side) for side in sorted(set(sides))}
    assert counts.keys() == {20, 30, 40}
    assert min(counts.values()) > 70


def test_resize_with_one_side_uses_no_chance() -> None:
    generator = _generator()
    assert _same(t.Resize((30,), 100)(_sample(), generator), resize(_sample(), 30, 100))
    assert torch.equal(generator.get_state(), _generator().get_state())


def test_flip_probability() -> None:
    generator = _generator()
    flipped = [_same(t.RandomFlip(0.25)(_sample(), generator), flip(_sample())) for _ in range(400)]
    assert 70 < sum(flipped) < 130
    assert not any(_same(t.RandomFlip(0.0)(_sample(), generator), flip(_sample())) for _ in range(20))
    assert all(_same(t.RandomFlip(1.0)(_sample(), generator), flip(_sample())) for _ in range(20))


def test_crop_reaches_every_position_and_only_those() -> None:
    generator, sample = _generator(), _sample(4, 5)
    windows = {bytes(t.RandomCrop((3, 3))(sample, generator).image.numpy()) for _ in range(200)}
    expected = {bytes(crop(sample, top, left, 3, 3).image.numpy()) for top in range(2) for left in range(3)}
    assert windows == expected


def test_crop_of_a_smaller_image() -> None:
    sample = Sample(_sample(4, 5).image, SegmentationMap(torch.zeros(4, 5, dtype=torch.int64)))
    padded = t.RandomCrop((6, 3), pad=True)(sample, _generator())
    assert padded.image.shape == (3, 6, 3)
    assert isinstance(padded.target, SegmentationMap)
    assert padded.target.labels[:, 0].tolist() == [0, 0, 0, 0, 255, 255]
    assert t.RandomCrop((6, 3))(sample, _generator()).image.shape == (3, 4, 3)


def test_crop_drops_what_is_left_too_small() -> None:
    sample = Sample(_sample().image, Target(torch.tensor([[0.0, 0, 3.5, 20]]), torch.tensor([0]), (24, 32)))
    assert len(t.RandomCrop((24, 32))(sample, _generator()).target) == 0  # type: ignore[arg-type]
    assert len(t.RandomCrop((24, 32), min_side=3.5)(sample, _generator()).target) == 1  # type: ignore[arg-type]


def test_scale_range() -> None:
    generator = _generator()
    widths = [t.RandomScale(0.5, 2.0)(_sample(), generator).image.shape[2] for _ in range(200)]
    assert 16 <= min(widths) < 18
    assert 60 < max(widths) <= 64
    assert 28 < float(np.median(widths)) < 36  # as many halved as doubled


def test_quarter_turns_are_equally_likely() -> None:
    generator = _generator()
    seen = [t.RandomQuarterTurn()(_sample(), generator) for _ in range(200)]
    counts = [sum(_same(one, rotate90(_sample(), turns)) for one in seen) for turns in range(4)]
    assert sum(counts) == 200
    assert min(counts) > 30


def test_rotation_stays_in_range() -> None:
    generator = _generator()
    expected = rotate(_sample(), t.uniform(_generator(), -30, 30), min_side=4)
    assert _same(t.RandomRotation(30)(_sample(), generator), expected)


def test_compose_applies_in_order() -> None:
    steps = t.Compose((t.Resize((12,), 100), t.RandomFlip(1.0)))
    assert _same(steps(_sample(), _generator()), flip(resize(_sample(), 12, 100)))


def _pixel(red: int, green: int, blue: int) -> torch.Tensor:
    return torch.tensor([red, green, blue], dtype=torch.uint8).reshape(3, 1, 1)


def test_color_neutral_brightness_contrast_saturation() -> None:
    image = _sample().image
    assert torch.equal(t.adjust_color(image, 1, 1, 1, 0), image)
    assert t.adjust_color(_pixel(100, 50, 20), 1.5, 1, 1, 0).ravel().tolist() == [150, 75, 30]
    assert t.adjust_color(_pixel(200, 50, 20), 2, 1, 1, 0).ravel().tolist() == [255, 100, 40]
    grey = round(0.299 * 100 + 0.587 * 50 + 0.114 * 20)
    assert t.adjust_color(_pixel(100, 50, 20), 1, 1, 0, 0).ravel().tolist() == [grey] * 3
    two = torch.tensor([[10, 110]], dtype=torch.uint8).expand(3, 1, 2)
    assert t.adjust_color(two, 1, 0.5, 1, 0)[0].tolist() == [[35, 85]]


def test_hue_turns_the_circle_and_keeps_greys() -> None:
    assert t.adjust_color(_pixel(80, 80, 80), 1, 1, 1, 77.0).ravel().tolist() == [80, 80, 80]
    assert t.adjust_color(_pixel(200, 10, 30), 1, 1, 1, 120.0).ravel().tolist() == [30, 200, 10]
    before, after = (
        colorsys.rgb_to_hsv(*(p.ravel() / 255).tolist())[0]
        for p in (_pixel(150, 100, 100), t.adjust_color(_pixel(150, 100, 100), 1, 1, 1, 30.0))
    )
    assert (after - before) % 1 * 360 == pytest.approx(30, abs=4)  # the two circles differ by up to about 1 degree


MOVING: dict[str, Transform] = {
    "resize": t.Resize((60, 90, 120), 300),
    "scale": t.RandomScale(0.5, 2.0),
    "flip": t.RandomFlip(),
    "crop": t.RandomCrop((80, 100)),
    "quarter": t.RandomQuarterTurn(),
    "rotation": t.RandomRotation(30),
}


def _blobs(height: int = 120, width: int = 168) -> Sample:
    """Three ellipses: white in the image, as masks, and as their boxes."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    ellipses = ((36, 42, 24, 18), (84, 114, 21, 27), (30, 132, 18, 18))
    masks = torch.stack([((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 <= 1 for cy, cx, ry, rx in ellipses])
    image = (masks.any(0).to(torch.uint8) * 255).expand(3, -1, -1).contiguous()
    target = Target(mask_boxes(masks), torch.tensor([0, 1, 2]), (height, width), masks=masks)
    return Sample(image, target)


@pytest.mark.parametrize("transform", MOVING.values(), ids=MOVING.keys())
@pytest.mark.parametrize("seed", range(6))
def test_masks_and_boxes_follow_the_image(transform: Transform, seed: int) -> None:
    """White pixels are those of the masks, and a box is the extent of its mask, whatever was done."""
    moved = transform(_blobs(), _generator(seed))
    target = moved.target
    assert isinstance(target, Target)
    assert target.masks is not None
    assert tuple(moved.image.shape[1:]) == target.size == tuple(target.masks.shape[1:])
    everything = transform(Sample(_blobs().image, SegmentationMap(_labels())), _generator(seed)).target
    assert isinstance(everything, SegmentationMap)
    for mask, label, box in zip(target.masks, target.labels, target.boxes, strict=True):
        shown = (everything.labels == label + 1) & mask
        assert shown.sum() >= 0.95 * mask.sum()
        assert (moved.image[0][mask] > 127).float().mean() > 0.9
        # Masks are sampled at pixel centres and boxes are exact: scaling by 2 moves an edge by up to 1.5 pixels.
        extent = mask_boxes(mask[None])[0]
        assert (extent[:2] >= box[:2] - 1.5).all()
        assert (extent[2:] <= box[2:] + 1.5).all()
        limit = torch.tensor([target.size[1], target.size[0]])
        if (box[:2] > 0).all() and (box[2:] < limit).all():  # a cropped box is that of the whole object, cut
            assert (extent - box).abs().max() <= 1.5
    assert (moved.image[0] > 200).sum() >= 0.9 * target.masks.any(0).sum()


def _labels() -> torch.Tensor:
    sample = _blobs()
    assert isinstance(sample.target, Target)
    assert sample.target.masks is not None
    return (sample.target.masks * torch.arange(1, 4)[:, None, None]).amax(0)


@pytest.mark.parametrize("seed", range(6))
def test_rotation_without_masks_keeps_the_object_inside_its_box(seed: int) -> None:
    sample = _blobs()
    assert isinstance(sample.target, Target)
    bare = Sample(sample.image, replace(sample.target, masks=None))
    loose = t.RandomRotation(30)(bare, _generator(seed)).target
    tight = t.RandomRotation(30)(sample, _generator(seed)).target
    assert isinstance(loose, Target)
    assert isinstance(tight, Target)
    boxes = dict(zip(loose.labels.tolist(), loose.boxes, strict=True))
    for label, box in zip(tight.labels.tolist(), tight.boxes, strict=True):
        assert (boxes[label][:2] <= box[:2] + 1).all()
        assert (boxes[label][2:] >= box[2:] - 1).all()


def test_color_leaves_the_annotation_alone() -> None:
    sample = _blobs()
    assert t.RandomColor()(sample, _generator()).target is sample.target


def test_color_strength_zero_is_neutral() -> None:
    assert _same(t.RandomColor(0, 0, 0, 0)(_sample(), _generator()), _sample())
