"""``dcn train``: a recipe into a run folder."""

from __future__ import annotations

import argparse
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcn.engine import Outcome, Recipe
    from dcn.engine.distributed import World

LOGGER = logging.getLogger("dcn")

_EPILOG = """\
examples:
  dcn train synthetic_deformable
  dcn train bccd_deformable data.root=data/bccd schedule.batch_size=4
  dcn train my.yaml schedule.lr=0.005 amp=bf16 --name first-try
  dcn train --resume runs/bccd_deformable/0
  torchrun --nproc-per-node 8 -m dcn train faster_rcnn_r50_fpn_dconv_c3-c5_1x data.root=data/coco
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb ``train``."""
    parser = subparsers.add_parser(
        "train",
        help="train a network by a recipe",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="RECIPE key=value",
        help="a shipped recipe or a .yaml file, then key=value overrides",
    )
    parser.add_argument("--output", type=Path, default=Path("runs"), help="folder for run folders (default runs)")
    parser.add_argument("--name", help="name of the run folder (default: the next number)")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="",
        metavar="RUN",
        help="go on with a run folder, or with the latest run of the recipe",
    )
    parser.add_argument("--device", help="cpu, cuda, ... (default: the GPU where there is one)")
    parser.add_argument("--list", action="store_true", help="list the shipped recipes and stop")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from dcn.engine.distributed import joined_world
    from dcn.engine.recipe import recipe_names

    if arguments.list:
        print("\n".join(recipe_names()))
        return 0
    named = [word for word in arguments.words if "=" not in word]
    overrides = [word for word in arguments.words if "=" in word]
    if len(named) > 1 or not (named or arguments.resume):
        raise ValueError(
            f"recipe: expected one recipe, got {named or 'none'}; `dcn train --list` shows the shipped ones"
        )
    with joined_world(arguments.device) as world:
        folder, recipe = _open_run(arguments, named, overrides, world)
        outcome = train_recipe(recipe, folder, world)
    if not outcome.finished:
        print(f"stopped at step {outcome.step}; go on with: dcn train --resume {folder}")
        return 130
    return 0


def _open_run(
    arguments: argparse.Namespace, named: list[str], overrides: list[str], world: World
) -> tuple[Path, Recipe]:
    """The run folder and its recipe, the same in every process: new, or the one to go on with."""
    from dcn.engine.folder import latest_run, new_run_folder
    from dcn.engine.recipe import load_recipe

    if arguments.resume is None:
        recipe = load_recipe(named[0], overrides)
        folder = new_run_folder(arguments.output, Path(named[0]).stem, arguments.name) if world.is_main else None
        return world.gather(folder)[0], recipe
    folder = Path(arguments.resume) if arguments.resume else latest_run(arguments.output / Path(named[0]).stem)
    if not (folder / "recipe.yaml").is_file():
        raise ValueError(f"--resume: {folder} is not a run folder (it has no recipe.yaml)")
    return folder, load_recipe(folder / "recipe.yaml", overrides)


def train_recipe(recipe: Recipe, folder: Path, world: World) -> Outcome:
    """Train by a recipe in a run folder; goes on where the folder has a saved state.

    Args:
        recipe: what to do.
        folder: exists; gets ``recipe.yaml``, ``versions.json`` and what :func:`dcn.engine.train` writes.
        world: this process among the others.
    """
    from dcn.cli import assemble
    from dcn.engine import train
    from dcn.engine.folder import open_run

    training = assemble.open_split(recipe, recipe.data.train, training=True)
    judged = assemble.open_split(recipe, recipe.data.val)
    if tuple(judged.classes) != tuple(training.classes):
        raise ValueError(f"data: {training.name} and {judged.name} have different classes; set data.classes")
    model = assemble.build_model(recipe, tuple(training.classes))
    batches, steps_per_epoch = assemble.training_batches(recipe, training, world)
    if world.is_main:
        _describe(recipe, folder, f"{training.name}: {len(training)} images, {steps_per_epoch} steps an epoch")
    options = assemble.model_options(recipe)
    evaluate = assemble.validation(recipe, judged, model, world, folder)
    with open_run(folder, recipe) if world.is_main else nullcontext():
        outcome = train(model, batches, steps_per_epoch, recipe, folder, world, options=options, evaluate=evaluate)
    if world.is_main:
        LOGGER.info(
            "%s: step %d, best %s", folder, outcome.step, "none" if outcome.best is None else f"{outcome.best:.4f}"
        )
    return outcome


def _describe(recipe: Recipe, folder: Path, data: str) -> None:
    schedule = recipe.schedule
    LOGGER.info("%s\n%s", folder, data)
    if schedule.scaled_lr != schedule.lr:
        LOGGER.info(
            "learning rate %g = %g * %d / %d (schedule.lr_batch_size)",
            schedule.scaled_lr,
            schedule.lr,
            schedule.batch_size,
            schedule.lr_batch_size,
        )
