"""Writes the tables and the picture of docs/does_it_help.md and README.md from the committed results.

python -m benchmarks.reproduce_tables           # after new rows in benchmarks/results/reproduce*.csv
python -m benchmarks.reproduce_tables --check   # exit code 1 where a page and the results differ
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dcn.reproduce.costs import read_costs, table4
from dcn.reproduce.figure import effects_figure
from dcn.reproduce.plan import read_plan
from dcn.reproduce.tables import all_tables, front_table, summary
from dcn.reproduce.written import read_results, with_region

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "reproduce.csv"
FIGURE = ROOT / "docs" / "images" / "does_it_help.png"


def pages(results_file: Path = RESULTS) -> dict[Path, str]:
    """The pages as the results make them."""
    results = read_results(read_plan(), results_file)
    help_page, readme = ROOT / "docs" / "does_it_help.md", ROOT / "README.md"
    tables = "\n".join([summary(results), *(table.markdown() for table in all_tables(results))])
    costs = table4(read_costs(results_file.with_name(f"{results_file.stem}_costs.csv")))
    front = front_table(results)
    text = with_region(help_page.read_text(encoding="utf-8"), "results", tables)
    return {
        help_page: with_region(text, "costs", "" if costs is None else costs.markdown()),
        readme: with_region(readme.read_text(encoding="utf-8"), "does it help", front.body() if front else ""),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = {path: text for path, text in pages().items() if path.read_text(encoding="utf-8") != text}
    for path, text in stale.items():
        print(f"{path.relative_to(ROOT)}: {'differs from the results' if check else 'written'}")
        if not check:
            path.write_text(text, encoding="utf-8")
    if not check:
        effects_figure(read_results(read_plan(), RESULTS), FIGURE)
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
