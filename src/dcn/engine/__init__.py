"""Training, evaluation and prediction; the engine is handed its model, data and metrics."""

from __future__ import annotations

from dcn.engine.checkpoint import WeightsInfo, find_weights, read_weights, save_weights
from dcn.engine.config import Recipe
from dcn.engine.evaluate import detect, evaluate
from dcn.engine.predict import Predictor
from dcn.engine.recipe import dump_recipe, load_recipe, recipe_names
from dcn.engine.segment import Segmenter, evaluate_maps, segment, segment_samples
from dcn.engine.train import DivergedError, Outcome, train

__all__ = [
    "DivergedError",
    "Outcome",
    "Predictor",
    "Recipe",
    "Segmenter",
    "WeightsInfo",
    "detect",
    "dump_recipe",
    "evaluate",
    "evaluate_maps",
    "find_weights",
    "load_recipe",
    "read_weights",
    "recipe_names",
    "save_weights",
    "segment",
    "segment_samples",
    "train",
]
