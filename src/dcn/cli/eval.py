"""``dcn eval``: a network on a data set, or a file of results against a file of annotations."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcn.cli import inference

if TYPE_CHECKING:
    from dcn.data.dataset import Dataset
    from dcn.engine import Recipe
    from dcn.engine.distributed import World
    from dcn.structures import Detections

_EPILOG = """\
examples:
  dcn eval runs/bccd_deformable/0
  dcn eval runs/bccd_deformable/0 --split val --save transforms.test_short=640
  dcn eval runs/cards_plain/0 tta.flip=true tta.scales=240x400,320x534
  dcn eval model.safetensors --recipe bccd_deformable data.root=data/bccd
  dcn eval model.safetensors --recipe rfcn_r101_coco data.root=data/coco --split test-dev2017 --save
  dcn eval --results detections.json --annotations instances_val2017.json --iou-type segm
  dcn eval --results results/ --annotations VOCdevkit/VOC2007 --method 11point
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb ``eval``."""
    parser = subparsers.add_parser(
        "eval",
        help="judge a network, or a file of results",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words", nargs="*", metavar="CHECKPOINT key=value", help="a run folder or weights file, then overrides"
    )
    parser.add_argument("--split", default="test", help="train, val, test as in the recipe, or a split's own name")
    parser.add_argument("--recipe", help="where the data is described, for weights outside of a run folder")
    parser.add_argument("--device", help="cpu, cuda, ... (default: the GPU where there is one)")
    parser.add_argument("--batch", type=int, help="images of one forward pass (default: eval.batch_size of the recipe)")
    inference.add_options(parser)
    parser.add_argument("--output", type=Path, help="folder for the files (default: eval/ in the run folder)")
    parser.add_argument(
        "--save",
        action="store_true",
        help="write the detections too, as COCO JSON and VOC files, or the label maps, as PNGs",
    )
    files = parser.add_argument_group("result files instead of a network")
    files.add_argument("--results", type=Path, help="COCO result JSON, or folder or file of VOC results")
    files.add_argument("--annotations", type=Path, help="COCO annotation JSON, or VOC folder")
    files.add_argument("--iou-type", choices=("bbox", "segm"), default="bbox")
    files.add_argument("--format", choices=("auto", "coco", "voc"), default="auto", help="rules to score by")
    files.add_argument("--method", choices=("area", "11point"), default="area", help="VOC: how AP is taken")
    files.add_argument("--image-set", help="VOC: list in ImageSets/Main (default: all annotations)")
    files.add_argument("--classes", help="class names in order, separated by commas")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    figures = _judge_network(arguments) if arguments.results is None else _judge_files(arguments)
    if figures or arguments.json:
        print(json.dumps(_plain(figures), indent=2) if arguments.json else table(figures))
    else:
        print("no annotations to judge by; the detections are written")
    return 0


def _judge_files(arguments: argparse.Namespace) -> dict[str, float]:
    from dcn.metrics import evaluate_files

    if arguments.words or arguments.annotations is None:
        raise ValueError("--results: needs --annotations and no network; see `dcn eval --help`")
    return evaluate_files(
        arguments.results,
        arguments.annotations,
        format=arguments.format,
        iou_type=arguments.iou_type,
        method=arguments.method,
        split=arguments.image_set,
        classes=None if arguments.classes is None else [name.strip() for name in arguments.classes.split(",")],
    )


def _judge_network(arguments: argparse.Namespace) -> dict[str, float]:
    from dcn.api import load_model, with_testing
    from dcn.cli import assemble
    from dcn.engine.distributed import World, choose_device
    from dcn.engine.evaluate import detect
    from dcn.engine.log import progress

    checkpoint, recipe, folder = find_run(arguments.words, arguments.recipe)
    recipe, output = _with_options(recipe, arguments), arguments.output or folder / "eval"
    world = World(choose_device(arguments.device))
    if recipe.eval.metric == "miou":
        return _judge_maps(arguments, checkpoint, recipe, output, world)
    merging = not recipe.tta.is_default
    model = inference.prepared(load_model(checkpoint), arguments, merging=merging)
    model = with_testing(model, recipe.tta, assemble.test_size(recipe)).to(world.device)
    split = split_name(recipe, arguments.split)
    dataset = assemble.open_split(recipe, split, masks=assemble.finds_masks(model))
    check_classes(tuple(dataset.classes), tuple(model.classes), dataset.name)  # type: ignore[arg-type]  # nn.Module attributes are untyped
    annotated = getattr(dataset, "annotated", True)
    if not annotated and not arguments.save:
        raise ValueError(f"{dataset.name} has no annotations to judge by; --save writes the files for a test server")
    metric = assemble.make_metric(recipe, dataset, model)
    # With test-time options the network resizes images itself.
    size = None if merging else assemble.test_size(recipe)
    batches = assemble.evaluation_batches(recipe, dataset, size, world)
    found: list[Detections] = []
    ids: list[int | str] = []
    total = -(-len(dataset) // recipe.eval.batch_size)
    for detections, targets in progress(detect(model, batches, world.device, recipe.amp), total, dataset.name):
        if annotated:
            metric.update(detections, targets)
        if arguments.save:
            found += detections
            ids += [target.image_id for target in targets]
    output.mkdir(parents=True, exist_ok=True)
    if arguments.save:
        _save(output, arguments.split, found, ids, dataset)
    if not annotated:
        return {}
    figures = metric.compute()
    (output / f"{arguments.split}.json").write_text(json.dumps(_plain(figures), indent=2) + "\n", encoding="utf-8")
    return figures


def _judge_maps(
    arguments: argparse.Namespace, checkpoint: Path, recipe: Recipe, output: Path, world: World
) -> dict[str, float]:
    from dcn.api import load_model
    from dcn.cli import assemble, label_maps
    from dcn.engine.log import progress

    model = label_maps.as_segmenter(inference.prepared(load_model(checkpoint), arguments)).to(world.device)
    dataset = assemble.open_split(recipe, split_name(recipe, arguments.split))
    check_classes(tuple(dataset.classes), tuple(model.classes), dataset.name)
    batches = assemble.evaluation_batches(recipe, dataset, assemble.test_size(recipe), world)
    pairs = progress(label_maps.predicted(recipe, model, batches, world), len(dataset), dataset.name)
    figures = label_maps.judge_maps(recipe, pairs, dataset, output, arguments.split, arguments.save)
    (output / f"{arguments.split}.json").write_text(json.dumps(_plain(figures), indent=2) + "\n", encoding="utf-8")
    return figures


def _with_options(recipe: Recipe, arguments: argparse.Namespace) -> Recipe:
    """The recipe with what the command line says otherwise: images of a pass, and the precision."""
    from dataclasses import replace

    if arguments.dtype != "float32":
        recipe = replace(recipe, amp="off")  # the network itself is in that precision
    if arguments.batch is None:
        return recipe
    if arguments.batch < 1:
        raise ValueError(f"--batch: expected 1 or more, got {arguments.batch}")
    if recipe.eval.metric == "miou":
        raise ValueError("--batch: label maps are made one image at a time; leave it out")
    return replace(recipe, eval=replace(recipe.eval, batch_size=arguments.batch))


def split_name(recipe: Recipe, name: str) -> str:
    """The data set's name of a split that the recipe may call train, val or test."""
    return {"train": recipe.data.train, "val": recipe.data.val, "test": recipe.data.test}.get(name, name)


def find_run(words: Sequence[str], recipe: str | None) -> tuple[Path, Recipe, Path]:
    """Checkpoint, recipe and folder of a run that the command line means.

    Args:
        words: one run folder or weights file, and overrides ``key=value`` of the recipe.
        recipe: name or file of the one that describes the data; ``None``: that of the run.
    """
    from dcn.engine import load_recipe

    named = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    if len(named) != 1:
        raise ValueError(f"checkpoint: expected one run folder or weights file, got {named or 'none'}")
    checkpoint = Path(named[0])
    if not checkpoint.exists():
        raise ValueError(f"checkpoint: {checkpoint} is neither a run folder nor a weights file")
    run = checkpoint if checkpoint.is_dir() else checkpoint.resolve().parent.parent
    own = run / "recipe.yaml"
    if recipe is None and not own.is_file():
        raise ValueError(f"checkpoint: {checkpoint} is not in a run folder; say what to judge it on with --recipe")
    return checkpoint, load_recipe(recipe or own, overrides), run if own.is_file() else checkpoint.parent


def check_classes(data: tuple[str, ...], model: tuple[str, ...], name: str) -> None:
    """Refuse data set ``name`` for a network that knows other classes."""
    if data != model:
        raise ValueError(f"classes: the network knows {list(model)}, {name} has {list(data)}")


def _save(output: Path, split: str, found: list[Detections], ids: list[int | str], dataset: Dataset) -> None:
    from dcn.metrics import write_coco_results, write_voc_results

    categories = getattr(dataset, "category_ids", range(1, len(dataset.classes) + 1))
    write_coco_results(output / f"{split}_detections.json", found, ids, categories)
    write_voc_results(output / f"{split}_voc", found, [str(key) for key in ids], dataset.classes, split=split)


def _plain(figures: Mapping[str, float]) -> dict[str, float | None]:
    """NaN is not JSON."""
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


def table(figures: Mapping[str, float]) -> str:
    """Two columns, the figures of single classes last."""
    ordered = sorted(figures, key=lambda name: name.count("/"))
    width = max(map(len, ordered), default=0)
    return "\n".join(f"{name:<{width}}  {figures[name]:7.4f}" for name in ordered)
