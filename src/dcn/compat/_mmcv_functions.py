"""Functions of mmcv that other programs need beside the deformable ones: masked convolution and focal loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dcn.compat._layers import Refused, Size, pair


def masked_conv2d(
    features: Tensor, mask: Tensor, weight: Tensor, bias: Tensor, padding: Size = 0, stride: Size = 1
) -> Tensor:
    """``mmcv.ops.masked_conv2d``: a convolution whose output is 0 where the mask is not above 0 (guided anchoring).

    Args:
        features: ``[1, C, H, W]``.
        mask: ``[1, H_out, W_out]``.
        weight: ``[O, C, kh, kw]``.
        bias: ``[O]``.
        padding: an int or ``(y, x)``.
        stride: an int or ``(y, x)``; must be 1, as in mmcv.

    Raises:
        ValueError: (also an ``AssertionError``) an argument does not fit; the message names it.
    """
    if pair("stride", stride) != (1, 1):
        raise Refused(f"stride: expected 1, got {stride!r}")
    output = F.conv2d(features, weight, bias, padding=pair("padding", padding))
    if mask.ndim != 3 or mask.shape[0] != output.shape[0] or mask.shape[1:] != output.shape[2:]:
        raise Refused(
            f"mask: expected {[output.shape[0], *output.shape[2:]]}, the size of the output, got {list(mask.shape)}"
        )
    return output.masked_fill(mask[:, None] <= 0, 0.0)


def sigmoid_focal_loss(
    input: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    alpha: float = 0.25,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """``mmcv.ops.sigmoid_focal_loss`` (Lin et al. 2017, equation 5), with gradients.

    Args:
        input: logits ``[N, C]``.
        target: ``[N]`` int64, the class of each row; ``C`` is background.
        gamma: exponent of the error.
        alpha: weight of the target's logit; the others have ``1 - alpha``.
        weight: ``[C]``, of the rows of each class; rows of background count once.
        reduction: ``"none"`` (``[N, C]``), ``"mean"`` (the sum divided by ``N``) or ``"sum"``.

    Raises:
        ValueError: (also an ``AssertionError``) an argument does not fit; the message names it.
    """
    if input.ndim != 2 or target.shape != input.shape[:1] or target.dtype != torch.int64:
        raise Refused(
            f"input, target: expected [N, C] and [N] int64, got shapes {list(input.shape)} and {list(target.shape)} "
            f"{target.dtype}"
        )
    if reduction not in ("none", "mean", "sum"):
        raise Refused(f"reduction: expected 'none', 'mean' or 'sum', got {reduction!r}")
    logits = input.float()
    own = F.one_hot(target, input.shape[1] + 1)[:, :-1].bool()
    # The logit of what is true: how far off a prediction is, and its logarithm, follow from it.
    true = torch.where(own, logits, -logits)
    loss = -F.logsigmoid(true) * torch.sigmoid(-true).pow(gamma) * torch.where(own, alpha, 1 - alpha)
    if weight is not None:
        loss = loss * F.pad(weight.to(loss), (0, 1), value=1.0)[target][:, None]
    loss = loss.to(input.dtype)
    return loss if reduction == "none" else loss.sum() / (len(input) if reduction == "mean" else 1)
