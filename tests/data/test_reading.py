"""Damaged images: refused with advice, skipped or repaired, and counted, in every format and with worker processes."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dcn.data import TrainingBatches, broken_images, evaluation_loader, open_dataset, spread, training_loader
from dcn.data.dataset import Dataset
from tests.data.made_files import HEIGHT, WIDTH, coco_data, make_coco, make_voc, voc_object, voc_xml
from tests.data.made_masks import write_mask, write_picture

NAMES = ("a", "b", "c", "d")
Break = Callable[[Path], None]


def _garbage(path: Path) -> None:
    path.write_bytes(b"no picture")


def _without_end(path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:-40])


def _gone(path: Path) -> None:
    path.unlink()


def _voc(root: Path, broken: str, damage: Break) -> Dataset:
    make_voc(root, {name: voc_xml(voc_object()) for name in NAMES})
    dataset = open_dataset("voc", root, "train", broken=broken)
    damage(root / "JPEGImages" / "b.png")
    return dataset


def _coco(root: Path, broken: str, damage: Break) -> Dataset:
    content = coco_data()
    content["images"].append({"id": 1, "file_name": "1.png", "height": HEIGHT, "width": WIDTH})
    make_coco(root, content)
    (root / "train" / "1.png").write_bytes((root / "train" / "5.png").read_bytes())
    dataset = open_dataset("coco", root, "train", broken=broken)
    damage(root / "train" / "9.png")
    return dataset


def _masks(root: Path, broken: str, damage: Break) -> Dataset:
    for name in NAMES:
        write_picture(root / "train" / f"{name}.png", HEIGHT, WIDTH)
        write_mask(root / "trainannot" / f"{name}.png", np.zeros((HEIGHT, WIDTH)))
    dataset = open_dataset("camvid", root, "train", broken=broken)
    damage(root / "train" / "b.png")
    return dataset


FORMATS = {"voc": _voc, "coco": _coco, "camvid": _masks}
BATCHES = [(HEIGHT, WIDTH)] * 4


def _ids(dataset: Dataset, workers: int = 0) -> list[int | str]:
    loaded = evaluation_loader(dataset, 3, workers=workers, start_method="fork" if workers else None)
    return [sample.target.image_id for batch in loaded for sample in batch]


@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("workers", [0, 2])
def test_the_default_stops_with_one_line_that_says_what_to_do(tmp_path: Path, make: object, workers: int) -> None:
    assert callable(make)
    dataset = make(tmp_path, "refuse", _garbage)
    with pytest.raises(ValueError, match=r"\.png: the image cannot be decoded") as caught:
        _ids(dataset, workers)
    message = str(caught.value)
    assert "the option broken=skip leaves such images out, broken=repair" in message
    assert "\n" not in message  # a worker's traceback would be
    assert not broken_images(dataset).skipped


@pytest.mark.filterwarnings("ignore:.*the image is skipped")
@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("damage", [_garbage, _gone, _without_end], ids=["garbage", "gone", "cut"])
@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_leaves_a_skipped_image_out_and_counts_it(
    tmp_path: Path, make: object, damage: Break, workers: int
) -> None:
    assert callable(make)
    dataset = make(tmp_path, "skip", damage)
    ids = _ids(dataset, workers)
    assert ids == ([5, 2, 1] if "coco" in str(type(dataset)).lower() else ["a", "c", "d"])
    broken = broken_images(dataset)
    assert ([path.stem for path in broken.skipped], broken.repaired) == (["9" if ids[0] == 5 else "b"], ())
    assert str(broken) == "1 damaged images skipped, 0 repaired"


@pytest.mark.filterwarnings("ignore:.*the image is skipped")
@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("workers", [0, 2])
def test_training_takes_the_next_image_and_every_start_sees_the_same(
    tmp_path: Path, make: object, workers: int
) -> None:
    assert callable(make)
    dataset = make(tmp_path, "skip", _garbage)
    batches = TrainingBatches(BATCHES, 2, seed=3)

    def steps(start: int, count: int) -> list[list[int | str]]:
        method = "fork" if workers else None
        loader = training_loader(dataset, batches, start=start, workers=workers, start_method=method)
        return [[sample.target.image_id for sample in next(loader)] for _ in range(count)]

    whole = steps(0, 6)
    assert all(len(batch) == 2 for batch in whole)
    assert steps(3, 3) == whole[3:]
    following = dataset[2].target.image_id
    expected = [[following if i == 1 else dataset[i].target.image_id for i in batch] for batch in batches.epoch(0)]
    assert whole[:2] == expected
    assert len(broken_images(dataset).skipped) == 1


@pytest.mark.filterwarnings("ignore:.*")
@pytest.mark.parametrize("make", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_jpeg_without_its_end_is_repaired_and_counted(tmp_path: Path, make: object, workers: int) -> None:
    assert callable(make)
    dataset = make(tmp_path, "repair", _without_end)
    assert len(_ids(dataset, workers)) == 4
    broken = broken_images(dataset)
    assert (broken.skipped, len(broken.repaired)) == ((), 1)


@pytest.mark.filterwarnings("ignore:.*the image is skipped")
def test_what_cannot_be_repaired_is_skipped(tmp_path: Path) -> None:
    dataset = _voc(tmp_path, "repair", _garbage)
    assert len(_ids(dataset)) == 3
    assert str(broken_images(dataset)) == "1 damaged images skipped, 0 repaired"


def test_a_skipped_image_is_named_once(tmp_path: Path) -> None:
    dataset = _voc(tmp_path, "skip", _garbage)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert [_ids(dataset) for _ in range(3)] == [["a", "c", "d"]] * 3
    assert len(said) == 1
    assert re.search(r"b\.png: the image cannot be decoded .*; the image is skipped", str(said[0].message))


@pytest.mark.filterwarnings("ignore:.*the image is skipped")
def test_no_image_that_can_be_used(tmp_path: Path) -> None:
    dataset = _voc(tmp_path, "skip", _garbage)
    for name in NAMES:
        _garbage(tmp_path / "JPEGImages" / f"{name}.png")
    assert _ids(dataset) == []
    with pytest.raises(ValueError, match="broken: expected an image that can be read, got none among 4"):
        dataset[0]


@pytest.mark.filterwarnings("ignore:.*the image is skipped")
def test_a_part_of_a_dataset_counts_for_the_whole(tmp_path: Path) -> None:
    dataset = _voc(tmp_path, "skip", _garbage)
    part = spread(dataset, 2)
    assert [part.image_path(i).stem for i in range(2)] == ["a", "c"]  # type: ignore[union-attr]
    assert _ids(part) == ["a", "c"]
    assert _ids(spread(dataset, 3)) == ["a", "c"]
    assert len(broken_images(part).skipped) == 1


@pytest.mark.filterwarnings("ignore:.*the image is skipped")
def test_a_damaged_mask_counts_as_a_damaged_image(tmp_path: Path) -> None:
    dataset = _masks(tmp_path, "skip", lambda path: _garbage(tmp_path / "trainannot" / "b.png"))
    assert _ids(dataset) == ["a", "c", "d"]
    assert dataset.sizes == BATCHES


@pytest.mark.filterwarnings("ignore:.*the image is skipped")
def test_sizes_of_skipped_images_do_not_stop(tmp_path: Path) -> None:
    assert _masks(tmp_path / "a", "skip", _garbage).sizes[1] == (1, 1)
    with pytest.raises(ValueError, match="cannot be decoded"):
        _ = _masks(tmp_path / "b", "refuse", _garbage).sizes


def test_datasets_pickle_and_synthetic_data_has_no_damage(tmp_path: Path) -> None:
    dataset = pickle.loads(pickle.dumps(_voc(tmp_path, "skip", _gone)))
    assert len(dataset) == 4
    assert str(broken_images(open_dataset("synthetic", None, "train"))) == "0 damaged images skipped, 0 repaired"


def test_unknown_policy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="broken: expected one of refuse, skip, repair, got 'ignore'"):
        _voc(tmp_path, "ignore", _garbage)


@pytest.mark.parametrize("format", ["voc", "coco"])
def test_photos_annotated_upright(tmp_path: Path, format: str) -> None:
    """The option turns image and size; without it the error names it."""
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = torch.arange(HEIGHT * WIDTH * 3, dtype=torch.int64).remainder(251).reshape(HEIGHT, WIDTH, 3)
    stored = pixels.to(torch.uint8)
    box = (1, 1, 30, 50)  # 1-based: higher than the stored image
    if format == "voc":
        make_voc(tmp_path, {"a": voc_xml(voc_object(box=box), size=(HEIGHT, WIDTH))})
        image = tmp_path / "JPEGImages" / "a.png"
    else:
        content = coco_data()
        content["images"] = [{"id": 5, "file_name": "5.png", "height": WIDTH, "width": HEIGHT}]
        content["annotations"] = [{"id": 1, "image_id": 5, "category_id": 7, "bbox": [0, 0, 30, 50]}]
        make_coco(tmp_path, content)
        image = tmp_path / "train" / "5.png"
    Image.fromarray(stored.numpy()).save(image, exif=exif)
    with pytest.raises(
        ValueError, match=r"stored turned \(EXIF orientation\) and annotated upright; the option upright"
    ):
        open_dataset(format, tmp_path, "train")[0]
    sample = open_dataset(format, tmp_path, "train", upright=True)[0]
    assert torch.equal(sample.image, torch.rot90(stored.permute(2, 0, 1), -1, (1, 2)))
    assert sample.target.boxes.tolist() == [[0, 0, 30, 50]]  # type: ignore[union-attr]
