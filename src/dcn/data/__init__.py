"""Datasets, their files, and the way from a file to a batch."""

from dcn.data.batching import TrainingBatches, evaluation_batches, evaluation_loader, training_loader
from dcn.data.box_format import box_format
from dcn.data.catalog import FORMATS, open_dataset, options_of
from dcn.data.dataset import Dataset, Transform
from dcn.data.format import Format
from dcn.data.overlap import refuse_shared_images, shared_images
from dcn.data.reading import BrokenImages, broken_images
from dcn.data.subset import Subset, spread
from dcn.formats.images import image_size, read_image, write_image
from dcn.formats.problems import Problem
from dcn.formats.records import BoxFiles, BoxObject, BoxRecord

__all__ = [
    "FORMATS",
    "BoxFiles",
    "BoxObject",
    "BoxRecord",
    "BrokenImages",
    "Dataset",
    "Format",
    "Problem",
    "Subset",
    "TrainingBatches",
    "Transform",
    "box_format",
    "broken_images",
    "evaluation_batches",
    "evaluation_loader",
    "image_size",
    "open_dataset",
    "options_of",
    "read_image",
    "refuse_shared_images",
    "shared_images",
    "spread",
    "training_loader",
    "write_image",
]
