"""The checks of :mod:`dcn.checks` under their earlier name."""

from dcn.checks import *  # noqa: F403
