"""Drop-ins for other people's code: a program changes its import line and nothing else.

:mod:`dcn.compat.torchvision`, :mod:`dcn.compat.mmcv`, :mod:`dcn.compat.dcn_v2` and :mod:`dcn.compat.detectron2` have
the names, argument lists and state-dict keys of those libraries. :func:`convert` swaps such layers in a network that is
already built. :mod:`dcn.compat.layouts` names the channel orders of offsets and turns one into another.
"""

from __future__ import annotations

from dcn.compat.conversion import Conversion, convert
from dcn.compat.layouts import channel_order, convert_offsets, join_packed, split_packed

__all__ = ["Conversion", "channel_order", "convert", "convert_offsets", "join_packed", "split_packed"]
