"""CamVid with plain, atrous and deformable convolutions: the same backbone, schedule and seeds for all.

    python benchmarks/camvid.py --root data/camvid --backbone resnet50_1by2.pth

trains dilation 2, 4, 6 and 8 with one seed, then dilation 2, the best of the others on the validation split, and the
deformable model with all seeds, and evaluates each run on the test split. Rows go to ``benchmarks/results/camvid.csv``
and runs that are already there are not repeated; the table is printed as Markdown.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from dcn.data import open_dataset
from dcn.engine.log import read_rows
from dcn.models.segmentation import DeepLab
from dcn.nn import DeformConv2d, OffsetMonitor

RESULTS = Path(__file__).parent / "results" / "camvid.csv"
BASE, DEFORMABLE = "camvid_atrous2", "camvid_deformable"
OTHERS = ("camvid_atrous4", "camvid_atrous6", "camvid_atrous8")


@dataclass(frozen=True)
class Row:
    """One run."""

    recipe: str
    seed: int
    val_miou: float
    test_miou: float
    test_accuracy: float
    offset_pixels: float
    minutes: float
    machine: str
    torch: str


def finished() -> list[Row]:
    if not RESULTS.is_file():
        return []
    with RESULTS.open(newline="", encoding="utf-8") as file:
        return [_row(values) for values in csv.DictReader(file)]


def _row(values: dict[str, str]) -> Row:
    texts = ("recipe", "machine", "torch")
    typed = {name: value if name in texts else float(value) for name, value in values.items()}
    return Row(**{**typed, "seed": int(values["seed"])})  # type: ignore[arg-type]


def keep(row: Row) -> None:
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    new = not RESULTS.is_file()
    with RESULTS.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        if new:
            writer.writeheader()
        writer.writerow(asdict(row))


def dcn(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", "dcn", *words], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def run(recipe: str, seed: int, arguments: argparse.Namespace) -> Row:
    """Train and evaluate, unless there is a row of it."""
    existing = next((row for row in finished() if (row.recipe, row.seed) == (recipe, seed)), None)
    if existing is not None:
        return existing
    name = f"seed{seed}"
    folder = arguments.runs / recipe / name
    start = time.perf_counter()
    data, backbone = f"data.root={arguments.root}", f"model.backbone_weights={arguments.backbone}"
    device = ["--device", arguments.device] if arguments.device else []
    words = [recipe, data, backbone, f"seed={seed}", *arguments.overrides]
    words += ["--resume", str(folder)] if folder.is_dir() else ["--output", str(arguments.runs), "--name", name]
    dcn("train", *words, *device)
    minutes = (time.perf_counter() - start) / 60
    metrics = json.loads(dcn("eval", str(folder), "--split", "test", "--json", *device))
    val = [row for row in read_rows(folder / "metrics.jsonl") if row["kind"] == "eval"][-1]["mIoU"]
    offsets = mean_offset(folder, arguments.root)
    row = Row(
        recipe,
        seed,
        val,
        metrics["mIoU"],
        metrics["accuracy"],
        offsets,
        round(minutes, 1),
        platform.processor() or platform.machine(),
        torch.__version__,
    )
    keep(row)
    return row


def mean_offset(folder: Path, root: Path) -> float:
    """Mean ``|offset|`` in cells of the last stage over four test images; 0 without deformable layers."""
    from dcn.runs.load import read_model

    model = read_model(folder)
    assert isinstance(model, DeepLab)
    if not any(isinstance(module, DeformConv2d) for module in model.modules()):
        return 0.0
    model.eval()
    dataset = open_dataset("camvid", root, "test")
    with torch.no_grad(), OffsetMonitor(model) as monitor:
        for quarter in range(4):
            model([dataset[quarter * len(dataset) // 4].image])
    return statistics.fmean(layer.mean for layer in monitor.report())


def table(rows: list[Row]) -> str:
    """Mean and standard deviation over the seeds of each recipe."""
    lines = ["| recipe | seeds | test mIoU | test pixel accuracy | mean offset (cells) |", "|---|---|---|---|---|"]
    for recipe in dict.fromkeys(row.recipe for row in rows):
        own = [row for row in rows if row.recipe == recipe]
        cells = [_spread([getattr(row, name) for row in own]) for name in ("test_miou", "test_accuracy")]
        offset = statistics.fmean(row.offset_pixels for row in own)
        lines.append(f"| `{recipe}` | {len(own)} | {cells[0]} | {cells[1]} | {offset:.2f} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    mean = f"{100 * statistics.fmean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder of CamVid")
    parser.add_argument("--backbone", type=Path, required=True, help="half-width ResNet-50 in the Caffe form")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--device")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes of all recipes")
    arguments = parser.parse_args()
    screened = [run(recipe, 0, arguments) for recipe in OTHERS]
    best = max(screened, key=lambda row: row.val_miou).recipe
    for seed in range(arguments.seeds):
        for recipe in (BASE, best, DEFORMABLE):
            run(recipe, seed, arguments)
    print(table(finished()))


if __name__ == "__main__":
    main()
