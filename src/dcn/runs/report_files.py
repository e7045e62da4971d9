"""``dcn eval --results ... --report``: the page about a file of detections, without a model and without images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dcn.engine.folder import versions
from dcn.engine.log import shell_command
from dcn.metrics.files import read_coco_data
from dcn.report.detection_page import detection_page
from dcn.report.diagnosis import IouType, diagnose
from dcn.report.run_page import RunFacts
from dcn.runs.sources import StrPath


def report_files(
    results: StrPath,
    annotations: StrPath,
    *,
    output: StrPath | None = None,
    iou_type: IouType = "bbox",
    classes: Sequence[str] | None = None,
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
        outside: likewise.

    Returns:
        The page.

    Raises:
        ValueError: as :func:`dcn.metrics.evaluate_files`.
    """
    source = Path(results).expanduser()
    data = read_coco_data(source, annotations, iou_type, classes, outside=outside)
    diagnosis = diagnose(data.truth, data.results, iou_type=iou_type)
    facts = RunFacts(
        title=source.name,
        data=f"{len(data.images)} images of {Path(annotations).name}",
        facts={name: ", ".join(v) if isinstance(v, list) else v for name, v in versions().items() if v},
        commands=[
            shell_command(
                *("dcn", "eval", "--results", source, "--annotations", annotations, "--iou-type", iou_type),
                *("--format", "coco", "--report"),
                *(() if outside == "refuse" else ("--outside", outside)),
            )
        ],
        sizes=[(row["height"], row["width"]) for row in data.images if row["height"]],
    )
    page = detection_page(facts, data.truth, {"masks" if iou_type == "segm" else "boxes": diagnosis}, names=data.names)
    return page.write((Path(output) if output is not None else source.parent) / f"{source.stem}_report.html")
