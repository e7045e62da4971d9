"""Which images make which batch, as a pure function of (seed, epoch), and the loader that fetches them.

Nothing here keeps a state: batch ``k`` is computed from ``k``, and the randomness of an augmentation from
``(seed, epoch, index)``. A run that continues at step ``k`` therefore sees exactly what the unbroken run saw, with any
number of worker processes.
"""

from __future__ import annotations

import atexit
import multiprocessing.util  # noqa: F401  # before our own end, see _end_workers
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch.utils.data import DataLoader

from dcn.data.dataset import Dataset, Transform
from dcn.data.reading import intact_sample
from dcn.structures import Sample

Key = tuple[int, int]
"""``(epoch, index)``: what a sample with its augmentation is a function of."""

_RUNNING: WeakSet[Any] = WeakSet()
"""Loaders with processes that were not ended yet."""


# A step asks for its whole epoch: two are kept, the one running and the one a prefetching loader has begun.
@lru_cache(maxsize=2)
def _shuffled(tall: bytes, total: int, seed: int, epoch: int) -> list[list[int]]:
    """Global batches of ``total`` images: groups shuffled apart, cut, then the batches shuffled."""
    rng = np.random.default_rng((seed, epoch))
    groups = np.frombuffer(tall, dtype=np.bool_)
    order = [rng.permutation(np.flatnonzero(groups == side)) for side in (False, True)]
    whole = [group[: len(group) // total * total] for group in order]
    rest = np.concatenate([group[len(kept) :] for group, kept in zip(order, whole, strict=True)])
    sequence = np.concatenate((*whole, rest))
    missing = -len(sequence) % total
    sequence = np.concatenate((sequence, np.resize(sequence, missing)))
    batches = sequence.reshape(-1, total)
    return batches[rng.permutation(len(batches))].tolist()


@dataclass(frozen=True)
class TrainingBatches:
    """An endless sequence of batches; every image is in every epoch.

    Args:
        sizes: ``(height, width)`` of every image.
        batch_size: images per process and step.
        seed: of the order and of the augmentation.
        group_by_aspect: put wide (w >= h) and tall images into separate batches, so that padding stays small; the
            rest of each group may share one batch. Rule of the original MXNet code.
        rank: number of this process.
        world: number of processes; together they take ``batch_size * world`` images a step.

    The last batch of an epoch is filled up with images from the start of that epoch's order.
    """

    sizes: Sequence[tuple[int, int]]
    batch_size: int
    seed: int = 0
    group_by_aspect: bool = True
    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not self.sizes:
            raise ValueError("sizes: expected the size of at least one image, got none; the dataset is empty")
        _check_split(self.batch_size, self.rank, self.world)

    @property
    def steps_per_epoch(self) -> int:
        """How many steps show every image once."""
        return -(-len(self.sizes) // (self.batch_size * self.world))

    @cached_property
    def _tall(self) -> bytes:
        """One byte for each image: a key for the cache of shuffled epochs that is cheap to compare."""
        shape = np.asarray(self.sizes)
        return ((shape[:, 0] > shape[:, 1]) & self.group_by_aspect).tobytes()

    def epoch(self, epoch: int) -> list[list[int]]:
        """The batches of this process in one epoch."""
        own = slice(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        return [batch[own] for batch in self._global(epoch)]

    def _global(self, epoch: int) -> list[list[int]]:
        return _shuffled(self._tall, self.batch_size * self.world, self.seed, epoch)

    def batch(self, step: int) -> list[Key]:
        """The keys of step ``step`` (from 0, over all epochs)."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        first = self.rank * self.batch_size
        return [(epoch, index) for index in self._global(epoch)[batch][first : first + self.batch_size]]


def evaluation_batches(count: int, batch_size: int, rank: int = 0, world: int = 1) -> list[list[int]]:
    """Indices ``0 .. count - 1`` in order, each exactly once over all processes; the last batch may be shorter.

    Process ``rank`` takes every ``world``-th image.
    """
    _check_split(batch_size, rank, world)
    own = list(range(rank, count, world))
    return [own[start : start + batch_size] for start in range(0, len(own), batch_size)]


def _check_split(batch_size: int, rank: int, world: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size: expected 1 or more, got {batch_size}")
    if not 0 <= rank < world:
        raise ValueError(f"rank: expected 0 to world - 1 = {world - 1}, got {rank}")


def sample_generator(seed: int, epoch: int, index: int) -> torch.Generator:
    """The source of randomness of one image in one epoch."""
    state = np.random.SeedSequence((seed, epoch, index)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state) & (2**63 - 1))


@dataclass(frozen=True)
class Prepared:
    """A dataset seen through a transform, asked for by ``(epoch, index)``.

    Attributes:
        dataset: where samples come from.
        transform: applied to each sample.
        seed: of the augmentation.
        replace: what an image that the dataset skips becomes: in training the next readable one, in evaluation nothing.
    """

    dataset: Dataset
    transform: Transform | None
    seed: int
    replace: bool = True

    def __getitem__(self, key: Key) -> Sample | None:
        epoch, index = key
        sample = self.dataset[index] if self.replace else intact_sample(self.dataset, index)
        if sample is None or self.transform is None:
            return sample
        return self.transform(sample, sample_generator(self.seed, epoch, index))


@dataclass(frozen=True)
class Failure:
    """The `ValueError` of a worker process, handed over as a text: the loader would wrap it into two tracebacks."""

    message: str


@dataclass(frozen=True)
class _Guarded:
    """What workers read from: a failure becomes a value."""

    prepared: Prepared

    def __getitem__(self, key: Key) -> Sample | Failure | None:
        try:
            return self.prepared[key]
        except ValueError as error:
            return Failure(str(error))


def training_loader(
    dataset: Dataset,
    batches: TrainingBatches,
    transform: Transform | None = None,
    *,
    start: int = 0,
    workers: int = 0,
    start_method: str | None = None,
) -> Iterator[list[Sample]]:
    """The batches of steps ``start``, ``start + 1``, ... without end.

    Args:
        dataset: what to load.
        batches: which images; its ``seed`` is the seed of the augmentation too.
        transform: applied to each sample with its own generator.
        start: the first step: the number of steps already taken when a run continues.
        workers: processes that load ahead; 0 loads in this process.
        start_method: how workers start, ``"fork"`` or ``"spawn"`` (the platform's default when ``None``); with
            ``"spawn"`` everything given must be picklable.

    Errors of a worker (a broken image, say) are raised here.
    """
    prepared = Prepared(dataset, transform, batches.seed)
    return _load(prepared, _Steps(batches.batch, start), workers, start_method)


def evaluation_loader(
    dataset: Dataset,
    batch_size: int,
    transform: Transform | None = None,
    *,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    start_method: str | None = None,
) -> Iterator[list[Sample]]:
    """Every image once, in order, as in `evaluation_batches`; arguments as in `training_loader`.

    Images that the dataset skips (``broken="skip"``) are left out, so that a batch may be shorter.
    """
    batches = evaluation_batches(len(dataset), batch_size, rank, world)
    keys = [[(0, index) for index in batch] for batch in batches]
    return _load(Prepared(dataset, transform, 0, replace=False), keys, workers, start_method)


@dataclass(frozen=True)
class _Steps:
    """The endless sequence ``batch(start), batch(start + 1), ...``; a record, so that spawned workers can have it."""

    batch: Callable[[int], list[Key]]
    start: int

    def __iter__(self) -> Iterator[list[Key]]:
        step = self.start
        while True:
            yield self.batch(step)
            step += 1


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C and SIGTERM reach the whole process group; the training process decides when its loaders end."""
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_IGN)


def _load(
    prepared: Prepared, keys: _Steps | list[list[Key]], workers: int, start_method: str | None
) -> Iterator[list[Sample]]:
    if workers == 0:
        loaded: Iterable[list[Sample | Failure | None]] = ([prepared[key] for key in batch] for batch in keys)
    else:
        loaded = DataLoader(
            _Guarded(prepared),  # type: ignore[arg-type]  # any object with __getitem__ serves; keys are not integers here
            batch_sampler=keys,
            num_workers=workers,
            collate_fn=list,
            multiprocessing_context=start_method,
            worker_init_fn=_leave_signals_to_the_parent,
            # Copies from pinned memory to a GPU run beside what it computes.
            pin_memory=torch.cuda.is_available(),
            # Without a generator of its own the loader would draw its worker seed from the global stream and so change
            # every random number after it.
            generator=torch.Generator(),
        )
        loaded = iter(loaded)  # the workers start now, not at the first batch
        _RUNNING.add(loaded)
    return _batches(loaded)


@atexit.register
def _end_workers() -> None:
    """End what still loads when Python exits.

    Functions of atexit run from the last registered to the first, so this one runs before that of multiprocessing,
    which would send SIGTERM to the workers and then wait for them: they ignore it, and the program would never end.
    """
    for loader in list(_RUNNING):
        loader._shutdown_workers()


def _batches(loaded: Iterable[list[Sample | Failure | None]]) -> Iterator[list[Sample]]:
    """Batches without the images that were skipped; the first failure is raised. Closing it ends the workers."""
    try:
        for batch in loaded:
            failure = next((item for item in batch if isinstance(item, Failure)), None)
            if failure is not None:
                raise ValueError(failure.message)
            samples = [item for item in batch if isinstance(item, Sample)]
            if samples:
                yield samples
    finally:
        if loaded in _RUNNING:
            loaded._shutdown_workers()  # type: ignore[attr-defined]  # torch has no public way
            _RUNNING.discard(loaded)
