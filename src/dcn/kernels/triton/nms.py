"""Non-maximum suppression in Triton: three launches beside the sorting, nothing waits for the device.

The pairs that overlap are found by all multiprocessors and packed into words of 64 bits; one program per label then
walks over them. Memory: ``N * N / 8`` bytes per set of ``N`` boxes (18 MB for 12,000).
"""

from __future__ import annotations

import torch
from torch import Tensor

from dcn.kernels.reference.nms import sort_scores
from dcn.kernels.triton import _runtime
from dcn.kernels.triton._numbers import bits_of

_WORD = 64
_ROWS = 16
"""Boxes of a block of 64 that one program compares with others. On sm_90 they take 62 registers per thread and 40
instructions per pair."""
_SPLIT, _BLOCKS = 8, 2048
"""Programs that share these others, at most, and so few that ``_BLOCKS`` blocks of boxes times programs suffice: 12,000
boxes make 188 blocks and 6016 programs; of 640 sets of 1000 boxes, hardly any valid, 41,000 look once and end."""
_CHUNKS = (16, 128)
"""Words that the scan reads at a time, each of 64 boxes: the first that suffices. 128 threads, 64 words each."""
_MEMORY = 1 << 31
"""Bytes of packed overlaps at a time, as long as one set takes no more."""
_MOST_SETS = 65535
"""Sets at a time: the second and third axes of a CUDA grid have no more locations."""
_LARGEST = 1 << 18
"""Boxes of one set: their overlaps take 8 GB."""


def unsupported(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    threshold: float,
    plus_one: bool,
    suppress_equal: bool,
    most: int,
) -> str | None:
    """Why Triton cannot compute this call, or ``None``."""
    if boxes.shape[-2] > _LARGEST:
        return f"it takes {_LARGEST} boxes at most, got {boxes.shape[-2]}"
    return _runtime.reason(boxes, scores, labels)


def forward(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    threshold: float,
    plus_one: bool,
    suppress_equal: bool,
    most: int,
) -> Tensor:
    """Indices ``[K]`` of the boxes kept, best first; arguments as in the reference. Their number is waited for."""
    order = sort_scores(scores)
    stop = most if most >= 0 and labels is None else scores.shape[0]
    classes = None if labels is None else labels[None]
    stays = _keep(boxes[None], order[None], classes, None, threshold, plus_one, suppress_equal, stop)[0]
    kept = order[stays[order]]
    return kept[:most] if most >= 0 else kept


def keep(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor | None,
    valid: Tensor | None,
    threshold: float,
    plus_one: bool,
    suppress_equal: bool,
) -> Tensor:
    """``[B, N]`` bool: which boxes of each of ``B`` sets stay; arguments as in the reference. Nothing is waited for."""
    return _keep(boxes, sort_scores(scores), labels, valid, threshold, plus_one, suppress_equal, scores.shape[1])


def _keep(
    boxes: Tensor,
    order: Tensor,
    labels: Tensor | None,
    valid: Tensor | None,
    threshold: float,
    plus_one: bool,
    suppress_equal: bool,
    most: int,
) -> Tensor:
    """:func:`keep` for an ``order [B, N]`` of descending score; may leave out survivors after the first ``most``."""
    sets, count = order.shape
    stays = torch.zeros((sets, count), dtype=torch.bool, device=boxes.device)
    if not order.numel():
        return stays
    if labels is not None:
        # Equal labels side by side: only they are compared, and each label's walk is a program of its own.
        order = order.gather(1, labels.gather(1, order).argsort(dim=1, stable=True))
        labels = labels.gather(1, order)
    dtype = torch.float64 if boxes.dtype == torch.float64 else torch.float32
    locations = boxes.to(dtype).gather(1, order[..., None].expand(-1, -1, 4))
    usable = None if valid is None else valid.gather(1, order)
    decided = torch.zeros_like(stays)
    words = -(-count // _WORD)
    step = min(max(1, _MEMORY // (words * words * _WORD * 8)), _MOST_SETS)
    for begin in range(0, sets, step):
        part = slice(begin, begin + step)
        _launch(
            locations[part],
            None if labels is None else labels[part],
            None if usable is None else usable[part],
            decided[part],
            (threshold, plus_one, suppress_equal, most),
        )
    return stays.scatter(1, order, decided)


def chunk_of(words: int) -> int:
    """How many words the scan reads at a time."""
    return next((chunk for chunk in _CHUNKS if words <= chunk), _CHUNKS[-1])


def _launch(
    boxes: Tensor, labels: Tensor | None, valid: Tensor | None, keep: Tensor, rule: tuple[float, bool, bool, int]
) -> None:
    """Both kernels on sorted boxes; ``keep`` is zeros and receives the answer."""
    from dcn.kernels.triton import _nms_kernels as kernels

    threshold, plus_one, suppress_equal, most = rule
    sets, count, _ = boxes.shape
    words = -(-count // _WORD)
    bits = torch.empty((sets, words * _WORD, words), dtype=torch.int64, device=boxes.device)
    dropped = torch.zeros((sets, words), dtype=torch.int64, device=boxes.device)
    by_label = labels is not None
    split = max(1, min(_SPLIT, words, _BLOCKS // (sets * words)))
    # Without labels (validity) the kernels get any pointer in their location and do not read it.
    classes, usable = dropped if labels is None else labels, keep if valid is None else valid
    with _runtime.launching(boxes, lambda: f"nms of {sets} x {count} boxes"):
        chosen = (by_label, valid is not None)
        kernels.overlap_bits[(words, _WORD // _ROWS * split, sets)](
            boxes,
            classes,
            usable,
            bits_of(threshold),
            bits,
            count,
            words,
            split,
            int(plus_one),
            *(*chosen, suppress_equal, _ROWS),
            enable_fp_fusion=False,
        )
        kernels.scan[(words if by_label else 1, sets)](
            *(bits, classes, usable, dropped, keep, count, words, most),
            *(*chosen, most < count, chunk_of(words)),
        )
