"""Speed of the demo's training beside programs that keep every core busy, against its speed alone.

    python -m benchmarks.threads            # the command as it is: threads wait passively
    python -m benchmarks.threads --active   # also with the wait that OpenMP takes by itself

Each line is one run of `dcn train demo_plain`; runs alternate, so that both kinds see the same machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.run import busy_cores
from dcn.demo.job import write_data
from dcn.demo.plan import Plan
from dcn.engine.log import read_rows
from dcn.threads import COUNT_KEYS, WAIT_KEYS, available_cores

# libgomp's own number of turns before a thread sleeps, where no policy is set.
ACTIVE = {"GOMP_SPINCOUNT": "300000"}
WARM_UP = 2


def speed(data: Path, output: Path, steps: int, environment: dict[str, str]) -> float:
    """Images per second of one training, the median over its steps."""
    name = str(len(list(output.glob("demo_plain/*"))))
    changes = [f"data.root={data}", f"schedule.steps={steps}", "schedule.warmup.steps=2", "schedule.milestones="]
    changes += ["eval.images=1", "eval.pictures=0", "log_every=1"]
    command = [sys.executable, "-m", "dcn", "train", "demo_plain", "--output", str(output), "--name", name, *changes]
    own = {key: value for key, value in os.environ.items() if key not in (*WAIT_KEYS, *COUNT_KEYS)}
    subprocess.run([*command, "--device", "cpu"], env=own | environment, check=True, stderr=subprocess.DEVNULL)
    rows = read_rows(output / "demo_plain" / name / "metrics.jsonl")
    return statistics.median(
        row["images_per_second"] for row in rows if row["kind"] == "train" and row["step"] > WARM_UP
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8, help="steps of each run (default 8)")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each kind (default 2)")
    parser.add_argument("--busy", type=int, default=available_cores(), help="busy loops (default: one for each core)")
    parser.add_argument("--active", action="store_true", help="also measure an active wait; takes minutes")
    arguments = parser.parse_args()
    alone, beside = [], []
    with tempfile.TemporaryDirectory() as folder:
        data, output = Path(folder) / "data", Path(folder) / "runs"
        write_data(data, Plan({"train": 64, "val": 2, "test": 2}))
        for _ in range(arguments.rounds):
            alone.append(speed(data, output, arguments.steps, {}))
            with busy_cores(arguments.busy):
                beside.append(speed(data, output, arguments.steps, {}))
            print(f"alone {alone[-1]:.2f} images/s, beside {arguments.busy} busy loops {beside[-1]:.2f}", flush=True)
        share = statistics.median(beside) / statistics.median(alone)
        print(f"passive wait: {share:.0%} of the undisturbed speed on {available_cores()} cores")
        if arguments.active:
            with busy_cores(arguments.busy):
                active = speed(data, output, WARM_UP + 2, ACTIVE)
            print(f"active wait: {active:.2f} images/s, {active / statistics.median(alone):.0%}")


if __name__ == "__main__":
    main()
