from __future__ import annotations

import pytest
import torch

from dcn.checksums import TENSORS_KEY, check_tensors, open_sealed, seal, tensors_checksum

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([True]), "c": torch.zeros(0), "d": torch.tensor(1.5)}


def _with(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
    return TENSORS | changes


@pytest.mark.parametrize(
    "other",
    [
        _with(a=TENSORS["a"].reshape(3, 2)),
        _with(a=TENSORS["a"].double()),
        _with(a=TENSORS["a"].nextafter(torch.tensor(9.0))),
        _with(b=torch.tensor([False])),
        _with(e=torch.zeros(0)),
        {key: value for key, value in TENSORS.items() if key != "c"},
    ],
    ids=["shape", "type", "one-bit", "bool", "more", "less"],
)
def test_every_change_changes_the_checksum(other: dict[str, torch.Tensor]) -> None:
    assert tensors_checksum(other, {"m": "1"}) != tensors_checksum(TENSORS, {"m": "1"})


def test_metadata_counts_and_memory_layout_does_not() -> None:
    own = tensors_checksum(TENSORS, {"m": "1"})
    assert tensors_checksum(TENSORS, {"m": "2"}) != own
    moved = _with(a=TENSORS["a"].t().contiguous().t())
    assert tensors_checksum(moved, {"m": "1", TENSORS_KEY: "x"}) == own


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int8, torch.complex64])
def test_types_that_numpy_does_not_know(dtype: torch.dtype) -> None:
    value = torch.ones(3, dtype=dtype)
    assert tensors_checksum({"a": value}, {}) != tensors_checksum({"a": value * 0}, {})


def test_a_file_without_a_checksum_passes() -> None:
    check_tensors("w", TENSORS, {"model": "x"})
    with pytest.raises(ValueError, match="w: the file is damaged"):
        check_tensors("w", TENSORS, {TENSORS_KEY: "0"})


def test_a_sealed_text_opens_whole_only() -> None:
    text = "a: 1\nb: 2\n"
    sealed = seal(text)
    assert open_sealed(sealed, "r") == text
    assert open_sealed(text, "r") == text
    first = sealed.index("\n")
    for length in range(first - 20, len(sealed)):
        with pytest.raises(ValueError, match="r: the file is cut off or was changed"):
            open_sealed(sealed[:length], "r")
