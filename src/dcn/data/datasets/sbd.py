"""The Semantic Boundaries Dataset (Hariharan et al. 2011): label maps for more images of Pascal VOC.

Its files are ``cls/<image>.mat``; conversions to index PNGs (``cls_png/<image>.png``) are read as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dcn.data.images import read_index_image


def read_labels(path: Path) -> Tensor:
    """A ``.mat`` file or an index PNG as ``[H, W]`` int64, the values as stored (0 is background).

    Raises:
        ValueError: the file cannot be read, or scipy, which reads ``.mat``, is not installed.
    """
    if path.suffix != ".mat":
        return read_index_image(path)
    try:
        from scipy.io import loadmat
    except ImportError:
        raise ValueError(
            f"{path}: reading .mat files needs scipy: pip install 'deformable-convnets[sbd]' (or use index PNGs)"
        ) from None
    try:
        content: Any = loadmat(path)
        labels = np.asarray(content["GTcls"]["Segmentation"][0, 0])
    except (OSError, KeyError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        raise ValueError(f"{path}: not a label file of SBD (a struct GTcls with Segmentation): {error}") from error
    return torch.from_numpy(labels.astype(np.int64))


def label_file(root: Path, stem: str) -> Path | None:
    """The label map of an image below an SBD folder, in whichever form there is."""
    places = [root / "cls" / f"{stem}.mat", root / "cls_png" / f"{stem}.png", root / "cls" / f"{stem}.png"]
    return next((path for path in places if path.is_file()), None)


def listed(root: Path) -> set[str]:
    """Names of all images of SBD: its ``train.txt`` and ``val.txt`` together.

    Raises:
        ValueError: one of the lists is missing.
    """
    stems: set[str] = set()
    for name in ("train.txt", "val.txt"):
        if not (root / name).is_file():
            raise ValueError(f"sbd: {root} has no {name}; give the folder 'dataset' of the archive")
        stems.update((root / name).read_text(encoding="utf-8").split())
    return stems
