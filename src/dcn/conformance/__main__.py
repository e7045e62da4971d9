"""``python -m dcn.conformance``: print which rules an implementation follows."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from dcn.conformance.implementations import NAMES
from dcn.conformance.processes import findings

_MARKS = {True: "ok", False: "NO", None: "--"}


def main(arguments: list[str] | None = None) -> int:
    """The command; returns 1 if the implementation departs from a rule, 2 if it cannot be loaded."""
    parser = argparse.ArgumentParser(prog="python -m dcn.conformance", description="Which rules of the operators hold.")
    parser.add_argument("--implementation", required=True, metavar="|".join(NAMES))
    parser.add_argument("--large", action="store_true", help="also ask what needs 30 GB of memory")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    try:
        results = findings(options.implementation, large=options.large)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if options.json:
        sys.stdout.write(json.dumps([asdict(finding) for finding in results], indent=1) + "\n")
    else:
        width = max(len(finding.rule) for finding in results)
        sys.stdout.writelines(f"{_MARKS[f.ok]} {f.rule:{width}s} {f.answer}\n" for f in results)
    return 1 if any(finding.ok is False for finding in results) else 0


if __name__ == "__main__":
    sys.exit(main())
