"""Python's pickle format as data: nothing that a file names is imported, and nothing is called or built.

A pickle is a program that makes objects. The reader here makes texts, numbers, lists, tuples and dicts; where the
program names something of Python it keeps the name, and where it calls something it keeps what would have been called,
and with what (:class:`Call`). Who reads a file decides what a few of these calls mean, such as those of NumPy's arrays.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, cast

import numpy as np

MOST_OPERATIONS = 1_000_000
"""Of one file; the largest checkpoints have some ten thousand."""

# What a file of numbers never needs. Nothing would run here either; a file that asks for it was made to do harm.
_HARMFUL_MODULES = frozenset(
    {
        "os",
        "posix",
        "nt",
        "sys",
        "subprocess",
        "shutil",
        "socket",
        "pty",
        "importlib",
        "runpy",
        "ctypes",
        "webbrowser",
        "code",
        "pdb",
        "pickle",
        "commands",
        "builtins",
        "__builtin__",
    }
)
_HARMLESS = frozenset(
    {
        "set",
        "frozenset",
        "dict",
        "list",
        "tuple",
        "slice",
        "range",
        "xrange",
        "complex",
        "bytearray",
        "bytes",
        "object",
        "int",
        "long",
        "float",
        "bool",
        "str",
        "unicode",
        "type",
        "print",
        "getattr",
    }
)


class PickleError(ValueError):
    """What is wrong with a pickle."""


class HarmfulPickle(PickleError):
    """A pickle that was made to do harm."""


@dataclass(frozen=True)
class Name:
    """Something of Python that a file names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    @property
    def harmful(self) -> bool:
        """Whether only a file that was made to do harm names it."""
        builtin = self.module in ("builtins", "__builtin__")
        return self.module.partition(".")[0] in _HARMFUL_MODULES and not (builtin and self.name in _HARMLESS)


@dataclass(eq=False)
class Call:
    """A call that a file asks for, which is not made.

    Attributes:
        function: what would have been called.
        arguments: with what.
        state: what the result would have been given.
        items: the entries that it would have been given, as a dict.
    """

    function: Name
    arguments: object = ()
    state: object = None
    items: dict[object, object] = field(default_factory=dict)

    def is_of(self, *names: str) -> bool:
        """Whether it is a call of one of these functions or classes (``"collections.OrderedDict"``)."""
        return str(self.function) in names

    def __repr__(self) -> str:
        return f"Call({self.function})"


@dataclass(frozen=True)
class Reference:
    """An object that is stored outside of the pickle, such as the numbers of a tensor."""

    key: object


class _Mark:
    """The start of a group of items on the stack."""


_MARK = _Mark()


def read_pickle(file: IO[bytes], size: int, known: Collection[str] | None = None) -> object:
    """The content of a pickle as plain data, :class:`Name`, :class:`Call` and :class:`Reference`.

    Keys of dicts that are neither texts nor numbers are left out with their values. Sets become lists.

    Args:
        file: from where it is to be read.
        size: bytes that are left in the file.
        known: names that it may hold (``"numpy.ndarray"``); ``None``: any but those that only harm.

    Raises:
        PickleError: a damaged pickle, one with other names, or one of too many operations.
    """
    machine, bounded = _Machine(known), cast("IO[bytes]", _Bounded(file, size))
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(bounded)):
            if count >= MOST_OPERATIONS:
                raise PickleError(f"it has more than {MOST_OPERATIONS:,} operations")
            if operation.name == "STOP":
                return machine.pop()
            machine.run(operation.name, argument)
    except PickleError:
        raise
    except (ValueError, LookupError, TypeError, EOFError, OverflowError, MemoryError, AttributeError) as error:
        raise PickleError(f"its pickle is damaged or cut off ({' '.join(str(error).split())[:100]})") from None
    raise PickleError("its pickle is cut off")


class _Bounded:
    """A file that is asked for no more bytes than it has: a length in a damaged file may be anything."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._left = file, size

    def read(self, count: int) -> bytes:
        """At most ``count`` bytes."""
        return self._counted(self._file.read(min(max(count, 0), self._left)))

    def readline(self) -> bytes:
        """The rest of a line."""
        return self._counted(self._file.readline(self._left))

    def _counted(self, read: bytes) -> bytes:
        self._left -= len(read)
        return read


class _Machine:
    """The stack machine of the format."""

    def __init__(self, known: Collection[str] | None) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, object] = {}
        self.known = known

    def pop(self) -> Any:
        """The uppermost object."""
        value = self.stack.pop()
        if value is _MARK:
            raise PickleError("its pickle is damaged (an object is missing)")
        return value

    def pop_group(self) -> list[Any]:
        """The objects above the last mark, which goes too."""
        group: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            group.append(value)
        group.reverse()
        return group

    def run(self, name: str, argument: Any) -> None:
        """One operation."""
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise PickleError(f"its pickle has the operation {name}, which files of numbers do not have")

    def named(self, module: object, name: object) -> Name:
        """A name, if the file may hold it."""
        found = Name(str(module), str(name))
        if found.harmful:
            raise HarmfulPickle(f"it asks for {found}, which runs commands: the file was made to do harm")
        if self.known is not None and str(found) not in self.known:
            raise PickleError(f"it needs the object {found}")
        return found

    def remember(self, key: int) -> None:
        """Keep the uppermost object under a number."""
        self.memo[key] = self.stack[-1]


def _group_to(make: Callable[[list[Any]], object]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(make(machine.pop_group()))


def _last_to_tuple(count: int) -> Callable[[_Machine, Any], None]:
    def act(machine: _Machine, _: Any) -> None:
        values = [machine.pop() for _ in range(count)]
        machine.stack.append(tuple(reversed(values)))

    return act


def _fill(target: Any, pairs: Iterator[tuple[Any, Any]]) -> None:
    """Put entries into a dict, or beside a call that would have made one."""
    entries = target.items if isinstance(target, Call) else target
    if not isinstance(entries, dict):
        raise PickleError("its pickle is damaged (entries of something that is no dict)")
    for key, value in pairs:
        if isinstance(key, (str, int, float, bytes, type(None))):  # a tuple's hash may take forever
            entries[key] = value


def _pairs(values: list[Any]) -> Iterator[tuple[Any, Any]]:
    if len(values) % 2:
        raise PickleError("its pickle is damaged (a key without a value)")
    return zip(values[::2], values[1::2], strict=True)


def _set_item(machine: _Machine, _: Any) -> None:
    value, key = machine.pop(), machine.pop()
    _fill(machine.stack[-1], iter([(key, value)]))


def _set_items(machine: _Machine, _: Any) -> None:
    values = machine.pop_group()
    _fill(machine.stack[-1], _pairs(values))


def _dict(values: list[Any]) -> dict[object, object]:
    made: dict[object, object] = {}
    _fill(made, _pairs(values))
    return made


def _append(machine: _Machine, values: list[Any]) -> None:
    target = machine.stack[-1]
    if isinstance(target, list):
        target.extend(values)
    elif not isinstance(target, Call):  # of a kind of list that nobody asks for
        raise PickleError("its pickle is damaged (items of something that is no list)")


def _append_one(machine: _Machine, _: Any) -> None:
    value = machine.pop()
    _append(machine, [value])


def _build(machine: _Machine, _: Any) -> None:
    state = machine.pop()
    if isinstance(machine.stack[-1], Call):
        machine.stack[-1].state = state


def _put_call(machine: _Machine, function: object, arguments: object) -> None:
    if not isinstance(function, Name):  # such as getattr(module, "method"), which hides what is called
        raise HarmfulPickle("it calls what another call gives: the file was made to do harm")
    machine.stack.append(Call(function, arguments))


def _call(machine: _Machine, _: Any) -> None:
    arguments, function = machine.pop(), machine.pop()
    _put_call(machine, function, arguments)


def _new_with_names(machine: _Machine, _: Any) -> None:
    _, arguments, function = machine.pop(), machine.pop(), machine.pop()
    _put_call(machine, function, arguments)


def _object(machine: _Machine, _: Any) -> None:
    function, *arguments = machine.pop_group()
    _put_call(machine, function, tuple(arguments))


def _instance(machine: _Machine, argument: str) -> None:
    arguments = tuple(machine.pop_group())
    _put_call(machine, machine.named(*argument.split(" ", 1)), arguments)


def _drop(machine: _Machine, _: Any) -> None:
    machine.stack.pop()


def _drop_group(machine: _Machine, _: Any) -> None:
    machine.pop_group()


def _name_on_the_stack(machine: _Machine, _: Any) -> None:
    name, module = machine.pop(), machine.pop()
    machine.stack.append(machine.named(module, name))


_VALUES = frozenset(
    {
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
        "UNICODE",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
    }
)
_CONSTANTS: dict[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_SET": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "MARK": lambda: _MARK,
}
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "POP": _drop,
    "POP_MARK": _drop_group,
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "LIST": _group_to(list),
    "FROZENSET": _group_to(list),
    "TUPLE": _group_to(tuple),
    "TUPLE1": _last_to_tuple(1),
    "TUPLE2": _last_to_tuple(2),
    "TUPLE3": _last_to_tuple(3),
    "DICT": _group_to(_dict),
    "APPEND": _append_one,
    "APPENDS": lambda machine, _: _append(machine, machine.pop_group()),
    "ADDITEMS": lambda machine, _: _append(machine, machine.pop_group()),
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    "PERSID": lambda machine, key: machine.stack.append(Reference(key)),
    "BINPERSID": lambda machine, _: machine.stack.append(Reference(machine.pop())),
    "GLOBAL": lambda machine, names: machine.stack.append(machine.named(*names.split(" ", 1))),
    "STACK_GLOBAL": _name_on_the_stack,
    "REDUCE": _call,
    "NEWOBJ": _call,
    "NEWOBJ_EX": _new_with_names,
    "OBJ": _object,
    "INST": _instance,
    "BUILD": _build,
    **{name: lambda machine, key: machine.remember(key) for name in ("PUT", "BINPUT", "LONG_BINPUT")},
    **{name: lambda machine, key: machine.stack.append(machine.memo[key]) for name in ("GET", "BINGET", "LONG_BINGET")},
}

_RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_FROM_BUFFER = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")
_SCALAR = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_BYTES = ("builtins.bytes", "__builtin__.bytes")
ARRAY_NAMES = frozenset(
    {*_RECONSTRUCT, *_FROM_BUFFER, *_SCALAR, *_BYTES, "numpy.ndarray", "numpy.dtype", "_codecs.encode"}
)
"""The names that NumPy's arrays and numbers need."""

_DTYPE = re.compile(r"([<>|=]?)([fiu][1248]|b1)$")


def array_of(value: object) -> np.ndarray[Any, Any] | None:
    """The array of numbers that a call of a file describes, in a memory of its own; ``None``: it describes none.

    Raises:
        PickleError: it describes one whose numbers are not there, or that is not of numbers.
    """
    if not isinstance(value, Call):
        return None
    try:
        if value.is_of(*_RECONSTRUCT) and isinstance(value.state, tuple):
            shape, dtype, by_columns, content = value.state[-4:]
            return _array(content, dtype, shape, "F" if by_columns else "C")
        if value.is_of(*_FROM_BUFFER) and isinstance(value.arguments, tuple):
            content, dtype, shape, order = value.arguments
            return _array(content, dtype, shape, "F" if order == "F" else "C")
    except PickleError:
        raise
    except (ValueError, TypeError, LookupError) as error:
        raise PickleError(f"an array is damaged ({' '.join(str(error).split())[:100]})") from None
    return None


def _array(content: object, dtype: object, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    kind = _dtype(dtype)
    numbers = np.frombuffer(_bytes(content), kind)
    if not isinstance(shape, tuple) or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise PickleError("an array is damaged (its shape is no tuple of numbers)")
    array = numbers.reshape(shape, order=order)
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")


def _bytes(content: object) -> bytes | bytearray:
    """The numbers of an array; Python 2 wrote bytes as texts, and protocol 2 writes them as a call that encodes one."""
    if isinstance(content, Call) and content.is_of(*_BYTES) and content.arguments == ():
        return b""
    if isinstance(content, Call) and content.is_of("_codecs.encode") and isinstance(content.arguments, tuple):
        content = content.arguments[0]
    if isinstance(content, str):
        return content.encode("latin-1")
    if not isinstance(content, bytes | bytearray):
        raise PickleError("an array is damaged (its numbers are missing)")
    return content


def _dtype(described: object) -> np.dtype[Any]:
    if not isinstance(described, Call) or not described.is_of("numpy.dtype"):
        raise PickleError("an array is damaged (its type is missing)")
    arguments, state = described.arguments, described.state
    name = arguments[0] if isinstance(arguments, tuple) and arguments else None
    match = _DTYPE.match(name) if isinstance(name, str) else None
    if match is None:
        raise PickleError(f"an array holds the type {str(name)[:20]!r}, no numbers")
    order = state[1] if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">") else match[1]
    return np.dtype(f"{order or '='}{match[2]}")
