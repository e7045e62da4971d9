"""``dcn eval --results``: result files of any program against annotations, without a model and without images."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcn.engine.folder import versions
from dcn.engine.log import shell_command
from dcn.formats.file_names import safe_name
from dcn.metrics.files import evaluate_files, read_coco_data
from dcn.metrics.mask_files import count_mask_files
from dcn.metrics.results import Result
from dcn.metrics.segmentation import write_confusion
from dcn.report.detection_page import detection_page
from dcn.report.diagnosis import IouType, diagnose
from dcn.report.run_page import RunFacts
from dcn.runs.sources import StrPath

LOGGER = logging.getLogger("dcn")


def score_boxes(
    results: StrPath,
    annotations: StrPath,
    *,
    output: StrPath | None = None,
    split: str | None = None,
    report: bool = False,
    **options: Any,
) -> Result:
    """The metrics of detections, written as JSON and as a page where that is asked for.

    Args:
        results: see :func:`dcn.metrics.evaluate_files`.
        annotations: likewise.
        output: folder for ``<results>.json``; ``None``: it is not written.
        split: as for :func:`dcn.metrics.evaluate_files`.
        report: write the page of :func:`report_files`, too.
        options: of :func:`dcn.metrics.evaluate_files`.

    Raises:
        ValueError: as :func:`dcn.metrics.evaluate_files`.
    """
    metrics = evaluate_files(results, annotations, split=split, **options)
    if report:
        shared = {name: options[name] for name in ("iou_type", "classes", "outside") if name in options}
        LOGGER.info("%s", report_files(results, annotations, output=output, split=split, **shared))
    return _written(metrics, results, output)


def score_masks(results: StrPath, annotations: StrPath, *, output: StrPath | None = None, **options: Any) -> Result:
    """The metrics of segmentation masks; with ``output`` also ``<results>.json`` and ``<results>_confusion.csv`` there.

    Args:
        results: see :func:`dcn.metrics.evaluate_mask_files`, like the other arguments.
        annotations: likewise.
        output: folder for the files; ``None``: none are written.
        options: of :func:`dcn.metrics.evaluate_mask_files`.

    Raises:
        ValueError: as :func:`dcn.metrics.evaluate_mask_files`.
    """
    metric = count_mask_files(results, annotations, **options)
    metrics = _written(metric.compute(), results, output)
    if output is not None:
        write_confusion(Path(output).expanduser() / f"{_name_of(results)}_confusion.csv", metric)
    return metrics


def _written(metrics: Result, results: StrPath, output: StrPath | None) -> Result:
    if output is not None:
        folder = Path(output).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(metrics.to_dict(), indent=2) + "\n"
        (folder / f"{_name_of(results)}.json").write_text(text, encoding="utf-8")
    return metrics


def _name_of(results: StrPath) -> str:
    """What the files about a result file or folder are called."""
    return safe_name(Path(results).expanduser().resolve().stem)


def report_files(
    results: StrPath,
    annotations: StrPath,
    *,
    output: StrPath | None = None,
    iou_type: IouType = "bbox",
    classes: Sequence[str] | None = None,
    split: str | None = None,
    outside: str = "refuse",
) -> Path:
    """Write the page about a file of detections, evaluated by the rules of COCO.

    Args:
        results: see :func:`dcn.metrics.evaluate_files`.
        annotations: likewise.
        output: the folder of the page; ``None``: that of the results. Its name is that of the results and
            ``_report.html``.
        iou_type: overlap of boxes (``"bbox"``) or of masks (``"segm"``).
        classes: see :func:`dcn.metrics.evaluate_files`.
        split: likewise.
        outside: likewise.

    Returns:
        The page.

    Raises:
        ValueError: as :func:`dcn.metrics.evaluate_files`.
    """
    source = Path(results).expanduser()
    data = read_coco_data(source, annotations, iou_type, classes, split, outside)
    diagnosis = diagnose(data.truth, data.results, iou_type=iou_type)
    facts = RunFacts(
        title=source.name,
        data=f"{len(data.images)} images of {Path(annotations).name}",
        facts={name: ", ".join(v) if isinstance(v, list) else v for name, v in versions().items() if v},
        commands=[
            shell_command(
                *("dcn", "eval", "--results", source, "--annotations", annotations, "--iou-type", iou_type),
                *("--format", "coco", "--report"),
                *(() if split is None else ("--split", split)),
                *(() if outside == "refuse" else ("--outside", outside)),
            )
        ],
        sizes=[(row["height"], row["width"]) for row in data.images if row["height"]],
    )
    page = detection_page(facts, data.truth, {"masks" if iou_type == "segm" else "boxes": diagnosis}, names=data.names)
    return page.write(
        (Path(output).expanduser() if output is not None else source.parent) / f"{_name_of(results)}_report.html"
    )
