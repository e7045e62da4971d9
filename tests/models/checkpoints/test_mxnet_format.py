from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dcn.models.checkpoints.mxnet_format import read_params, write_params

GOLDEN = Path(__file__).parents[2] / "golden"
V1, V2, V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA


def _file(records: bytes, keys: list[bytes], count: int = 1) -> bytes:
    """A whole file around ``records``."""
    text = b"".join(struct.pack("<Q", len(key)) + key for key in keys)
    return struct.pack("<QQQ", 0x112, 0, count) + records + struct.pack("<Q", len(keys)) + text


def _dense(*shape: int, magic: int = V2, storage: int = 0, code: int = 0, data: bytes | None = None) -> bytes:
    """An array record of generation V2 or V3; float32 zeros unless said otherwise."""
    head = struct.pack(f"<Iii{len(shape)}q", magic, storage, len(shape), *shape)
    return head + struct.pack("<iii", 1, 0, code) + (bytes(4 * int(np.prod(shape))) if data is None else data)


@pytest.mark.parametrize("version", [0, 1, 2], ids=["v0", "v1", "v2"])
def test_files_written_by_mxnet(version: int) -> None:
    arrays = read_params(GOLDEN / f"params_v{version}.params")
    with np.load(GOLDEN / "params_expected.npz") as expected:
        assert [name.replace(":", "__") for name in arrays] == expected.files
        for name, array in arrays.items():
            reference = expected[name.replace(":", "__")]
            assert array.numpy().dtype == reference.dtype
            np.testing.assert_array_equal(array.numpy(), reference)


def test_writes_the_bytes_that_mxnet_writes(tmp_path: Path) -> None:
    write_params(tmp_path / "copy.params", read_params(GOLDEN / "params_v2.params"))
    assert (tmp_path / "copy.params").read_bytes() == (GOLDEN / "params_v2.params").read_bytes()


DTYPES = {
    "f32": torch.float32,
    "f64": torch.float64,
    "f16": torch.float16,
    "u8": torch.uint8,
    "i32": torch.int32,
    "i8": torch.int8,
    "i64": torch.int64,
    "bool": torch.bool,
    "i16": torch.int16,
    "bf16": torch.bfloat16,
}


@pytest.mark.parametrize("version", [0, 1, 2, 3], ids=["v0", "v1", "v2", "v3"])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_what_is_written_is_read(tmp_path: Path, dtype: torch.dtype, version: int) -> None:
    array = torch.tensor([[0, 1, 2], [3, 4, 100]]).to(dtype)
    write_params(tmp_path / "a.params", {"arg:ä": array, "aux:b": array[1:].T}, version)
    read = read_params(tmp_path / "a.params")
    assert list(read) == ["arg:ä", "aux:b"]
    torch.testing.assert_close(read["arg:ä"], array, rtol=0, atol=0)
    torch.testing.assert_close(read["aux:b"], array[1:].T, rtol=0, atol=0)


def test_numpy_shapes_of_the_third_generation(tmp_path: Path) -> None:
    arrays = {"arg:scalar": torch.tensor(2.5), "arg:empty": torch.empty(0, 3)}
    write_params(tmp_path / "a.params", arrays, version=3)
    read = read_params(tmp_path / "a.params")
    assert read["arg:scalar"].shape == ()
    assert read["arg:scalar"].item() == 2.5
    assert read["arg:empty"].shape == (0, 3)


ABSENT = {
    "v0-no-axes": struct.pack("<I", 0),
    "v1-no-axes": struct.pack("<Ii", V1, 0),
    "v2-no-axes": struct.pack("<Iii", V2, 0, 0),
    "v2-zero-size": struct.pack("<Iiiqq", V2, 0, 2, 0, 3),
    "v3-unknown-axes": struct.pack("<Iii", V3, 0, -1),
    "v3-unknown-size": struct.pack("<Iiiqq", V3, 0, 2, -1, 3),
}


@pytest.mark.parametrize("record", ABSENT.values(), ids=ABSENT)
def test_an_array_without_a_shape_has_no_data(tmp_path: Path, record: bytes) -> None:
    (tmp_path / "a.params").write_bytes(_file(record + _dense(1), [b"arg:none", b"arg:next"], count=2))
    read = read_params(tmp_path / "a.params")
    assert read["arg:none"].numel() == 0
    assert read["arg:next"].tolist() == [0.0]


def test_arrays_of_a_gpu_are_read(tmp_path: Path) -> None:
    record = struct.pack("<Iiiq", V2, 0, 1, 2) + struct.pack("<iii", 2, 7, 0) + struct.pack("<2f", 1, 2)
    (tmp_path / "a.params").write_bytes(_file(record, [b"arg:a"]))
    assert read_params(tmp_path / "a.params")["arg:a"].tolist() == [1.0, 2.0]


WRONG = {
    "short-header": (b"12345678", "expected 16 bytes for the header, got 8"),
    "many-empty-arrays": (
        struct.pack("<QQQ", 0x112, 0, 200_000) + bytes(800_000),
        "at most 100,000 arrays, got 200,000",
    ),
    "other-format": (b"PK\3\4" + bytes(40), "expected a start of 0x112, 0x0, got 0x4034b50"),
    "many-arrays": (struct.pack("<QQQ", 0x112, 0, 1 << 60), "arrays, got 0 bytes, which cannot hold them"),
    "many-keys": (_file(_dense(1), [])[:-8] + struct.pack("<Q", 1 << 61), "keys, got 0 bytes"),
    "huge-array": (_file(_dense(1 << 31, 1 << 31, 1 << 31, data=b""), [b"a"]), "the file is cut short or damaged"),
    "huge-key": (
        _file(_dense(1), [])[:-8] + struct.pack("<QQ", 1, 1 << 50),
        "bytes for a key, got 0; the file is cut short",
    ),
    "many-axes": (_file(struct.pack("<Iii", V2, 0, 1 << 30), [b"a"]), "at most 32 axes, got 1073741824"),
    "v0-many-axes": (_file(struct.pack("<I", 4000), [b"a"]), "at most 32 axes, got 4000"),
    "negative-axes": (_file(struct.pack("<Iii", V2, 0, -5), [b"a"]), "at most 32 axes, got -5"),
    "negative-size": (
        _file(_dense(-2, -2, data=b""), [b"a"]),
        r"expected sizes of 0 or more, got the shape \(-2, -2\)",
    ),
    "sparse": (_file(_dense(1, storage=1), [b"a"]), "got storage type 1; make the array dense"),
    "dtype": (_file(_dense(1, code=9), [b"a"]), "expected a dtype code of 0-8 or 12, got 9"),
    "negative-dtype": (_file(_dense(1, code=-1), [b"a"]), "expected a dtype code of 0-8 or 12, got -1"),
    "not-utf8": (_file(_dense(1), [b"\xff\xfe"]), "expected a key in UTF-8"),
    "no-names": (_file(_dense(1), []), "expected a name for each of 1 arrays, got 0"),
    "twice": (_file(_dense(1) * 2, [b"a", b"a"], 2), "expected each name once, got 'a' more than once"),
    "trailing": (_file(_dense(1), [b"a"]) + b"x", "expected the end after the last key, got 1 more bytes"),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=WRONG)
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.params").write_bytes(content)
    with pytest.raises(ValueError, match=f"a.params: not a readable MXNet .params file: .*{message}"):
        read_params(tmp_path / "a.params")


@pytest.mark.parametrize("version", [0, 1, 2], ids=["v0", "v1", "v2"])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.999])
def test_a_cut_file_is_refused(tmp_path: Path, version: int, share: float) -> None:
    whole = (GOLDEN / f"params_v{version}.params").read_bytes()
    (tmp_path / "a.params").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match="not a readable MXNet"):
        read_params(tmp_path / "a.params")


UNWRITABLE: dict[str, tuple[Tensor, int, str]] = {
    "version": (torch.ones(1), 4, "version: expected 0, 1, 2 or 3, got 4"),
    "dtype": (torch.ones(1, dtype=torch.complex64), 2, "got torch.complex64 for 'arg:a'"),
    "scalar": (torch.tensor(1.0), 2, r"got shape \[\] for 'arg:a'; version=3"),
    "empty": (torch.ones(0, 2), 0, r"got shape \[0, 2\] for 'arg:a'; version=3"),
}


@pytest.mark.parametrize(("array", "version", "message"), UNWRITABLE.values(), ids=UNWRITABLE)
def test_what_the_format_cannot_hold(tmp_path: Path, array: Tensor, version: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_params(tmp_path / "a.params", {"arg:a": array}, version)
