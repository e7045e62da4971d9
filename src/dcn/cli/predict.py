"""``dcn predict``: images into pictures with boxes and one COCO-style JSON file, or into label maps."""

from __future__ import annotations

import argparse
import glob
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcn.cli import inference

if TYPE_CHECKING:
    from torch import Tensor

    from dcn.engine.predict import Predictor, Resize
    from dcn.engine.segment import Segmenter
    from dcn.models.segmentation import DeepLab
    from dcn.structures import Detections


def add_parser(subparsers: Any) -> None:
    """Add the verb ``predict``."""
    parser = subparsers.add_parser("predict", help="find objects in images")
    parser.add_argument("checkpoint", help="a run folder, a weights file, or with --weights the name of a network")
    parser.add_argument("images", nargs="+", help="image files, folders or globs")
    parser.add_argument("--output", type=Path, default=Path("predictions"), help="folder (default predictions)")
    parser.add_argument("--score", type=float, default=0.5, help="least score (default 0.5)")
    parser.add_argument("--batch", type=int, default=1, help="images of one forward pass (default 1)")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--size", type=int, nargs=2, metavar=("SHORT", "LONG"), help="resize the shorter side to this")
    size.add_argument("--keep-size", action="store_true", help="do not resize")
    parser.add_argument(
        "--testing",
        nargs="+",
        default=[],
        metavar="key=value",
        help="test-time options, such as flip=true scales=[[480,800],[800,1333]] suppression=soft_nms_gaussian, "
        "or for label maps flip=true scales=[0.75,1,1.25] window=[1024,1024]",
    )
    parser.add_argument("--no-pictures", action="store_true", help="write the JSON file, or the label maps, only")
    parser.add_argument("--weights", help="weights for a named network")
    parser.add_argument("--classes", help="class names for a named network, separated by commas")
    parser.add_argument("--device", help="cpu, cuda, ... (default: the GPU where there is one)")
    inference.add_options(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    """Exit code 1 where an image could not be read."""
    from dcn.api import load_model, make_predictor, with_testing
    from dcn.engine.distributed import choose_device
    from dcn.engine.parse import parse_options
    from dcn.models.segmentation import DeepLab
    from dcn.tta import TTA

    if arguments.batch < 1:
        raise ValueError(f"--batch: expected 1 or more, got {arguments.batch}")
    paths = find_images(arguments.images)
    classes = None if arguments.classes is None else [name.strip() for name in arguments.classes.split(",")]
    model = load_model(arguments.checkpoint, arguments.weights, classes=classes)
    if isinstance(model, DeepLab):
        return _run_maps(arguments, model, paths)
    if arguments.testing and (arguments.size or arguments.keep_size):
        raise ValueError("--size, --keep-size: with --testing the sizes are scales=[[SHORT,LONG],...]")
    model = inference.prepared(model, arguments, merging=bool(arguments.testing))
    model = with_testing(model, parse_options(TTA, arguments.testing, "tta"))
    network = make_predictor(model, choose_device(arguments.device))
    resize = _resize(arguments)
    arguments.output.mkdir(parents=True, exist_ok=True)
    seen: list[Path] = []
    found: list[Detections] = []
    sizes: list[tuple[int, int]] = []
    for part in _opened(network, paths, arguments.batch):
        images = [image for _, image in part]
        detections = network.predict(images, resize, arguments.score, batch_size=len(images))
        for (path, image), one in zip(part, detections, strict=True):
            if not arguments.no_pictures:
                _draw(arguments.output, len(seen), path, image, one, network.classes)
            seen.append(path)
            found.append(one)
            sizes.append((image.shape[1], image.shape[2]))
    _write(arguments.output / "detections.json", seen, sizes, found, network.classes)
    count = sum(map(len, found))
    print(f"{arguments.output}: {count} objects in {len(seen)} of {len(paths)} images")
    return 0 if len(seen) == len(paths) else 1


def _run_maps(arguments: argparse.Namespace, model: DeepLab, paths: list[Path]) -> int:
    from dcn.api import make_segmenter
    from dcn.cli.label_maps import as_segmenter, predict_maps
    from dcn.engine.distributed import choose_device
    from dcn.engine.parse import parse_options
    from dcn.tta import TTA

    ready = as_segmenter(inference.prepared(model, arguments))
    network = make_segmenter(ready, choose_device(arguments.device))
    arguments.output.mkdir(parents=True, exist_ok=True)
    opened = ((path, image) for path in paths if (image := _open(network, path)) is not None)
    config = parse_options(TTA, arguments.testing, "tta")
    count = predict_maps(network, opened, arguments.output, _resize(arguments), config, not arguments.no_pictures)
    print(f"{arguments.output}: label maps of {count} of {len(paths)} images")
    return 0 if count == len(paths) else 1


def _resize(arguments: argparse.Namespace) -> Resize:
    if arguments.size is not None:
        return (arguments.size[0], arguments.size[1])
    return None if arguments.keep_size else "default"


def find_images(words: Sequence[str]) -> list[Path]:
    """Files, and the images in folders and globs, each once, in the order given.

    Raises:
        ValueError: a word names nothing, or a folder has no images.
    """
    from dcn.data.images import SUFFIXES

    paths: dict[Path, None] = {}
    for word in words:
        path = Path(word)
        if path.is_dir():
            here = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        else:
            here = [path] if path.exists() else [Path(name) for name in sorted(glob.glob(word, recursive=True))]
        if not here:
            raise ValueError(f"images: nothing at {word!r}" + (f" of {', '.join(SUFFIXES)}" if path.is_dir() else ""))
        paths.update(dict.fromkeys(here))
    return list(paths)


def _opened(network: Predictor, paths: list[Path], batch: int) -> Iterator[list[tuple[Path, Tensor]]]:
    """Batches of readable images; the others are reported."""
    part: list[tuple[Path, Tensor]] = []
    for path in paths:
        image = _open(network, path)
        if image is not None:
            part.append((path, image))
        if len(part) == batch:
            yield part
            part = []
    if part:
        yield part


def _open(network: Predictor | Segmenter, path: Path) -> Tensor | None:
    try:
        return network.open(path)
    except ValueError as error:
        print(f"dcn: skipped: {error}", file=sys.stderr)
        return None


def _draw(folder: Path, number: int, path: Path, image: Tensor, found: Detections, classes: tuple[str, ...]) -> None:
    """Draw one image; the number keeps files of the same name in different folders apart."""
    from dcn.data.images import write_image
    from dcn.vis.detections import draw_detections

    drawn = draw_detections(image, found.boxes, found.labels, found.scores, found.masks, classes)
    file = folder / f"{path.stem}.jpg"
    write_image(file if not file.exists() or number == 0 else folder / f"{path.stem}_{number}.jpg", drawn)


def _write(
    file: Path, paths: list[Path], sizes: list[tuple[int, int]], found: list[Detections], classes: tuple[str, ...]
) -> None:
    """A COCO data set whose annotations have scores: images, categories and boxes in one file."""
    from dcn.metrics.files import coco_rows

    images = [
        {"id": number, "file_name": str(path), "height": height, "width": width}
        for number, (path, (height, width)) in enumerate(zip(paths, sizes, strict=True), start=1)
    ]
    numbers = range(1, len(classes) + 1)
    rows = [row for number, one in enumerate(found, start=1) for row in coco_rows(one, number, numbers)]
    for number, row in enumerate(rows, start=1):
        row["id"] = number
    categories = [{"id": number, "name": name} for number, name in zip(numbers, classes, strict=True)]
    content = {"images": images, "categories": categories, "annotations": rows}
    file.write_text(json.dumps(content), encoding="utf-8")
