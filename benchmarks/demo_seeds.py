"""The demo over several seeds: what deformable gains over plain, seed by seed.

    python -m benchmarks.demo_seeds --output runs/demo_seeds

Each seed is one ``dcn demo --seed N``. Rows that the file has are not made again.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from dcn.demo.plan import MODELS, Metrics, SeedResult

CSV = Path(__file__).parent / "results" / "demo.csv"
COLUMNS = ("seed", *(f"{model} {name}" for model in MODELS for name in Metrics._fields), "seconds")


def main() -> int:
    """Run the seeds that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/demo_seeds"), help="folder of the demos")
    parser.add_argument("--csv", type=Path, default=CSV, help="file of the rows")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)), help="default 0 to 4")
    arguments = parser.parse_args()
    known = {run.seed for run in read(arguments.csv)} if arguments.csv.is_file() else set()
    for seed in arguments.seeds:
        if seed in known:
            continue
        output = arguments.output / str(seed)
        command = [sys.executable, "-m", "dcn", "demo", "--seed", str(seed), "--output", str(output)]
        subprocess.run(command, check=True)
        _append(arguments.csv, seed, json.loads((output / "demo.json").read_text()))
    for run in read(arguments.csv):
        print(f"seed {run.seed}: plain {_text(run.plain)}, deformable {_text(run.deformable)}")
    return 0


def read(path: Path) -> list[SeedResult]:
    """The rows of a file of this program."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        SeedResult(
            int(row["seed"]),
            *(Metrics(*(float(row[f"{model} {name}"]) for name in Metrics._fields)) for model in MODELS),
        )
        for row in rows
    ]


def _append(path: Path, seed: int, result: dict[str, Any]) -> None:
    new = not path.is_file()
    models = [result["models"][model] for model in MODELS]
    values = [number for one in models for number in (one["coco"]["AP"], one["voc"]["AP50"], one["voc"]["AP70"])]
    seconds = sum(float(part) for part in result["seconds"].values())
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        writer.writerow([seed, *(f"{value:.4f}" for value in values), f"{seconds:.0f}"])


def _text(metrics: Metrics) -> str:
    return f"AP {metrics.ap:.3f}, AP50 {metrics.ap50:.3f}, AP70 {metrics.ap70:.3f}"


if __name__ == "__main__":
    raise SystemExit(main())
