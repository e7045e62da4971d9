"""Tables of colours: which class each colour of a segmentation mask stands for, in the forms that other tools write.

Read are lines ``r g b name`` (CamVid) and ``name r g b``, with blanks, tabs, commas or semicolons between;
``labelmap.txt`` of CVAT (``name:r,g,b:parts:actions``); CSV files that begin with a line of column names; JSON and YAML
files with the colour of each name (Supervisely). A colour is three numbers 0 to 255 or ``#rrggbb``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcn.class_names import IGNORE, check_class_names
from dcn.colors import Color
from dcn.formats.documents import read_json, read_name_lines, read_yaml
from dcn.formats.problems import short

IGNORED_NAMES = ("void", "ignore", "ignored", "__ignore__", "unlabeled", "unlabelled")
"""Names, in any letter case, of pixels that are neither trained nor evaluated."""

UNKNOWN = ("refuse", "ignore", "nearest")
"""What may be done about a colour that the table does not have."""

FILES = ("label_colors.txt", "labelmap.txt", "class_dict.csv", "colors.txt", "colors.json", "colors.yaml")
_MACHINE = "obj_class_to_machine_color.json"  # Supervisely, whose masks are 0 where no object is
JSON_FILES = ("colors.json", _MACHINE)
"""Those in JSON, which are no annotations."""

_BETWEEN = r"[\s,;]+"
_NUMBERS = rf"(\d{{1,5}}){_BETWEEN}(\d{{1,5}}){_BETWEEN}(\d{{1,5}})"
_LINES = (
    re.compile(r"(?P<name>[^:]+):\s*(\d{1,5}),\s*(\d{1,5}),\s*(\d{1,5})\s*:.*"),
    re.compile(rf"{_NUMBERS}[\s,;:]+(?P<name>\S.*)"),
    re.compile(rf"(?P<name>\S.*?)[\s,;:=]+\[?{_NUMBERS}\]?"),
)
_HEX_LINES = (
    re.compile(r"(?P<hex>#[0-9a-fA-F]{6})[\s,;:]+(?P<name>\S.*)"),
    re.compile(r"(?P<name>\S.*?)[\s,;:=]+(?P<hex>#[0-9a-fA-F]{6})"),
)
_COLUMNS = {"r": "r", "red": "r", "g": "g", "green": "g", "b": "b", "blue": "b"}
_NAME_COLUMNS = ("name", "class", "label", "class_name", "classname")


@dataclass(frozen=True)
class ColorTable:
    """What each colour stands for.

    Attributes:
        names: the classes in label order.
        colors: RGB, each once.
        labels: the class index of each colour, 255 for pixels that do not count.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    labels: tuple[int, ...]

    @property
    def class_colors(self) -> tuple[Color, ...]:
        """One colour for each class, the first where a name has several."""
        return tuple(self.colors[self.labels.index(label)] for label in range(len(self.names)))

    def name_of(self, index: int) -> str:
        """The class of the colour at an index of `colors`."""
        label = self.labels[index]
        return "ignored" if label == IGNORE else self.names[label]

    def to_dict(self) -> dict[str, list[Any]]:
        """The colour or colours of each name, as `color_table` takes them; what does not count is ``void``."""
        said: dict[str, list[Any]] = {name: [] for name in self.names}
        for label, color in zip(self.labels, self.colors, strict=True):
            said.setdefault("void" if label == IGNORE else self.names[label], []).append(list(color))
        return {name: colors if len(colors) > 1 else colors[0] for name, colors in said.items()}

    def ordered(self, names: tuple[str, ...]) -> ColorTable:
        """The same with the classes in another order.

        Raises:
            ValueError: ``names`` are not the classes of the table.
        """
        if sorted(names) != sorted(self.names):
            raise ValueError(f"expected the classes that have colours, {list(self.names)}, got {list(names)}")
        labels = tuple(IGNORE if label == IGNORE else names.index(self.names[label]) for label in self.labels)
        return ColorTable(names, self.colors, labels)


def make_table(entries: Iterable[tuple[str, Color]], where: str) -> ColorTable:
    """A table of names with their colours; a name may have several colours.

    Names such as ``void`` (see `IGNORED_NAMES`) stand for pixels that do not count.

    Args:
        entries: in the order of the classes.
        where: the start of an error message.

    Raises:
        ValueError: no class, a colour of two names, a name that is no class name, more than 255 classes.
    """
    names: list[str] = []
    meaning: dict[Color, str] = {}
    for name, color in entries:
        if meaning.setdefault(color, name) != name:
            raise ValueError(f"{where}: expected each colour once, got {color} for {meaning[color]!r} and {name!r}")
        if not is_ignored(name) and name not in names:
            names.append(name)
    if not names or len(names) > IGNORE:
        raise ValueError(f"{where}: expected the colours of 1 to {IGNORE} classes, got {len(names)}")
    try:
        classes = check_class_names(names)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    labels = [IGNORE if is_ignored(name) else names.index(name) for name in meaning.values()]
    return ColorTable(classes, tuple(meaning), tuple(labels))


def is_ignored(name: str) -> bool:
    """Whether a name stands for pixels that do not count."""
    return name.lower() in IGNORED_NAMES


def find_color_table(root: Path) -> Path | None:
    """The file in a folder that says what colours mean; ``None`` where there is none."""
    return next((path for name in (*FILES, _MACHINE) if (path := root / name).is_file()), None)


def color_table(said: object, root: Path) -> ColorTable:
    """What the option ``colors`` of a dataset says.

    Args:
        said: the name of a file, relative to the working directory or to ``root``; or a mapping of class names to
            colours.
        root: the folder of the data.

    Raises:
        ValueError: no such file, or something else than names and colours.
    """
    if isinstance(said, Mapping):
        return make_table(_named(said, "colors"), "colors")
    if not isinstance(said, (str, Path)):
        raise ValueError(f"colors: expected a file or a mapping of class names to [r, g, b], got {short(said)}")
    file = Path(said).expanduser()
    return read_color_table(file if file.is_file() or not (root / file).is_file() else root / file)


def read_color_table(file: Path) -> ColorTable:
    """The table in a file, see the forms above.

    Raises:
        ValueError: the file cannot be read or holds something else; names the line.
    """
    if file.suffix.lower() in (".json", ".yaml", ".yml"):
        said = read_json(file) if file.suffix.lower() == ".json" else read_yaml(file)
        if not isinstance(said, dict):
            raise ValueError(f"{file}: expected a mapping of class names to [r, g, b], got {short(said)}")
        entries = _named(said, str(file))
        if file.name == _MACHINE and (0, 0, 0) not in [color for _, color in entries]:
            entries.insert(0, ("background", (0, 0, 0)))
        return make_table(entries, str(file))
    lines = read_name_lines(file, "table of colours")
    columns = _columns(lines[0][1]) if lines else None
    if columns is not None:
        return make_table([_by_columns(file, number, line, columns) for number, line in lines[1:]], str(file))
    kept = [(number, line) for number, line in lines if not _is_comment(line)]
    return make_table([_entry(file, number, line) for number, line in kept], str(file))


def _is_comment(line: str) -> bool:
    return line.startswith("#") and not any(pattern.fullmatch(line) for pattern in _HEX_LINES)


def _columns(line: str) -> dict[str, int] | None:
    """Where name and colour are, from a line of column names."""
    cells = [cell.strip().strip('"').lower() for cell in re.split(r"[,;\t]", line)]
    found = {_COLUMNS[cell]: index for index, cell in enumerate(cells) if cell in _COLUMNS}
    names = [cells.index(name) for name in _NAME_COLUMNS if name in cells]
    return {**found, "name": names[0]} if names and len(found) == 3 else None


def _by_columns(file: Path, number: int, line: str, columns: Mapping[str, int]) -> tuple[str, Color]:
    cells = [cell.strip().strip('"') for cell in re.split(r"[,;\t]", line)]
    if len(cells) <= max(columns.values()):
        raise ValueError(f"{file}: line {number}: expected {max(columns.values()) + 1} columns, got {short(line)}")
    return cells[columns["name"]], parse_color([cells[columns[c]] for c in "rgb"], f"{file}: line {number}")


def _entry(file: Path, number: int, line: str) -> tuple[str, Color]:
    where = f"{file}: line {number}"
    for pattern in (*_LINES, *_HEX_LINES):
        match = pattern.fullmatch(line)
        if match is not None:
            groups = match.groupdict()
            others = [text for index, text in enumerate(match.groups(), 1) if index != pattern.groupindex["name"]]
            return groups["name"].strip(" \t\"'"), parse_color(groups.get("hex") or others, where)
    raise ValueError(f"{where}: expected 'r g b name' or 'name r g b' with numbers 0 to 255, got {short(line)}")


def _named(said: Mapping[Any, Any], where: str) -> list[tuple[str, Color]]:
    """The entries of a mapping; a name may have a list of colours."""
    entries = []
    for name, value in said.items():
        several = isinstance(value, (list, tuple)) and value and isinstance(value[0], (list, tuple))
        entries += [(str(name), parse_color(color, f"{where}: {name}")) for color in (value if several else [value])]
    return entries


def parse_color(value: object, where: str) -> Color:
    """A colour: three numbers, ``"#rrggbb"`` or ``"r, g, b"``.

    Raises:
        ValueError: something else.
    """
    if isinstance(value, str):
        if re.fullmatch(r"#[0-9a-fA-F]{6}", value):
            return int(value[1:3], 16), int(value[3:5], 16), int(value[5:7], 16)
        value = re.split(_BETWEEN, value.strip())
    try:
        r, g, b = (int(number) for number in value)  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        raise ValueError(f"{where}: expected a colour as [r, g, b] or #rrggbb, got {short(value)}") from None
    if not all(0 <= number <= 255 for number in (r, g, b)):
        raise ValueError(f"{where}: expected numbers 0 to 255, got {short(value)}")
    return r, g, b
