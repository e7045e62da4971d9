from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcn.formats.images import read_image
from dcn.formats.index_masks import IndexReader, read_description
from tests.formats.odd_images import IMAGES, OddFile

READERS: dict[str, Callable[[Path], Any]] = {
    "image": lambda path: read_image(path)[0],
    "mask": IndexReader({0: 0, 1: 1, 2: 2}),
    "mask of 0 and 255": IndexReader({0: 0, 255: 1}),
    "dataset.yaml": read_description,
}


@pytest.mark.filterwarnings("ignore:.*clipped to 255")
@pytest.mark.parametrize("odd", IMAGES, ids=lambda odd: f"{odd.kind}-{odd.what}")
def test_odd_files(tmp_path: Path, odd: OddFile) -> None:
    path = tmp_path / odd.name
    odd.make(path)
    if odd.refused:
        with pytest.raises(ValueError, match=f"{re.escape(str(path))}: .*{re.escape(odd.refused)}"):
            READERS[odd.kind](path)
        return
    read = READERS[odd.kind](path)
    if odd.row:
        assert tuple(read[0].tolist()) == odd.row
