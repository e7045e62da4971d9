"""The two tasks, detection and segmentation: everything that training, evaluation and prediction do differently."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from dcn.data.dataset import Dataset
from dcn.engine.config import EvalConfig
from dcn.runs.detection import DetectionTask
from dcn.runs.segmentation import SegmentationTask
from dcn.runs.view import Size, View
from dcn.structures import Detections, Sample, SegmentationMap, Target
from dcn.tta import TTA

Prediction = Detections | SegmentationMap
Annotation = Target | SegmentationMap


class Task(Protocol):
    """What a task answers; :data:`DETECTION` and :data:`SEGMENTATION` are its two values."""

    @property
    def name(self) -> str:
        """``"detection"`` or ``"segmentation"``, as ``model.task`` says."""

    @property
    def stream(self) -> str:
        """Name of the JSON lines file that a prediction writes."""

    def check_tta(self, tta: TTA, classes: Sequence[str]) -> None:
        """Refuse test-time options that belong to the other task or name an unknown class."""

    @property
    def default_score(self) -> float | None:
        """The score threshold of ``dcn predict``, where there is one."""

    def check_score(self, min_score: float | None) -> None:
        """Refuse a score threshold that does not fit."""

    def validation_tta(self, tta: TTA) -> TTA:
        """The options of an evaluation during training, which looks at every image once."""

    def view(self, model: nn.Module, tta: TTA, size: Size | None) -> View:
        """How the model looks at images with these options."""

    def make_metric(self, config: EvalConfig, model: nn.Module, dataset: Dataset) -> Any:
        """The metric of a recipe."""

    def annotations(self, samples: Sequence[Sample]) -> list[Any]:
        """The targets of a batch; refuses those of the other task."""

    def output_sizes(self, targets: Sequence[Any]) -> list[Size] | None:
        """The sizes in which predictions are compared with these targets."""

    def update(self, metric: Any, predictions: Sequence[Any], targets: Sequence[Any], config: EvalConfig) -> None:
        """Add a batch to the metric."""

    def draw(self, image: Tensor, prediction: Any, classes: Sequence[str]) -> Tensor:
        """A picture of a prediction."""

    def draw_target(self, image: Tensor, target: Any, classes: Sequence[str]) -> Tensor:
        """A picture of an annotation."""

    def result_writer(self, folder: Path, split: str, dataset: Dataset) -> Any:
        """What writes the predictions of an evaluation: ``add(predictions, targets)``, then ``close()``."""

    def write_details(self, folder: Path, split: str, metric: Any) -> None:
        """Write what a metric knows beyond its values."""

    def record(self, prediction: Any, classes: Sequence[str]) -> dict[str, Any]:
        """A prediction as JSON."""

    def files(self, prediction: Any, image: Tensor, classes: Sequence[str], pictures: bool) -> dict[str, Any]:
        """What a prediction writes for one image: a function that writes a file, by suffix."""

    def suffixes(self, pictures: bool) -> tuple[str, ...]:
        """The suffixes of :meth:`files`."""

    def summaries(self, records: Sequence[dict[str, Any]], classes: Sequence[str]) -> dict[str, str]:
        """Text files written when a prediction ends, by name, made from the records of its images."""

    def conclusion(self, records: Sequence[dict[str, Any]]) -> str:
        """What the records hold, in words: the last line of a prediction."""


DETECTION: Task = DetectionTask()
SEGMENTATION: Task = SegmentationTask()


TASKS: dict[str, Task] = {task.name: task for task in (DETECTION, SEGMENTATION)}


def task_of(model: nn.Module) -> Task:
    """The task that a model names.

    Raises:
        ValueError: it names none, or an unknown one.
    """
    name = getattr(model, "task", None)
    if name not in TASKS:
        raise ValueError(
            f"model: expected a model whose attribute `task` is one of {', '.join(TASKS)}, "
            f"got {type(model).__name__} with task={name!r}"
        )
    return TASKS[name]
