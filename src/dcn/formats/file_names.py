"""Names of files: which count as images, which file an annotation means, and names that are safe to write.

Names in annotations come from other systems (backslashes, endings in other letter case) and from strangers (``../``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path, PurePosixPath

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif", ".jfif", ".jp2")
"""Endings, in lower case, of the files of a folder that count as images."""

_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # devices of Windows
_ABSOLUTE = re.compile(r"/|[A-Za-z]:/")
_MAX_NAME = 120  # characters of one part; the file systems take 255 bytes, endings and numbers are added


def is_hidden(path: Path) -> bool:
    """Whether a file is a companion that systems leave behind: ``._a.jpg`` of macOS, ``.DS_Store``, ``Thumbs.db``."""
    return path.name.startswith(".") or path.name.lower() in ("thumbs.db", "desktop.ini")


def files_in(folder: Path, suffixes: str | Iterable[str], *, below: bool = False) -> list[Path]:
    """The files of a folder with one of these endings (in any letter case), sorted, without hidden ones.

    Args:
        folder: a folder that may be missing.
        suffixes: endings in lower case, with their dot.
        below: look into its folders too, except hidden ones and the ``__MACOSX`` of archives.
    """
    allowed = (suffixes,) if isinstance(suffixes, str) else tuple(suffixes)
    files = []
    for path in folder.rglob("*") if below else (folder.iterdir() if folder.is_dir() else ()):
        above = path.relative_to(folder).parts[:-1]
        if any(part.startswith(".") or part == "__MACOSX" for part in above):
            continue
        if path.suffix.lower() in allowed and not is_hidden(path) and path.is_file():
            files.append(path)
    return sorted(files)


def image_files(folder: Path, *, below: bool = False) -> list[Path]:
    """`files_in` for images."""
    return files_in(folder, SUFFIXES, below=below)


def posix(name: str) -> str:
    """A name from an annotation with slashes, as Windows's tools do not write it."""
    return name.replace("\\", "/")


def resolve(folder: Path, name: str) -> Path | None:
    """The file that an annotation means by ``name``, relative to a folder, or ``None``.

    Backslashes may stand for slashes, the ending may be in another letter case (``a.jpg`` for ``a.JPG``), and the name
    may repeat that of the folder (``images/a.jpg`` in ``images``). A path of another machine (``/home/me/images/a.jpg``
    or with a drive) is cut to what exists.
    """
    plain = posix(name)
    for spelling in dict.fromkeys((name, plain, plain.removeprefix("./").removeprefix(f"{folder.name}/"))):
        path = folder / spelling
        try:
            if path.is_file():
                return path
        except (OSError, ValueError):  # a name too long for the file system, or with a zero in it
            return None
    path = folder / plain
    match = [p for p in _by_stem(path.parent).get(path.stem, ()) if p.suffix.lower() == path.suffix.lower()]
    if match or not _ABSOLUTE.match(plain):
        return match[0] if match else None
    ends = (plain.split("/", start)[start].lstrip("/") for start in range(1, plain.count("/") + 1))
    return next((found for end in ends if end and (found := resolve(folder, end)) is not None), None)


def image_of(folder: Path, stem: str) -> Path | None:
    """The image of a stem in a folder, whatever its ending and the letter case of it; the first of `SUFFIXES` wins."""
    direct = folder / f"{stem}.jpg"
    try:
        if direct.is_file():
            return direct
    except (OSError, ValueError):
        return None
    candidates = _by_stem(direct.parent).get(PurePosixPath(stem).name, ())
    images = [path for path in candidates if path.suffix.lower() in SUFFIXES]
    return min(images, key=lambda path: SUFFIXES.index(path.suffix.lower()), default=None)


Stamps = tuple[tuple[Path, int], ...]
"""Files with the times of their last change: what a cache of their content needs for a key."""


def stamps(files: Iterable[Path]) -> Stamps:
    """Files with the times of their last change, in nanoseconds."""
    return tuple((file, file.stat().st_mtime_ns) for file in files)


def _by_stem(folder: Path) -> dict[str, tuple[Path, ...]]:
    try:
        return _listing(folder, folder.stat().st_mtime_ns)
    except OSError:
        return {}


@lru_cache(maxsize=64)
def _listing(folder: Path, _changed: int) -> dict[str, tuple[Path, ...]]:
    """The files of a folder by stem; the time of its last change is part of the key of the cache."""
    table: dict[str, tuple[Path, ...]] = {}
    with os.scandir(folder) as entries:
        for name in sorted(entry.name for entry in entries):
            path = folder / name
            if not is_hidden(path):
                table[path.stem] = (*table.get(path.stem, ()), path)
    return table


def safe_name(identifier: int | str) -> str:
    """A relative path for files about an image or a class: the identifier, without what leaves the folder.

    Ordinary identifiers stay as they are, folders in them included (``cam1/0001``). Drives, ``..``, empty parts,
    characters that file systems refuse and overlong names are replaced. Different hostile identifiers can get one
    name; `SafeNames` keeps them apart.
    """
    parts = [part for part in posix(str(identifier)).split("/") if part not in ("", ".", "..")]
    return "/".join(map(_safe_part, parts)) or "_"


def _safe_part(part: str) -> str:
    part = _UNSAFE.sub("_", part).strip()
    part = ("_" + part[1:]) if part.startswith(".") else part
    part = (part[:-1] + "_") if part.endswith(".") else part
    if _RESERVED.fullmatch(part):
        part = "_" + part
    part = part.encode("utf-8", "replace").decode("utf-8")[:_MAX_NAME]
    return part or "_"


def safe_path(folder: Path, identifier: int | str, suffix: str = "") -> Path:
    """The file for an identifier: always inside of ``folder``; see `safe_name`."""
    return folder / f"{safe_name(identifier)}{suffix}"


class SafeNames:
    """`safe_name` that never gives one name to two identifiers (letter case does not count: some systems ignore it).

    Args:
        folders: keep the folders in identifiers; ``False`` writes ``_`` for a slash.
    """

    def __init__(self, folders: bool = True) -> None:
        self._slash = "/" if folders else "_"
        self._names: dict[int | str, str] = {}
        self._used: set[str] = set()

    def __call__(self, identifier: int | str) -> str:
        """The name of an identifier; the same one every time."""
        if identifier not in self._names:
            plain = name = safe_name(identifier).replace("/", self._slash)
            number = 2
            while name.casefold() in self._used:
                name, number = f"{plain}_{number}", number + 1
            self._used.add(name.casefold())
            self._names[identifier] = name
        return self._names[identifier]
