"""The files of a prediction, written as its results come: JSON lines, pictures, maps, annotated videos."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from dcn.formats.video import VideoWriter
from dcn.runs.inputs import Source
from dcn.runs.outputs import OutputFolder, Stems
from dcn.runs.predictor import Result
from dcn.runs.tasks import Task

_VIDEO = ".mp4"


class PredictionFolder:
    """A folder for the results of a prediction; use it as a context.

    Every image has a line in ``detections.jsonl`` (``segmentation.jsonl``) as soon as it is added. The summary of the
    task is written at the end, also after an interruption, and so is the video of the frames that were added.

    Args:
        folder: where to write, see :class:`dcn.runs.outputs.OutputFolder`.
        task: of the model.
        classes: of the model.
        sources: the inputs that are known: their names are checked and kept for them, and they are never written over.
        pictures: draw the predictions.

    Raises:
        ValueError: a file to be written is one of the images, or is not of an earlier prediction.
    """

    def __init__(
        self, folder: str | Path, task: Task, classes: Sequence[str], sources: Sequence[Source], pictures: bool
    ) -> None:
        self._task, self._classes, self._pictures = task, classes, pictures
        self._folder = OutputFolder(folder, [source.path for source in sources if source.path is not None])
        self._stems = Stems(source.stem for source in sources)
        self._known = {source: self._stems(source.stem) for source in sources if source.stem}
        self._now: tuple[Source, str] | None = None
        self._video: _Video | None = None
        self._open = ExitStack()
        self._folder.check([task.stream, *task.summaries([], classes)])
        for source, stem in self._known.items():
            moving = (_VIDEO,) if pictures else ()
            self._folder.check(f"{stem}{suffix}" for suffix in (moving if source.moving else task.suffixes(pictures)))

    @property
    def path(self) -> Path:
        """The folder."""
        return self._folder.folder

    def __enter__(self) -> PredictionFolder:
        self._line = self._open.enter_context(self._folder.lines(self._task.stream))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._end_video()
        finally:
            self._open.__exit__(kind, error, trace)
            for name, text in self._task.summaries(self.records(), self._classes).items():
                self._folder.write_text(name, text)

    def add(self, result: Result, record: dict[str, Any]) -> None:
        """Write the files of one result, then its line."""
        stem = self._stem(result.source)
        moving = result.source.moving
        if not moving or (self._video is not None and self._video.source is not result.source):
            self._end_video()
        if moving and self._pictures:
            self._add_frame(stem, result)
        files = self._task.files(result.prediction, result.image, self._classes, self._pictures and not moving)
        own = self._stems(f"{stem}_{result.frame:06d}") if moving and files else stem
        for suffix, write in files.items():
            self._folder.write(f"{own}{suffix}", write)
        self._line(record)

    def records(self) -> list[dict[str, Any]]:
        """The records of all images that were done."""
        return list(_records(self.path / self._task.stream))

    def _stem(self, source: Source) -> str:
        if source in self._known:
            return self._known[source]
        if self._now is None or self._now[0] is not source:
            if source.path is not None:
                self._folder.protect(source.path)
            self._now = (source, self._stems(source.stem))
        return self._now[1]

    def _add_frame(self, stem: str, result: Result) -> None:
        picture = self._task.draw(result.image, result.prediction, self._classes)
        if self._video is None:
            self._video = _Video(self._folder, f"{stem}{_VIDEO}", result, picture)
        self._video.writer.add(picture, result.time or 0.0)

    def _end_video(self) -> None:
        video, self._video = self._video, None
        if video is not None:
            video.close()


class _Video:
    """The annotated video of one source while it is written."""

    def __init__(self, folder: OutputFolder, name: str, first: Result, picture: Tensor) -> None:
        self.source = first.source
        self._file = ExitStack()
        path = self._file.enter_context(folder.writing(name))
        self.writer = VideoWriter(path, (picture.shape[1], picture.shape[2]), Fraction(first.rate or 25))

    def close(self) -> None:
        """Complete the file; one that cannot be completed is removed."""
        with self._file:
            self.writer.close()


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            yield from (json.loads(line) for line in file if line.endswith("\n"))
