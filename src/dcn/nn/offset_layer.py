"""What the tools that look at offsets ask of a layer, whichever library its form comes from."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class OffsetLayer(Protocol):
    """A deformable convolution that predicts its own offsets.

    The layers of :mod:`dcn.nn` and the drop-ins of :mod:`dcn.compat` that have an offset branch are such layers. So is
    any module with these attributes: :class:`dcn.nn.OffsetMonitor` and :func:`dcn.vis.record_offsets` see it too.
    """

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Taps along each axis; the next three have one number for each axis too."""

    @property
    def stride(self) -> tuple[int, ...]:
        """Step of the output locations."""

    @property
    def padding(self) -> tuple[int, ...]:
        """Padding in front of the map."""

    @property
    def dilation(self) -> tuple[int, ...]:
        """Distance of the taps."""

    @property
    def offset_groups(self) -> int:
        """Parts of the channels that move on their own."""

    @property
    def boundary(self) -> str:
        """The rule at the edge of the map, ``"v1"`` or ``"v2"``."""

    @property
    def offset_branch(self) -> nn.Module:
        """The module whose output :meth:`split` takes; the layer calls it in its forward pass."""

    def split(self, predicted: Tensor) -> tuple[Tensor, Tensor | None]:
        """Offset ``[N, n*G*K, *out]`` and mask ``[N, G*K, *out]``, if any, from the output of :attr:`offset_branch`."""
