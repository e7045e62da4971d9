"""Writing Pascal VOC: annotation files with their lists and images, and the text files of results.

Annotations never replace a file that is there; names come from identifiers by `dcn.formats.file_names.safe_name`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from dcn.formats.coco_writer import Samples, check_images, image_stem, target_of
from dcn.formats.file_names import SafeNames, safe_name
from dcn.formats.images import write_image_to
from dcn.formats.new_files import NewFiles
from dcn.structures import Detections, Target


def write_voc(dataset: Samples, folder: str | Path, split: str, *, lossless: bool = False) -> Path:
    """Write ``Annotations``, ``ImageSets/Main/<split>.txt`` and ``JPEGImages``; other splits already there are kept.

    Boxes are rounded outwards to whole pixels, 1-based and inclusive, as the format wants them; it has no masks.

    Args:
        dataset: boxes with classes.
        folder: made when missing.
        split: the name of the list.
        lossless: PNG instead of JPEG (quality 95).

    Returns:
        The folder, as a path.

    Raises:
        ValueError: the dataset gives segmentation masks, or a file to be written exists already.
    """
    folder = Path(folder)
    annotations, images, lists = (folder / name for name in ("Annotations", "JPEGImages", "ImageSets/Main"))
    stems, names, suffix = [], SafeNames(), ".png" if lossless else ".jpg"
    with NewFiles() as new, new.open(lists / f"{safe_name(split)}.txt") as listing:
        for index in range(len(dataset)):
            sample = dataset[index]
            target = target_of(sample, dataset.name)
            stem = names(image_stem(split, target))
            with new.open(images / f"{stem}{suffix}") as file:
                write_image_to(file, suffix, sample.image)
            tree = ElementTree.ElementTree(_annotation(f"{stem}{suffix}", target, dataset.classes))
            ElementTree.indent(tree)
            with new.open(annotations / f"{stem}.xml") as file:
                tree.write(file, encoding="utf-8")
            stems.append(stem)
        listing.write("".join(f"{stem}\n" for stem in stems).encode("utf-8"))
    return folder


def _annotation(file_name: str, target: Target, classes: tuple[str, ...]) -> Element:
    root = Element("annotation")
    SubElement(root, "filename").text = file_name
    size = SubElement(root, "size")
    for tag, value in zip(("width", "height", "depth"), (target.size[1], target.size[0], 3), strict=True):
        SubElement(size, tag).text = str(value)
    assert target.difficult is not None
    rows = zip(target.boxes.tolist(), target.labels.tolist(), target.difficult.tolist(), strict=True)
    for (x1, y1, x2, y2), label, difficult in rows:
        item = SubElement(root, "object")
        SubElement(item, "name").text = classes[label]
        SubElement(item, "difficult").text = str(int(difficult))
        box = SubElement(item, "bndbox")
        corners = (math.floor(x1) + 1, math.floor(y1) + 1, math.ceil(x2), math.ceil(y2))
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
            SubElement(box, tag).text = str(value)
    return root


def write_voc_results(
    folder: str | PathLike[str],
    detections: Sequence[Detections],
    image_ids: Sequence[int | str],
    classes: Sequence[str],
    *,
    split: str = "test",
    prefix: str = "comp4_det",
) -> list[Path]:
    """Write the result files of Pascal VOC, ``<prefix>_<split>_<class>.txt``, one a class, empty ones too.

    Lines are ``image score xmin ymin xmax ymax`` with three and one decimals, corners 1-based and inclusive, as the
    original code wrote them. Rounding scores to three decimals makes ties, so AP may move in the third digit.

    Args:
        folder: made if it does not exist.
        detections: one entry an image, in pixels of the original image (continuous edges).
        image_ids: file stem of each image.
        classes: names of the labels.
        split: name of the image set.
        prefix: name of the competition.

    Returns:
        The files, in the order of the classes.

    Raises:
        ValueError: a list of another length, or a label without a name.
    """
    check_images(detections, image_ids)
    lines: dict[int, list[str]] = defaultdict(list)
    for result, image_id in zip(detections, image_ids, strict=True):
        rows = zip(result.labels.tolist(), result.scores.tolist(), result.boxes.tolist(), strict=True)
        for label, score, (x1, y1, x2, y2) in rows:
            lines[label].append(f"{image_id} {score:.3f} {x1 + 1:.1f} {y1 + 1:.1f} {x2:.1f} {y2:.1f}\n")
    if lines and max(lines) >= len(classes):
        raise ValueError(f"classes: expected a name for every label up to {max(lines)}, got {len(classes)} names")
    Path(folder).mkdir(parents=True, exist_ok=True)
    names = SafeNames(folders=False)
    files = [Path(folder) / f"{names(f'{prefix}_{split}_{name}')}.txt" for name in classes]
    for label, file in enumerate(files):
        file.write_text("".join(lines[label]), encoding="utf-8")
    return files
