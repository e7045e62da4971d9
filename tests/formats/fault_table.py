"""The fault table of ``docs/data.md``, printed from the lists that the tests hold.

``python -m tests.formats.fault_table`` writes it into the page.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tests.formats import odd_annotations, odd_images, odd_results

PAGE = Path(__file__).parents[2] / "docs" / "data.md"
BEGIN = "<!-- fault table: written by python -m tests.formats.fault_table -->"
END = "<!-- end of the fault table -->"


def render() -> str:
    """The tables in Markdown."""
    parts = [
        _table("Pascal VOC", ((odd.what, odd.refused) for odd in odd_annotations.VOC)),
        _table("COCO", ((odd.what, odd.refused) for odd in odd_annotations.COCO)),
        _table("Instance masks, where they are asked for", ((odd.what, odd.refused) for odd in odd_annotations.MASKS)),
        _table("Result files", ((odd.what, odd.refused or _accepted(odd)) for odd in odd_results.ALL)),
        _table(
            "Images, segmentation masks, descriptions", ((f"{o.kind}: {o.what}", o.refused) for o in odd_images.IMAGES)
        ),
    ]
    return "\n\n".join(parts)


def _accepted(odd: odd_results.OddResult) -> str:
    return f"(warning) {odd.warning}" if odd.warning else ""


def _table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"### {title}", "", "| what | verdict |", "|---|---|"]
    for what, message in rows:
        if not message:
            verdict = "accepted"
        elif message.startswith("(warning) "):
            verdict = f"accepted, with a warning: `{message.removeprefix('(warning) ')}`"
        else:
            verdict = f"refused: `{message.replace('|', '/')}`"
        lines.append(f"| {what.replace('|', '/')} | {verdict} |")
    return "\n".join(lines)


def split_page(text: str) -> tuple[str, str, str]:
    """The page before, in and after the marks."""
    before, _, rest = text.partition(BEGIN)
    table, _, after = rest.partition(END)
    return before, table.strip(), after


if __name__ == "__main__":
    before, _, after = split_page(PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(f"{before}{BEGIN}\n\n{render()}\n\n{END}{after}", encoding="utf-8")
