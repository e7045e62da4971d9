"""Kernels of greedy and of soft suppression, for boxes sorted by label and then by score.

Greedy: :func:`overlap_bits` compares all pairs that share a label and packs the answers, 64 to a word; :func:`scan`
walks over blocks of 64 boxes, decides each from what earlier blocks left and hands its survivors' words on. Arithmetic
is that of the reference, rounding for rounding (no fused multiply-add, true division), so that both decide in the same
way on a tie.

Parameters (``S`` sets of ``N`` boxes, ``W`` words of 64 boxes):
    boxes, labels, valid          [S, N, 4] xyxy; [S, N] int64; [S, N] bool; any pointer where there is none
    bits, dropped, keep           [S, 64*W, W] and [S, W] int64, what each box drops, what is dropped; [S, N] bool
    count, words                  N and W
    threshold_bits, sigma_bits, least_bits   numbers as their bits
    split                         programs that share the words of a row
    extra                         1 where a box of equal corners is one pixel wide, else 0
    most                          survivors after which a program may stop
    left, ends, chosen, values    of :func:`soft`, see there
    LABELS, VALID, LIMITED        whether there are labels, a mask, a limit
    EQUAL                         an overlap of exactly the threshold drops too
    ROWS, CHUNK                   rows of a program; words or boxes at a time
"""

from __future__ import annotations

import triton
import triton.language as tl

from dcn.kernels.triton._arithmetic import divide, finite, number

BLOCK = tl.constexpr(64)


@triton.jit
def overlap(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2, extra):
    """Intersection over union, in the order of operations of the reference; NaN where the boxes have no such number."""
    width = tl.maximum(tl.minimum(ax2, bx2) - tl.maximum(ax1, bx1) + extra, 0.0)
    height = tl.maximum(tl.minimum(ay2, by2) - tl.maximum(ay1, by1) + extra, 0.0)
    shared = width * height
    first = (ax2 - ax1 + extra) * (ay2 - ay1 + extra)
    second = (bx2 - bx1 + extra) * (by2 - by1 + extra)
    return divide(shared, first + second - shared)


@triton.jit
def _load_boxes(boxes, index, inside):
    """The four corners of some boxes ``[N, 4]``; NaN, which overlaps nothing, where not ``inside``."""
    at = boxes + index * 4
    nan = float("nan")
    return (
        tl.load(at, mask=inside, other=nan),
        tl.load(at + 1, mask=inside, other=nan),
        tl.load(at + 2, mask=inside, other=nan),
        tl.load(at + 3, mask=inside, other=nan),
    )


@triton.jit
def _or(a, b):
    return a | b


@triton.jit(do_not_specialize=["threshold_bits", "count", "words", "split", "extra"])
def overlap_bits(
    boxes,
    labels,
    valid,
    threshold_bits,
    bits,
    count,
    words,
    split,
    extra,
    LABELS: tl.constexpr,
    VALID: tl.constexpr,
    EQUAL: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Bit ``c`` of ``bits[set, r, j]``: whether box ``r``, if it stays, drops the later box ``64 j + c``.

    A program does ``ROWS`` rows of a block ``i`` of 64 of one set and every ``split``-th word ``j >= i``, as far as the
    block's last label reaches; words beyond are not written, nor those of rows none of which is valid.
    """
    own, group = tl.program_id(0), tl.program_id(2).to(tl.int64)
    row = own * BLOCK + tl.program_id(1) // split * ROWS + tl.arange(0, ROWS)
    part = tl.program_id(1) % split
    boxes += group * count * 4
    labels += group * count
    bits += (group * words * BLOCK + row) * words
    limit = number(threshold_bits, boxes.dtype.element_ty)
    word = own + part
    if LABELS:
        label = tl.load(labels + row, mask=row < count, other=0)  # [ROWS]
        last = tl.load(labels + tl.minimum(own * BLOCK + BLOCK, count) - 1)
        # Sorted by label: the first later word that does not begin with this block's last label ends its reach.
        begins = tl.load(labels + tl.minimum(word * BLOCK, count - 1))
        word = tl.where((part == 0) | (begins == last), word, words)
    if VALID:
        # Boxes below a threshold are most of a detector's: their programs end here.
        usable = tl.load(valid + group * count + row, mask=row < count, other=0)  # [ROWS]
        word = tl.where(tl.max(usable.to(tl.int32), 0) > 0, word, words)
    x1, y1, x2, y2 = _load_boxes(boxes, row, row < count)
    # Halves of 32 bits: a lane has a column of all rows, and one instruction adds a word up over a warp.
    lanes = tl.arange(0, 32)
    bit = tl.full((32,), 1, tl.int32) << lanes
    halves = bits.to(tl.pointer_type(tl.int32), bitcast=True)
    while word < words:
        for half in tl.static_range(2):
            column = word * BLOCK + half * 32 + lanes
            u1, v1, u2, v2 = _load_boxes(boxes, column, column < count)
            shared = overlap(
                x1[:, None], y1[:, None], x2[:, None], y2[:, None], u1[None], v1[None], u2[None], v2[None], extra
            )
            drops = shared >= limit if EQUAL else shared > limit
            drops = drops & (row[:, None] < column[None])
            if LABELS:
                drops = drops & (label[:, None] == tl.load(labels + column, mask=column < count, other=0)[None])
            tl.store(halves + word * 2 + half, tl.sum(tl.where(drops, bit[None], 0), 1))
        word += split
        if LABELS:
            begins = tl.load(labels + tl.minimum(word * BLOCK, count - 1))
            word = tl.where(begins == last, word, words)


@triton.jit
def _word(low, high):
    """Two words of 32 bits as one of 64."""
    return (low.to(tl.int64) & 0xFFFFFFFF) | (high.to(tl.int64) << 32)


@triton.jit
def _settle(low_drops, high_drops, undecided, lanes):
    """Which of the 64 boxes of a block stay, as a word.

    Greedy suppression is the only set ``stays`` with ``stays = undecided - dropped by stays``, as a box is only dropped
    by those before it. So it is found by repeating that until nothing changes: one step more than the longest chain of
    boxes that drop each other, 2 to 6 mostly, not 64.

    Args:
        low_drops: ``[32]``, what the first 32 boxes drop in the block; a warp has all of them, so that nothing waits
            for another.
        high_drops: ``[32]``, the same of the others.
        undecided: those that may stay.
        lanes: 0 to 31.
    """
    stays = undecided
    before = ~undecided
    while stays != before:
        before = stays
        found = tl.where(((stays >> lanes) & 1) != 0, low_drops, 0)
        found |= tl.where(((stays >> (lanes + 32)) & 1) != 0, high_drops, 0)
        low, high = tl.reduce(found.to(tl.int32), 0, _or), tl.reduce((found >> 32).to(tl.int32), 0, _or)
        stays = undecided & ~_word(low, high)
    return stays


@triton.jit
def _mine(box, labels, valid, count, begins, before, last, LABELS: tl.constexpr, VALID: tl.constexpr):
    """Whether a program decides about some boxes of a block: labels that begin in it, or go on if not ``begins``."""
    mine = box < count
    if LABELS:
        label = tl.load(labels + box, mask=mine, other=0)  # [32]
        mine = mine & tl.where(begins, (label != before) | (box < BLOCK), label == last)
    if VALID:
        mine = mine & (tl.load(valid + box, mask=box < count, other=0) != 0)
    return mine


@triton.jit(do_not_specialize=["count", "words", "most"])
def scan(
    bits,
    labels,
    valid,
    dropped,
    keep,
    count,
    words,
    most,
    LABELS: tl.constexpr,
    VALID: tl.constexpr,
    LIMITED: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Decide which boxes stay: ``keep[set, N]``, from :func:`overlap_bits`.

    A program owns the labels that begin in its block and follows the last of them into the blocks after; without labels
    only the first has work. ``dropped[set, words]`` (zeros) collects what survivors drop in later blocks. A word of it
    is written by one program only, the owner of the label that its block begins with; the program of that block may
    read the word meanwhile, but looks only at bits of labels of its own, which nobody else sets. ``keep`` comes as
    zeros. ``LIMITED``: a program may stop after ``most`` survivors.
    """
    first, group = tl.program_id(0), tl.program_id(1).to(tl.int64)
    bits += group * words * BLOCK * words
    labels += group * count
    valid += group * count
    dropped += group * words
    keep += group * count
    lanes = tl.arange(0, 32)
    wide, bit = lanes.to(tl.int64), tl.full((32,), 1, tl.int32) << lanes
    block = first
    last = tl.full((), 0, tl.int64)
    before = last
    if LABELS:
        before = tl.load(labels + tl.maximum(first * BLOCK - 1, 0))
        last = tl.load(labels + tl.minimum(first * BLOCK + BLOCK, count) - 1)
        # Sorted: a block that ends with the label that came before it lies within that label, and owns nothing.
        block = tl.where((first == 0) | (last != before), first, words)
    found = 0
    while block < words:
        box = block * BLOCK + lanes
        low = _mine(box, labels, valid, count, block == first, before, last, LABELS, VALID)
        high = _mine(box + 32, labels, valid, count, block == first, before, last, LABELS, VALID)
        # Of rows that are not mine nothing need have been written.
        drops = bits + box.to(tl.int64) * words + block
        low_drops = tl.load(drops, mask=low, other=0)  # [32]
        high_drops = tl.load(drops + 32 * words, mask=high, other=0)  # [32]
        mine = _word(tl.sum(tl.where(low, bit, 0), 0), tl.sum(tl.where(high, bit, 0), 0))
        stays = _settle(low_drops, high_drops, mine & ~tl.load(dropped + block), wide)
        low, high = low & (((stays >> wide) & 1) != 0), high & (((stays >> (wide + 32)) & 1) != 0)
        tl.store(keep + box, low, mask=low)
        tl.store(keep + box + 32, high, mask=high)
        block += 1
        follows = block < words
        if LABELS:
            follows = follows & (tl.load(labels + tl.minimum(block * BLOCK, count - 1)) == last)
        if LIMITED:
            # Survivors of all labels count: beyond `most` the caller cuts, here it only ends the walk.
            found += tl.sum(low.to(tl.int32) + high.to(tl.int32), 0)
            follows = follows & (found < most)
        if follows & (stays != 0):
            rows = bits + (block - 1).to(tl.int64) * BLOCK * words
            _hand_on(rows, stays, labels, dropped, block, last, count, words, LABELS, CHUNK)
        block = tl.where(follows, block, words)


@triton.jit
def _hand_on(rows, stays, labels, dropped, begin, last, count, words, LABELS: tl.constexpr, CHUNK: tl.constexpr):
    """Mark in ``dropped`` what the survivors ``stays`` of a block, whose ``rows`` these are, drop from ``begin`` on.

    A thread has one word of all rows, whose loads are under way together, 32 at a time.
    """
    while begin < words:
        word = begin + tl.arange(0, CHUNK)
        reached = word < words
        if LABELS:
            reached = reached & (tl.load(labels + word * BLOCK, mask=reached, other=0) == last)
        drops = tl.load(dropped + word, mask=reached, other=0)  # [CHUNK]
        for half in tl.static_range(2):
            row = half * 32 + tl.arange(0, 32)
            kept = ((stays >> row.to(tl.int64)) & 1) != 0
            wanted = kept[:, None] & reached[None]
            read = tl.load(rows + (row[:, None] * words + word[None]), mask=wanted, other=0)  # [32, CHUNK]
            drops |= tl.reduce(read, 0, _or)
        tl.store(dropped + word, drops, mask=reached)
        begin += CHUNK
        if LABELS:
            begins = tl.load(labels + tl.minimum(begin * BLOCK, count - 1))
            begin = tl.where(begins == last, begin, words)
    # The next block reads what other threads of this program have written.
    tl.debug_barrier()


@triton.jit(do_not_specialize=["sigma_bits", "threshold_bits", "least_bits", "steps", "extra"])
def soft(
    boxes,
    left,
    labels,
    ends,
    chosen,
    values,
    sigma_bits,
    threshold_bits,
    least_bits,
    steps,
    extra,
    GAUSSIAN: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Soft suppression of one label per program, for boxes ``[N, 4]`` sorted by label.

    A program whose box is the first of its label selects up to ``steps`` of that label's boxes: the ``t``-th goes to
    location ``begin + t`` of ``chosen`` (index of the box) and ``values`` (its score then); other programs end at once.

    Args:
        boxes: sorted boxes.
        left: ``[N]`` scores, -infinity where a box cannot be selected; changed in place.
        labels: ``[N]`` labels in order.
        ends: ``[N]`` int64, one past the last box of each box's label.
        chosen: ``[N]`` int64.
        values: ``[N]``, full of -infinity.
        sigma_bits: width of the Gaussian.
        threshold_bits: overlap above which the linear rule acts.
        least_bits: score below which nothing is selected.
        steps: most selections per label.
        extra: 1 where a box of equal corners is one pixel wide, else 0.
        GAUSSIAN: the rule.
        CHUNK: boxes at a time.
    """
    begin = tl.program_id(0)
    before = tl.load(labels + tl.maximum(begin - 1, 0))
    if (begin == 0) | (before != tl.load(labels + begin)):
        end = tl.load(ends + begin).to(tl.int32)
        least = number(least_bits, left.dtype.element_ty)
        sigma, threshold = number(sigma_bits, boxes.dtype.element_ty), number(threshold_bits, boxes.dtype.element_ty)
        value, best = _best(left, begin, end, CHUNK)
        step = 0
        while (value >= least) & (step < tl.minimum(steps, end - begin)):
            tl.store(chosen + begin + step, best.to(tl.int64))
            tl.store(values + begin + step, value)
            _weaken(boxes, left, best, begin, end, sigma, threshold, extra, GAUSSIAN, CHUNK)
            value, best = _best(left, begin, end, CHUNK)
            step += 1


@triton.jit
def _best(left, begin, end, CHUNK: tl.constexpr):
    """The highest score of ``left[begin:end]`` and its first location."""
    highest = tl.full((CHUNK,), float("-inf"), left.dtype.element_ty)
    where = tl.full((CHUNK,), 0, tl.int32) + begin
    at = begin
    while at < end:
        location = at + tl.arange(0, CHUNK)
        score = tl.load(left + location, mask=location < end, other=float("-inf"))  # [CHUNK]
        better = score > highest
        highest, where = tl.where(better, score, highest), tl.where(better, location, where)
        at += CHUNK
    value = tl.max(highest, 0)
    return value, tl.min(tl.where(highest == value, where, end), 0)


@triton.jit
def _weaken(boxes, left, best, begin, end, sigma, threshold, extra, GAUSSIAN: tl.constexpr, CHUNK: tl.constexpr):
    """Take ``best`` out and lower the scores of what overlaps it."""
    x1, y1, x2, y2 = _load_boxes(boxes, best, best < end)
    at = begin
    while at < end:
        location = at + tl.arange(0, CHUNK)
        inside = location < end
        score = tl.load(left + location, mask=inside, other=float("-inf"))  # [CHUNK]
        u1, v1, u2, v2 = _load_boxes(boxes, location, inside)
        shared = overlap(x1, y1, x2, y2, u1, v1, u2, v2, extra)
        # Not a number, and infinity of boxes turned inside out, count as no overlap.
        shared = tl.where(finite(shared), shared, 0.0)
        linear = 1 - tl.where(shared > threshold, shared, 0.0)
        factor = tl.exp(divide(shared * shared, tl.zeros_like(shared) - sigma)) if GAUSSIAN else linear
        # A box that is out stays at -infinity: times a factor of 0 it would become NaN.
        out = (score == float("-inf")) | (location == best)
        tl.store(left + location, tl.where(out, float("-inf"), score * factor.to(score.dtype)), mask=inside)
        at += CHUNK
    # Read next by whichever threads the search for the best gives them to.
    tl.debug_barrier()
