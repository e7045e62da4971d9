"""Training: recipes, the loop, checkpoints and logs; the engine is handed its model, data and evaluation."""

from __future__ import annotations

from dcn.engine.checkpoint import WeightsInfo, find_weights, read_weights, save_weights
from dcn.engine.config import Recipe
from dcn.engine.recipe import dump_recipe, load_recipe, recipe_names
from dcn.engine.train import DivergedError, Outcome, train

__all__ = [
    "DivergedError",
    "Outcome",
    "Recipe",
    "WeightsInfo",
    "dump_recipe",
    "find_weights",
    "load_recipe",
    "read_weights",
    "recipe_names",
    "save_weights",
    "train",
]
