"""What weights of a backbone imply about the model around them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BackboneFacts:
    """The options that a model must be built with for the weights to mean what they meant in training.

    Attributes:
        preprocess: normalisation of the images.
        style: where the strides sit.
        pool: pooling after the stem.
    """

    preprocess: str = "rgb_std"
    style: str = "pytorch"
    pool: str = "floor"
