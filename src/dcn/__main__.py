"""``python -m dcn``: the command line."""

from __future__ import annotations

import sys

from dcn.cli.main import main

sys.exit(main())
