"""The package of docs/plugins.md, written to files and, if asked, installed into a folder."""

from __future__ import annotations

import re
from pathlib import Path

from dcn.data import write_image
from tests.runs.small import picture

PAGE = Path(__file__).parents[1] / "docs" / "plugins.md"
QUICK = [
    "transforms.short=64",
    "transforms.long=96",
    "schedule.epochs=null",
    "schedule.steps=2",
    "schedule.milestones=",
    "schedule.batch_size=2",
    "workers=0",
    "eval.pictures=0",
    "model.options={width: 4, fpn_channels: 8, fc_channels: 8}",
]
"""Changes that make a training of the example a matter of seconds."""


def sources() -> dict[str, str]:
    """The three files of the page by name."""
    blocks = dict(re.findall(r"^```(python|yaml|toml)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE))
    return {
        "tinynet/__init__.py": blocks["python"],
        "tinynet/tinynet.yaml": blocks["yaml"],
        "pyproject.toml": blocks["toml"],
    }


def write_package(folder: Path, *, install: bool) -> Path:
    """Module and recipe; with ``install`` also what an installer writes beside them: metadata with the entry points."""
    (folder / "tinynet").mkdir(parents=True, exist_ok=True)
    for name, text in sources().items():
        (folder / name).write_text(text)
    if install:
        toml = sources()["pyproject.toml"]
        stated, version = (re.search(rf'^{key} = "(.+)"', toml, re.MULTILINE) for key in ("name", "version"))
        assert stated is not None
        assert version is not None
        info = folder / f"{stated[1]}-{version[1]}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {stated[1]}\nVersion: {version[1]}\n")
        points = re.findall(r'^\[project\.entry-points\."(.+?)"\]\n(.*?)\n$', toml, re.DOTALL | re.MULTILINE)
        groups = (f"[{group}]\n" + rows.replace('"', "") + "\n" for group, rows in points)
        (info / "entry_points.txt").write_text("\n".join(groups))
    return folder


def write_boxes(folder: Path) -> Path:
    """Data in the format of the example: ``train.boxes``, ``val.boxes`` and six images."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, numbers in (("train", range(4)), ("val", range(4, 6))):
        lines = []
        for number in numbers:
            write_image(folder / f"{number}.png", picture(number))
            lines += [f"{number}.png 10 8 {40 + number} 44 cat", f"{number}.png 30 20 60 60 dog"]
        (folder / f"{split}.boxes").write_text("\n".join(lines) + "\n")
    return folder
