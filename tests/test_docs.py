"""What README and docs point at exists: links and their headings, files, Python names; and no page is left out."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [*(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *DOCS]
FOLDERS = ("src", "tests", "docs", "benchmarks")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SPAN = re.compile(r"`([^`\n]+)`")
NAME = re.compile(r"dcn(?:\.\w+)+")


def _id(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _prose(path: Path) -> str:
    """The text without its code blocks."""
    return re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def _anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", _prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _links(path: Path) -> Iterator[tuple[Path, str]]:
    """File and anchor of every link within the repository."""
    for link in LINK.findall(_prose(path)):
        if "://" not in link:
            target, _, anchor = link.partition("#")
            yield (path.parent / target).resolve() if target else path, anchor


def _named_files(path: Path) -> Iterator[str]:
    """Paths in backticks that begin with a folder of the repository or of the package; none with placeholders."""
    for span in SPAN.findall(_prose(path)):
        for word in span.split():
            first = word.partition("/")[0]
            if "/" in word and first in (*FOLDERS, "dcn") and not set(word) & set("<>{}*$"):
                yield word.rstrip("/.,:;")


def _names(path: Path) -> list[str]:
    """Python names of the package in backticks: ``dcn.ops.nms``, ``dcn.load(...)``."""
    actual = (match for span in SPAN.findall(_prose(path)) if (match := NAME.match(span)))
    return sorted({match[0] for match in actual if not match[0].endswith((".py", ".so"))})


def _exists(name: str) -> bool:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        missing = object()
        for part in parts[length:]:
            value = getattr(value, part, missing)
        return value is not missing
    return False


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_links_lead_somewhere(page: Path) -> None:
    dead = [
        f"{_id(target) if target.is_relative_to(ROOT) else target}#{anchor}"
        for target, anchor in _links(page)
        if not target.exists() or (anchor and anchor not in _anchors(target))
    ]
    assert dead == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=_id)
def test_named_files_exist(page: Path) -> None:
    def known(word: str) -> bool:
        return (ROOT / word).exists() or (word.startswith("dcn/") and (ROOT / "src" / word).exists())

    assert [word for word in _named_files(page) if not known(word)] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=_id)
def test_named_parts_of_the_package_exist(page: Path) -> None:
    assert [name for name in _names(page) if not _exists(name)] == []


def test_every_page_is_linked_from_the_readme() -> None:
    linked = {target for target, _ in _links(ROOT / "README.md")}
    assert [_id(page) for page in DOCS if page not in linked] == []


def test_a_dead_link_and_an_unknown_name_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One two\n[a](b.md) [c](#one-two) `tests/none.py` `dcn.load(x)` `dcn.nothing`\n", encoding="utf-8"
    )
    assert list(_links(page)) == [(tmp_path.resolve() / "b.md", ""), (page, "one-two")]
    assert _anchors(page) == {"one-two"}
    assert list(_named_files(page)) == ["tests/none.py"]
    assert [_exists(name) for name in _names(page)] == [True, False]
