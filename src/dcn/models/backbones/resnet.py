"""ResNet and ResNeXt: plain, dilated, deformable, in every variant that the published detectors use.

Parameter names are torchvision's (``layer1.0.conv2.weight``), so checkpoints of the later model zoos load by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from dcn.models.backbones.freezing import NormRule
from dcn.models.backbones.stages import FourStages

ConvFactory = Callable[..., nn.Module]
"""Makes a convolution from ``(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)``."""

Style = Literal["caffe", "pytorch"]

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def deformable_positions(names: Collection[str], blocks: Sequence[int]) -> frozenset[tuple[int, int]]:
    """What ``"c4"`` (a whole stage) and ``"c4.22"`` (one block, counted from 0) stand for.

    Args:
        names: any of those, stages ``c2`` to ``c5``.
        blocks: number of blocks of each of the four stages.

    Returns:
        Pairs ``(stage, block)`` with stage ``2 .. 5``.

    Raises:
        ValueError: for a name of another form, or a block that the stage does not have.
    """
    counts = {f"c{stage}": count for stage, count in enumerate(blocks, start=2)}
    positions: set[tuple[int, int]] = set()
    for name in names:
        stage, _, block = name.partition(".")
        valid = stage in counts and (not block or (block.isdecimal() and int(block) < counts[stage]))
        if not valid:
            raise ValueError(
                f"deform_layers: expected stages c2 to c5 or single blocks such as 'c5.2' "
                f"(this model has {counts}), got {name!r}"
            )
        chosen = range(counts[stage]) if not block else [int(block)]
        positions.update((int(stage[1:]), index) for index in chosen)
    return frozenset(positions)


def _downsample(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (ResNet-18/34); the second is the one that may be deformable."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, dilation: int, conv3x3: ConvFactory
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = conv3x3(out_channels, out_channels, 3, 1, dilation, dilation, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in_channels, H, W]`` to ``[N, out_channels, H / stride, W / stride]``."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)).add_(shortcut))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 (ResNet-50 and deeper, ResNeXt); the 3x3 is the one that may be deformable.

    ``style`` says which convolution carries the stride: the first 1x1 (``"caffe"``) or the 3x3 (``"pytorch"``).
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        out_channels: int,
        *,
        stride: int,
        dilation: int,
        groups: int,
        style: Style,
        conv3x3: ConvFactory,
    ) -> None:
        super().__init__()
        stride1, stride2 = (stride, 1) if style == "caffe" else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, width, 1, stride1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, 3, stride2, dilation, dilation, groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, in_channels, H, W]`` to ``[N, out_channels, H / stride, W / stride]``."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)).add_(shortcut))


class ResNet(FourStages):
    """A residual network that returns the outputs ``(C2, C3, C4, C5)`` of its four stages.

    Args:
        depth: 18, 34, 50 or 101.
        width: factor on the channels of the stages (not of the stem).
        stem_channels: channels after the first convolution.
        cardinality: groups of the 3x3 convolutions and their base width (ResNeXt-32x4d: ``(32, 4)``); several groups
            only with bottleneck blocks.
        style: where the stride of a stage sits: ``"caffe"``, the first 1x1; ``"pytorch"``, the 3x3.
        pool: max pooling 3x3, stride 2, after the stem: ``"floor"`` with padding 1, ``"ceil"`` without padding and
            with partly covered windows at the right and bottom (Caffe, MXNet's "full").
        c5_dilation: above 1, stage 5 has stride 1 and this dilation, so that C5 has stride 16 (R-FCN, DeepLab: 2).
        deform: which 3x3 convolutions are deformable, and what makes them: ``(stage 2 .. 5, block)`` to, for example,
            ``partial(DeformConv2d, modulated=True)``; for the positions see :func:`deformable_positions`.
        norm: ``"eval"``: running statistics are fixed, scale and shift are trained (mmdetection); ``"frozen"``: all
            fixed (the original code); ``"train"``: ordinary batch norm (training from scratch).
        frozen_stages: 0 trains everything; ``n`` fixes the stem and the first ``n`` of the four stages.

    Raises:
        ValueError: for an unknown depth, style, pool or norm, or ``frozen_stages`` outside ``0 .. 4``.
    """

    def __init__(
        self,
        depth: int,
        *,
        width: float = 1.0,
        stem_channels: int = 64,
        cardinality: tuple[int, int] = (1, 64),
        style: Style = "pytorch",
        pool: Literal["floor", "ceil"] = "floor",
        c5_dilation: int = 1,
        deform: Mapping[tuple[int, int], ConvFactory] | None = None,
        norm: NormRule = "eval",
        frozen_stages: int = 1,
    ) -> None:
        super().__init__()
        _check_choice("depth", depth, BLOCKS)
        _check_choice("style", style, ("caffe", "pytorch"))
        _check_choice("pool", pool, ("floor", "ceil"))
        _check_choice("norm", norm, ("eval", "frozen", "train"))
        _check_choice("frozen_stages", frozen_stages, range(5))
        groups, base_width = cardinality
        if depth < 50 and groups != 1:
            raise ValueError(f"groups: ResNet-{depth} has no bottleneck blocks, expected groups=1, got {groups}")
        self.norm, self.frozen_stages, self.style, self.pool = norm, frozen_stages, style, pool
        self.depth, self.width, self.groups, self.base_width = depth, width, groups, base_width
        self.c5_dilation, self.deform = c5_dilation, dict(deform or {})

        self.conv1 = nn.Conv2d(3, stem_channels, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem_channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 0, ceil_mode=True) if pool == "ceil" else nn.MaxPool2d(3, 2, 1)
        self.out_channels = [int(64 * width * 2**i) * (4 if depth >= 50 else 1) for i in range(4)]
        self.strides = (4, 8, 16, 16 if c5_dilation > 1 else 32)
        self._check_channels()
        inputs = [stem_channels, *self.out_channels[:3]]
        self.layer1, self.layer2, self.layer3, self.layer4 = (self._stage(i + 2, inputs[i]) for i in range(4))
        self._begin()

    def _stage(self, stage: int, in_channels: int) -> nn.Sequential:
        stride, dilation = (1 if stage == 2 else 2), 1
        if stage == 5 and self.c5_dilation > 1:
            stride, dilation = 1, self.c5_dilation
        out_channels = self.out_channels[stage - 2]
        blocks: list[nn.Module] = []
        for index in range(BLOCKS[self.depth][stage - 2]):
            conv3x3 = self.deform.get((stage, index), nn.Conv2d)
            blocks.append(self._block(stage, in_channels, stride if index == 0 else 1, dilation, conv3x3))
            in_channels = out_channels
        return nn.Sequential(*blocks)

    def _block_width(self, stage: int) -> int:
        """Channels of the 3x3 convolutions of a stage."""
        planes = self.out_channels[stage - 2] // (4 if self.depth >= 50 else 1)
        return planes if self.groups == 1 else int(planes * self.base_width / 64) * self.groups

    def _check_channels(self) -> None:
        if self._block_width(2) < 1:
            raise ValueError(
                f"width: expected {self._least_width():g} or more with {self.groups} groups of base_width "
                f"{self.base_width}, got {self.width:g}, which leaves no channels for the 3x3 convolutions of stage c2"
            )

    def _least_width(self) -> float:
        """The width at which every group of stage c2 has one channel."""
        return 1 / 64 if self.groups == 1 else max(1 / self.base_width, 1 / 64)

    def _block(self, stage: int, in_channels: int, stride: int, dilation: int, conv3x3: ConvFactory) -> nn.Module:
        out_channels = self.out_channels[stage - 2]
        if self.depth < 50:
            return BasicBlock(in_channels, out_channels, stride=stride, dilation=dilation, conv3x3=conv3x3)
        return Bottleneck(
            in_channels,
            self._block_width(stage),
            out_channels,
            stride=stride,
            dilation=dilation,
            groups=self.groups,
            style=self.style,
            conv3x3=conv3x3,
        )


def _check_choice(name: str, value: object, choices: Collection[object]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(str, choices))}, got {value!r}")
