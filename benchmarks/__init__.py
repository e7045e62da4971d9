"""Measurements: `python -m benchmarks.run --help`; the tables of the docs come from `python -m benchmarks.table`."""
