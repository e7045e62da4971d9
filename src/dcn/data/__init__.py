"""Data sets, their files, and the way from a file to a batch."""

from dcn.data.batching import TrainingBatches, evaluation_batches, evaluation_loader, training_loader
from dcn.data.catalog import FORMATS, open_dataset, options_of
from dcn.data.dataset import Dataset, Transform
from dcn.data.flips import WithFlips
from dcn.data.images import image_size, read_image, write_image
from dcn.data.problems import Problem

__all__ = [
    "FORMATS",
    "Dataset",
    "Problem",
    "TrainingBatches",
    "Transform",
    "WithFlips",
    "evaluation_batches",
    "evaluation_loader",
    "image_size",
    "open_dataset",
    "options_of",
    "read_image",
    "training_loader",
    "write_image",
]
