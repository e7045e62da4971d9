"""``dcn eval --results``: result files of any program against annotations, without a model and without images."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dcn.checks import whole
from dcn.engine.folder import versions
from dcn.engine.log import shell_command
from dcn.formats.file_names import safe_name
from dcn.metrics.files import evaluate_files, read_coco_data
from dcn.metrics.mask_files import count_mask_files
from dcn.metrics.results import Result
from dcn.metrics.segmentation import write_confusion
from dcn.report.comparison import RESAMPLES, compare_detections
from dcn.report.comparison_page import Pair, comparison_page
from dcn.report.detection_page import detection_page
from dcn.report.diagnosis import IouType, diagnose
from dcn.report.run_page import RunFacts
from dcn.runs.compare import PAGE_FILE, RunComparison
from dcn.runs.outputs import page_path
from dcn.runs.report import shown_values
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
        output: folder for ``<results>_metrics.json``; ``None``: it is not written.
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
    """The metrics of segmentation masks.

    Args:
        results: see :func:`dcn.metrics.evaluate_mask_files`, like the other arguments.
        annotations: likewise.
        output: folder for ``<results>_metrics.json`` and ``<results>_confusion.csv``; ``None``: they are not written.
        options: of :func:`dcn.metrics.evaluate_mask_files`.

    Raises:
        ValueError: as :func:`dcn.metrics.evaluate_mask_files`.
    """
    metric = count_mask_files(results, annotations, **options)
    metrics = _written(metric.compute(), results, output)
    if output is not None:
        write_confusion(Path(output).expanduser() / f"{_name_of(results)}_confusion.csv", metric)
    return metrics


def compare_files(
    results: Sequence[StrPath],
    annotations: StrPath,
    *,
    output: StrPath | None = None,
    split: str | None = None,
    iou_type: IouType = "bbox",
    classes: Sequence[str] | None = None,
    outside: str = "refuse",
    resamples: int = RESAMPLES,
) -> RunComparison:
    """Compare detections from files by the rules of COCO, with intervals over the images.

    >>> print(compare_files(["theirs.json", "ours.json"], "instances_val2017.json"))

    Args:
        results: files or folders, see :func:`dcn.metrics.evaluate_files`; the first is what the others are compared
            with.
        annotations: see :func:`dcn.metrics.evaluate_files`.
        output: an HTML page to write, or a folder for its ``comparison.html``.
        split: see :func:`dcn.metrics.evaluate_files`.
        iou_type: likewise.
        classes: likewise.
        outside: likewise.
        resamples: of the bootstrap over images.

    Raises:
        ValueError: fewer than two files, one twice, or as :func:`dcn.metrics.evaluate_files`.
    """
    sources = [Path(one).expanduser() for one in results]
    if len({one.resolve() for one in sources}) < max(2, len(sources)):
        raise ValueError(f"results: expected two or more different files, got {', '.join(map(str, sources)) or 'none'}")
    whole("resamples", resamples, 1)
    page = None if output is None else page_path(output, PAGE_FILE)
    data = [read_coco_data(one, annotations, iou_type, classes, split, outside) for one in sources]
    # Classes of one file alone are behind those of the annotations, and count for nothing.
    columns = enumerate(zip(*(one.classes for one in data), strict=False), start=1)
    shared = {number for number, same in columns if len(set(same)) == 1}
    truth = data[0].truth
    truth["categories"] = [row for row in truth["categories"] if row["id"] in shared]
    first, *others = ([row for row in one.results if row["category_id"] in shared] for one in data)
    names = dict(enumerate(data[0].names, start=1))
    labels = _labels(sources)
    pairs = tuple(
        Pair(
            labels[0],
            label,
            compare_detections(truth, first, other, iou_type=iou_type, resamples=resamples).renamed(names),
        )
        for label, other in zip(labels[1:], others, strict=True)
    )
    if page is not None:
        facts = {
            "data": f"{len(data[0].images)} images of {Path(annotations).name}",
            "overlap of": "masks" if iou_type == "segm" else "boxes",
            "resamples": resamples,
            **shown_values(versions()),
        }
        comparison_page(pairs, {}, facts).write(page)
    return RunComparison(pairs, {}, page)


def _labels(sources: Sequence[Path]) -> list[str]:
    """Short names of the files: as many last parts of their paths as tell them apart."""
    whole_paths = [one.resolve() for one in sources]
    parts = [(*path.parts[:-1], _stem(path)) for path in whole_paths]
    if len(set(parts)) < len(parts):  # files that differ in their ending alone
        parts = [path.parts for path in whole_paths]
    count = next(n for n in range(1, 1 + max(map(len, parts))) if len({one[-n:] for one in parts}) == len(parts))
    return ["/".join(one[-count:]) for one in parts]


def _written(metrics: Result, results: StrPath, output: StrPath | None) -> Result:
    if output is not None:
        folder = Path(output).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(metrics.to_dict(), indent=2) + "\n"
        (folder / f"{_name_of(results)}_metrics.json").write_text(text, encoding="utf-8")
    return metrics


def _name_of(results: StrPath) -> str:
    """What the files about a result file or folder are called."""
    return safe_name(_stem(Path(results).expanduser().resolve()))


def _stem(path: Path) -> str:
    """The name of a file without its ending, or of a folder, which has none."""
    return path.name if path.is_dir() else path.stem


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
        facts=shown_values(versions()),
        commands=[
            shell_command(
                *("dcn", "eval", "--results", source, "--annotations", annotations, "--iou-type", iou_type),
                *("--format", "coco", "--report"),
                *(() if split is None else ("--split", split)),
                *(() if classes is None else ("--classes", ",".join(classes))),
                *(() if outside == "refuse" else ("--outside", outside)),
            )
        ],
        sizes=[(row["height"], row["width"]) for row in data.images if row["height"]],
    )
    page = detection_page(facts, data.truth, {"masks" if iou_type == "segm" else "boxes": diagnosis}, names=data.names)
    return page.write(
        (Path(output).expanduser() if output is not None else source.parent) / f"{_name_of(results)}_report.html"
    )
