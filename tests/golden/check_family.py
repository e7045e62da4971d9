"""Compare every backend with golden files of the later deformable operators.

    python tests/golden/check_family.py FILE.npz...

A file's kind follows from its name. For each array of each file the largest error of each backend and type is printed,
as a share of the array's largest entry (at least 1); the exit code is 1 if one is beyond its type's limit. Modules are
loaded through the state-dict keys of the originals.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from tests.golden import family_dcnv3, family_deform_conv_transpose, family_ms_deform_attn  # noqa: E402
from tests.golden.family_dcnv3 import LIMITS, Finding, read  # noqa: E402

# A row per family of operators; its KINDS go from the prefix of a file's name to what compares such a file.
KINDS = (*family_dcnv3.KINDS, *family_ms_deform_attn.KINDS, *family_deform_conv_transpose.KINDS)


def check(path: Path) -> list[Finding]:
    """All findings of one file.

    Raises:
        ValueError: the name is of no known kind.
    """
    for prefix, compare in KINDS:
        if path.name.startswith(prefix):
            data = read(path)
            return list(compare(data, json.loads(str(data.pop("meta")))))
    raise ValueError(f"{path}: expected a name that begins with one of {[prefix for prefix, _ in KINDS]}")


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.npz")
    failed = 0
    for path in parser.parse_args(arguments).files:
        for finding in check(path):
            failed += finding.bad
            kind = str(finding.dtype).removeprefix("torch.")
            verdict = "FAIL" if finding.bad else "ok"
            print(f"{path.name:32s} {finding.backend:10s} {kind:8s} {finding.name:40s} {finding.error:9.2e}  {verdict}")
    limits = ", ".join(f"{limit:g} in {str(dtype).removeprefix('torch.')}" for dtype, limit in LIMITS.items())
    print(f"{failed} beyond {limits}" if failed else f"all within {limits}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
