"""Pickles as data: arrays as NumPy wrote them, and nothing is run, whatever a file asks for."""

from __future__ import annotations

import io
import os
import pickle
import struct
import time
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dcn.models.checkpoints import pickle_format, read_state
from dcn.models.checkpoints.pickle_format import PickleError, array_of, read_pickle

ARRAYS: dict[str, Any] = {
    "float32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "by columns": np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
    "big endian": np.arange(4, dtype=">f4"),
    "half": np.array([0.5, -2], np.float16),
    "integer": np.array([[1], [-7]], np.int64),
    "bool": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
    "number": np.float32(3.5) * np.ones((), np.float32),
    "slice": np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2],
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_every_protocol(name: str, protocol: int) -> None:
    array = np.asarray(ARRAYS[name])
    content = pickle.dumps({"w": array, "rest": [1, 2.5, None, True, "ü", b"\xff", (1,), {3: -(2**70)}]}, protocol)
    read: Any = read_pickle(io.BytesIO(content), len(content))
    got = array_of(read["w"])
    assert got is not None
    assert got.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(got, array)
    if protocol > 2:  # before, bytes were written as a call that encodes a text
        assert read["rest"] == [1, 2.5, None, True, "ü", b"\xff", (1,), {3: -(2**70)}]


def test_texts_of_python_2() -> None:
    """As its ``cPickle`` wrote ``{'w': numpy.array([1.0, -0.0], 'f4')}`` by protocol 2: names and numbers are texts."""
    numbers = np.array([1.0, -0.0], np.float32).tobytes()
    content = (
        b"\x80\x02}q\x01U\x01wq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U" + bytes([len(numbers)]) + numbers + b"tbs."
    )
    got = array_of(read_pickle(io.BytesIO(content), len(content))["w"])  # type: ignore[index]
    assert got is not None
    assert got.tobytes() == numbers


class _Runs:
    """A pickle of it calls a function when it is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def _hostile(name: str) -> bytes:
    good = {"model": {"w": np.ones(2, np.float32)}, "__author__": "x"}
    command = _Runs(os.system, "touch should-not-exist")
    if name == "beside the weights":
        return pickle.dumps(good | {"x": command})
    if name == "among the weights":
        return pickle.dumps({"model": {"w": command}})
    if name == "instead of the file":
        return pickle.dumps(command, 0)
    if name == "as a key":
        return pickle.dumps({(command, 1): 2})
    if name == "nested names":
        return b"\x80\x04\x8c\x08builtins\x8c\x07getattr\x93\x8c\x02os\x8c\x06system\x93\x8c\x08__call__\x86R."
    if name == "attribute of a harmless module":
        return b"\x80\x04\x8c\x05numpy\x8c\x16core.multiarray.system\x93)R."
    if name == "eval":
        return b'c__builtin__\neval\n(S\'open("should-not-exist", "w")\'\ntR.'
    if name == "old instance":
        return b"(S'touch should-not-exist'\nios\nsystem\n."
    if name == "extension":
        return b"\x80\x02\x82\x01)R."
    raise AssertionError(name)


@pytest.mark.parametrize(
    "name",
    [
        "beside the weights",
        "among the weights",
        "instead of the file",
        "as a key",
        "nested names",
        "attribute of a harmless module",
        "eval",
        "old instance",
        "extension",
    ],
)
@pytest.mark.parametrize("file", ["x.pkl", "x.pth"])
def test_a_hostile_file_is_refused_and_not_run(
    name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / file).write_bytes(_hostile(name))
    with pytest.raises(ValueError, match=rf"{file}: expected a (pickle of arrays|PyTorch file)"):
        read_state(file)
    assert os.listdir(tmp_path) == [file]


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    for value, said in (
        (_Runs(os.system, "true"), r"it asks for \w+.system, which runs commands: the file was made to do harm"),
        (OrderedDict, "w is no array but an? "),
        (Path("x"), r"it needs the object pathlib"),
        (np.array(["a"]), "an array holds the type 'U1', no numbers"),
        (np.array([None]), "an array holds the type 'O8', no numbers"),
        (3, "w is no array but a int"),
    ):
        path.write_bytes(pickle.dumps({"model": {"w": value}}))
        with pytest.raises(ValueError, match=rf"x.pkl: expected a pickle of arrays, such as detectron2's, .*{said}"):
            read_state(path)


def _array_with(shape: bytes, content: bytes) -> bytes:
    return (
        b"\x80\x02}U\x01wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01" + shape + b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNK\x00K\x00K\x00tb"
        b"\x89U" + bytes([len(content)]) + content + b"tbs."
    )


def _nested_keys(depth: int) -> bytes:
    """A key whose hash takes 2^depth steps: each tuple holds the one before twice."""
    return b"\x80\x02}K\x01\x85" + b"2\x86" * depth + b"K\x00s."


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02K\x01r" + struct.pack("<I", 0xFFFFFFF0) + b".",
        b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"abc",
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"K\x01.",
        b"\x80\x04\x8b" + struct.pack("<i", 1 << 30) + b"\x01",
        b"\x80\x02" + b"]" * 20_001 + b".",
        b"\x80\x02" + b"(" * 100_000 + b".",
        _nested_keys(60),
        _array_with(b"J\x00\x00\x00\x7f\x85", b"abcd"),
        _array_with(b"J\xff\xff\xff\xff\x85", b"abcd"),
        _array_with(b"K\x03\x85", b"abcd"),
    ],
    ids=[
        "number in the memo",
        "length of bytes",
        "length of a frame",
        "length of a number",
        "operations",
        "marks",
        "keys",
        "shape",
        "negative shape",
        "numbers that are missing",
    ],
)
def test_a_file_that_is_made_to_fill_memory_or_time(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickle_format, "MOST_OPERATIONS", 20_000)
    (tmp_path / "x.pkl").write_bytes(content)
    tracemalloc.start()
    begin = time.process_time()
    with pytest.raises(ValueError, match=r"x.pkl: expected a pickle of arrays"):
        read_state(tmp_path / "x.pkl")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6
    assert time.process_time() - begin < 60


def test_an_array_under_many_names_is_refused_before_it_is_copied(tmp_path: Path) -> None:
    one = np.zeros(5_000_000, np.float32)
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({f"w{index}": one for index in range(1000)}, protocol=4))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"x.pkl: expected tensors about as large as the file of 20,[\d,]+ bytes"):
        read_state(tmp_path / "x.pkl")
    assert tracemalloc.get_traced_memory()[1] < 300e6  # of 20 GB
    tracemalloc.stop()


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    content = pickle.dumps({"model": {"w": np.ones(100, np.float32)}}, protocol=4)
    for length in range(1, len(content), 7):
        (tmp_path / "x.pkl").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"x.pkl: expected a pickle of arrays"):
            read_state(tmp_path / "x.pkl")
    (tmp_path / "x.pkl").write_bytes(content)
    assert read_state(tmp_path / "x.pkl").tensors["w"].sum() == 100


def test_changed_bytes_raise_one_kind_of_error() -> None:
    content = pickle.dumps({"model": {f"w{i}": np.ones(3, np.float32) for i in range(3)}}, protocol=4)
    random = np.random.RandomState(0)
    refused = 0
    for _ in range(1500):
        changed = bytearray(content)
        for place in random.randint(0, len(content), 3):
            changed[place] = random.randint(256)
        try:
            read: Any = read_pickle(io.BytesIO(changed), len(changed))
            for value in read["model"].values() if isinstance(read, dict) and "model" in read else ():
                array_of(value)
        except (PickleError, AttributeError):
            refused += 1
    assert refused > 500
