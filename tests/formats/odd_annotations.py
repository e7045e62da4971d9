"""Annotation files as other tools, systems and strangers write them: what becomes of each.

One list for training, check and evaluation; the fault table in ``docs/data.md`` is printed from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.data.made_files import HEIGHT, WIDTH, picture, voc_object, voc_xml

BOX = (10.0, 5.0, 30.0, 25.0)
"""Where the object is, xyxy, unless a case says otherwise: (11, 6, 30, 25) in VOC's numbers."""

Make = Callable[[Path], None]


@dataclass(frozen=True)
class Odd:
    """A folder of data with something odd about it.

    Attributes:
        kind: the format.
        what: for the fault table, and the id of the test.
        make: writes the folder.
        refused: the end of the error message; empty where the file is accepted.
        boxes: of the first image, where the file is accepted.
    """

    kind: str
    what: str
    make: Make
    refused: str = ""
    boxes: tuple[tuple[float, ...], ...] = (BOX,)


# Pascal VOC


def voc_folder(
    xml: str | bytes | None = None,
    *,
    stem: str = "a",
    listing: str | bytes | None = None,
    image: str = "",
    more: Make = lambda root: None,
) -> Make:
    """A folder with one image and one annotation, and a list that names it."""

    def make(root: Path) -> None:
        for name in ("Annotations", "ImageSets/Main"):
            (root / name).mkdir(parents=True)
        picture(root / "JPEGImages" / (image or f"{stem}.png"))
        content = voc_xml(voc_object()) if xml is None else xml
        data = content if isinstance(content, bytes) else content.encode("utf-8")
        (root / "Annotations" / f"{stem}.xml").write_bytes(data)
        lines = f"{stem}\n" if listing is None else listing
        names = lines if isinstance(lines, bytes) else lines.encode("utf-8")
        (root / "ImageSets" / "Main" / "train.txt").write_bytes(names)
        more(root)

    return make


def _declared(encoding: str, name: str = "dog") -> bytes:
    return (f'<?xml version="1.0" encoding="{encoding}"?>' + voc_xml(voc_object(name))).encode(encoding)


def _flags(text: str) -> str:
    return voc_xml(voc_object(extra=text))


def _boxed(*corners: object) -> str:
    return voc_xml(voc_object(box=corners))


def _companions(root: Path) -> None:
    junk = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X"
    for name in ("Annotations/._a.xml", "JPEGImages/._a.png", "ImageSets/Main/._train.txt", "JPEGImages/.DS_Store"):
        (root / name).write_bytes(junk)


_SIZE = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
_LAUGHS = '<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
_DTD = f"<!DOCTYPE annotation [{_LAUGHS}]>" + voc_xml(voc_object("&b;"))
_OUTSIDE = f"expected a box inside the image of {WIDTH}x{HEIGHT} pixels (width x height)"

VOC = [
    Odd("voc", "list with a byte order mark and Windows line ends", voc_folder(listing=b"\xef\xbb\xbfa\r\n")),
    Odd("voc", "list in UTF-16 (PowerShell)", voc_folder(listing="a\r\n".encode("utf-16"))),
    Odd("voc", "list in UTF-16 without a mark", voc_folder(listing="a\n".encode("utf-16-le"))),
    Odd(
        "voc",
        "list in Windows-1252, name with an umlaut",
        voc_folder(stem="f\xfc\xdfe", listing="f\xfc\xdfe\n".encode("cp1252")),
    ),
    Odd("voc", "image name with blanks", voc_folder(stem="my photo 1")),
    Odd("voc", "list with a second column (1, -1)", voc_folder(listing="a  1\n")),
    Odd("voc", "list that names files with their ending", voc_folder(listing="a.png\n")),
    Odd("voc", "list with blank lines", voc_folder(listing="\n\na\n\n")),
    Odd("voc", "image ending in other letter case (.Jpg)", voc_folder(image="a.Jpg")),
    Odd("voc", "image ending .tiff", voc_folder(image="a.tiff")),
    Odd("voc", "hidden companions of macOS (._a.xml, .DS_Store)", voc_folder(more=_companions)),
    Odd("voc", "XML with a byte order mark", voc_folder(b"\xef\xbb\xbf" + voc_xml(voc_object()).encode())),
    Odd("voc", "XML in UTF-16", voc_folder(_declared("utf-16"))),
    Odd("voc", "XML in UTF-16, big-endian, without a mark", voc_folder(voc_xml(voc_object()).encode("utf-16-be"))),
    Odd("voc", "XML in a declared ISO-8859-1", voc_folder(_declared("iso-8859-1", "caf\xe9"))),
    Odd("voc", "XML in a declared GBK", voc_folder(_declared("gbk", "\u732b"))),
    Odd("voc", "flag truncated as a fraction (KITTI)", voc_folder(_flags("<truncated>0.06</truncated>"))),
    Odd("voc", "flag truncated Unspecified", voc_folder(_flags("<truncated>Unspecified</truncated>"))),
    Odd("voc", "flags False and 0.0", voc_folder(_flags("<truncated>False</truncated><difficult>0.0</difficult>"))),
    Odd("voc", "empty flag", voc_folder(_flags("<difficult></difficult>"))),
    Odd("voc", "size missing", voc_folder(voc_xml(voc_object()).replace(_SIZE, ""))),
    Odd("voc", "height missing", voc_folder(voc_xml(voc_object()).replace(f"<height>{HEIGHT}</height>", ""))),
    Odd("voc", "size -1 or 0: taken from the image", voc_folder(voc_xml(voc_object(), size=(-1, 0)))),
    Odd("voc", "xmin 0 (tools that count from 0)", voc_folder(_boxed(0, 6, 30, 25)), boxes=((0, 5, 30, 25),)),
    Odd("voc", "box a fraction past the border", voc_folder(_boxed(11, -0.3, 60.4, 25)), boxes=((10, 0, 60, 25),)),
    Odd("voc", "box one pixel past the border", voc_folder(_boxed(11, 6, 61, 41)), boxes=((10, 5, 60, 40),)),
    Odd("voc", "box further outside", voc_folder(_boxed(11, 6, 362, 25)), f"{_OUTSIDE}, got (11, 6, 362, 25)"),
    Odd("voc", "box that begins outside", voc_folder(_boxed(-2, 6, 30, 25)), f"{_OUTSIDE}, got (-2, 6, 30, 25)"),
    Odd(
        "voc",
        "box reversed",
        voc_folder(_boxed(30, 6, 11, 25)),
        "expected xmin <= xmax and ymin <= ymax, got the reversed box",
    ),
    Odd(
        "voc", "corner that is no number", voc_folder(_boxed(11, "nan", 30, 25)), "<ymin>: expected a number, got 'nan'"
    ),
    Odd("voc", "corner missing", voc_folder(_boxed(11, 6, 30, 25).replace("<xmax>30</xmax>", "")), "<xmax> is missing"),
    Odd("voc", "no box", voc_folder(voc_xml("<object><name>dog</name></object>")), "<bndbox> is missing"),
    Odd("voc", "no class name", voc_folder(voc_xml(voc_object(" "))), "<name> is missing or empty"),
    Odd(
        "voc",
        "flag difficult 2",
        voc_folder(_flags("<difficult>2</difficult>")),
        "<difficult>: expected 0 or 1, got '2'",
    ),
    Odd("voc", "XML that breaks off", voc_folder("<annotation><object>"), "malformed XML: no element found"),
    Odd("voc", "empty XML", voc_folder(""), "malformed XML: no element found"),
    Odd(
        "voc", "another XML document", voc_folder("<kml/>"), "expected <annotation> as the outermost element, got <kml>"
    ),
    Odd("voc", "entities (billion laughs)", voc_folder(_DTD), "a document type declaration (DTD) is not accepted"),
    Odd(
        "voc",
        "entities in UTF-16",
        voc_folder(_DTD.encode("utf-16")),
        "a document type declaration (DTD) is not accepted",
    ),
    Odd(
        "voc",
        "unknown encoding",
        voc_folder(b'<?xml version="1.0" encoding="x-y"?><annotation/>'),
        "expected a known encoding, got 'x-y'",
    ),
    Odd(
        "voc",
        "encoding that unpacks",
        voc_folder(b'<?xml version="1.0" encoding="zip"?><annotation/>'),
        "expected a known encoding, got 'zip'",
    ),
    Odd(
        "voc",
        "Latin-1 without saying so",
        voc_folder(voc_xml(voc_object("caf\xe9")).encode("latin-1")),
        "save the file as UTF-8",
    ),
    Odd(
        "voc",
        "XML nested deeply",
        voc_folder("<annotation>" + "<a>" * 9000),
        "malformed XML: expected at most 100 nested elements",
    ),
    Odd("voc", "size of a billion pixels", voc_folder(voc_xml(size=(10**5, 10**4))), "at most 120,000,000 pixels"),
    Odd("voc", "image listed twice", voc_folder(listing="a\na\n"), "'a' is listed twice"),
    Odd(
        "voc",
        "annotation missing",
        voc_folder(listing="a\nb\n", more=lambda root: picture(root / "JPEGImages" / "b.png")),
        "b.xml does not exist",
    ),
]


# COCO


def coco_folder(
    change: Callable[[dict[str, Any]], object] = lambda data: None,
    *,
    image: str = "a.png",
    text: bytes | None = None,
    more: Make = lambda root: None,
) -> Make:
    """A folder with one image and one annotation."""

    def make(root: Path) -> None:
        picture(root / "train" / image)
        row: dict[str, Any] = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 5, 20, 20], "area": 400}
        data = {
            "images": [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
            "annotations": [{**row, "iscrowd": 0}],
            "categories": [{"id": 1, "name": "dog"}],
        }
        change(data)
        (root / "annotations").mkdir()
        content = json.dumps(data).encode() if text is None else text
        (root / "annotations" / "instances_train.json").write_bytes(content)
        more(root)

    return make


def _image(**fields: object) -> Callable[[dict[str, Any]], object]:
    return lambda data: data["images"][0].update(fields)


def _row(**fields: object) -> Callable[[dict[str, Any]], object]:
    return lambda data: data["annotations"][0].update(fields)


def _ids(image: object, reference: object, category: object, used: object) -> Callable[[dict[str, Any]], object]:
    def change(data: dict[str, Any]) -> None:
        data["images"][0]["id"], data["annotations"][0]["image_id"] = image, reference
        data["categories"][0]["id"], data["annotations"][0]["category_id"] = category, used

    return change


def _sound(encoding: str) -> bytes:
    row = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 5, 20, 20]}
    image = {"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}
    return json.dumps({"images": [image], "annotations": [row], "categories": [{"id": 1, "name": "dog"}]}).encode(
        encoding
    )


def _second(**fields: object) -> Callable[[dict[str, Any]], object]:
    """A second annotation, of an outline like the first one's unless a field says otherwise."""

    def change(data: dict[str, Any]) -> None:
        data["annotations"][0]["segmentation"] = [[10, 5, 30, 5, 30, 25, 10, 25]]
        data["annotations"].append({**data["annotations"][0], "id": 2, **fields})

    return change


_DEEP = b'{"images": ' + b"[" * 100_000
COCO = [
    Odd("coco", "JSON with a byte order mark", coco_folder(text=_sound("utf-8-sig"))),
    Odd("coco", "JSON in UTF-16", coco_folder(text=_sound("utf-16"))),
    Odd("coco", "ids as texts ('b3')", coco_folder(_ids("b3", "b3", "c", "c"))),
    Odd("coco", "ids once as number, once as text (VIA)", coco_folder(_ids(1, "1", "1", 1))),
    Odd("coco", "ids as 1.0", coco_folder(_ids(1.0, 1, 1, 1.0))),
    Odd("coco", "width and height -1 (VIA)", coco_folder(_image(width=-1, height=-1))),
    Odd("coco", "width and height null", coco_folder(_image(width=None, height=None))),
    Odd(
        "coco",
        "width and height missing",
        coco_folder(lambda data: [data["images"][0].pop(k) for k in ("width", "height")]),
    ),
    Odd("coco", "width and height as texts", coco_folder(_image(width=str(WIDTH), height=str(HEIGHT)))),
    Odd("coco", "iscrowd, area and segmentation null", coco_folder(_row(iscrowd=None, area=None, segmentation=None))),
    Odd("coco", "iscrowd '0' or false", coco_folder(_row(iscrowd="0", ignore=False))),
    Odd("coco", "segmentation [[]] or {}: boxes alone", coco_folder(_row(segmentation=[[]]))),
    Odd("coco", "backslashes in file names", coco_folder(_image(file_name="cam\\a.png"), image="cam/a.png")),
    Odd("coco", "file name that repeats the folder", coco_folder(_image(file_name="./train/a.png"))),
    Odd("coco", "file name in other letter case of its ending", coco_folder(_image(file_name="a.PNG"))),
    Odd("coco", "class name that is a number", coco_folder(lambda data: data["categories"][0].update(name=7))),
    Odd("coco", "box past the border by rounding", coco_folder(_row(bbox=[10, 5, 50.5, 20])), boxes=((10, 5, 60, 25),)),
    Odd("coco", "box that begins a pixel outside", coco_folder(_row(bbox=[-1, 5, 31, 20])), boxes=((0, 5, 30, 25),)),
    Odd(
        "coco",
        "hidden companions of macOS",
        coco_folder(more=lambda root: _junk(root / "annotations" / "._instances_train.json")),
    ),
    Odd(
        "coco",
        "box further outside",
        coco_folder(_row(bbox=[10, 5, 350, 20])),
        f"'bbox': {_OUTSIDE}, got [10, 5, 350, 20]",
    ),
    Odd(
        "coco",
        "box of negative width",
        coco_folder(_row(bbox=[10, 5, -3, 20])),
        "width and height must not be negative",
    ),
    Odd("coco", "box with NaN", coco_folder(_row(bbox=[10, 5, float("nan"), 20])), "'bbox': expected 4 finite numbers"),
    Odd("coco", "box of three numbers", coco_folder(_row(bbox=[10, 5, 3])), "'bbox': expected 4 finite numbers"),
    Odd("coco", "box null", coco_folder(_row(bbox=None)), "'bbox': expected 4 finite numbers"),
    Odd("coco", "iscrowd 2", coco_folder(_row(iscrowd=2)), "'iscrowd': expected 0 or 1, got 2"),
    Odd("coco", "area negative", coco_folder(_row(area=-1)), "'area': expected a number of pixels, got -1"),
    Odd("coco", "width a word", coco_folder(_image(width="wide")), "'width': expected a number of pixels, got 'wide'"),
    Odd("coco", "unknown image", coco_folder(_row(image_id=9)), "image_id: expected one of 'images', got 9"),
    Odd("coco", "unknown class", coco_folder(_row(category_id=9)), "category_id: expected one of 'categories', got 9"),
    Odd(
        "coco",
        "id missing",
        coco_folder(lambda data: data["annotations"][0].pop("id")),
        "'id': expected an integer or a text",
    ),
    Odd(
        "coco",
        "id used twice",
        coco_folder(lambda data: data["images"].append(data["images"][0])),
        "id 1 is used twice",
    ),
    Odd(
        "coco",
        "ids 1 and '1' for two images",
        coco_folder(lambda data: data["images"].append({**data["images"][0], "id": "1"})),
        "id 1 is used twice",
    ),
    Odd(
        "coco",
        "class name used twice",
        coco_folder(lambda data: data["categories"].append({"id": 2, "name": "dog"})),
        "the name 'dog' is used twice",
    ),
    Odd(
        "coco",
        "no list of annotations",
        coco_folder(lambda data: data.pop("annotations")),
        "'annotations': expected a list",
    ),
    Odd(
        "coco",
        "no classes",
        coco_folder(lambda data: data.update(categories=[], annotations=[])),
        "expected one or more classes, got []",
    ),
    Odd("coco", "JSON that breaks off", coco_folder(text=b'{"images": ['), "malformed JSON"),
    Odd("coco", "JSON nested deeply", coco_folder(text=_DEEP), "malformed JSON"),
    Odd(
        "coco",
        "JSON in Latin-1",
        coco_folder(text='{"info": "\xe9"}'.encode("latin-1")),
        "the file is not UTF-8; save the file as UTF-8",
    ),
    Odd("coco", "a number of 10,000 digits", coco_folder(text=b'{"images": ' + b"1" * 10_000 + b"}"), "malformed JSON"),
    Odd(
        "coco",
        "another JSON document",
        coco_folder(text=b"[1, 2]"),
        "expected an object with images, categories and annotations",
    ),
    Odd(
        "coco",
        "image of a billion pixels",
        coco_folder(_image(width=10**5, height=10**4)),
        "at most 120,000,000 pixels",
    ),
]

MASKS = [
    Odd("coco", "polygon and an empty part", coco_folder(_row(segmentation=[[], [10, 5, 30, 5, 30, 25]]))),
    Odd(
        "coco",
        "one object without outline among others",
        coco_folder(_second(segmentation=[])),
        "'segmentation': expected polygons or run lengths, got none",
    ),
    Odd(
        "coco",
        "polygon of two points",
        coco_folder(_second(segmentation=[[1, 1, 5, 5]])),
        "expected polygons of three or more points",
    ),
    Odd(
        "coco",
        "polygon with NaN",
        coco_folder(_second(segmentation=[[1, 1, 5, float("nan"), 9, 9]])),
        "expected finite coordinates",
    ),
    Odd(
        "coco",
        "polygon with a text",
        coco_folder(_second(segmentation=[[1, 1, 5, "5", 9, 9]])),
        "expected finite coordinates",
    ),
    Odd(
        "coco",
        "polygon far outside",
        coco_folder(_second(segmentation=[[1, 1, 5, 1e9, 9, 9]])),
        "no further than 120 pixels",
    ),
    Odd(
        "coco",
        "run lengths of another size",
        coco_folder(_second(segmentation={"size": [5, 5], "counts": [25]})),
        "[height, width] = [40, 60], got [5, 5]",
    ),
    Odd(
        "coco",
        "run lengths of exchanged sides",
        coco_folder(_second(segmentation={"size": [WIDTH, HEIGHT], "counts": [2400]})),
        "height and width are exchanged",
    ),
    Odd(
        "coco",
        "run lengths that are too short",
        coco_folder(_second(segmentation={"size": [HEIGHT, WIDTH], "counts": [5, 5]})),
        "expected run lengths that add up to 2400, got 10",
    ),
    Odd(
        "coco",
        "run lengths with fractions",
        coco_folder(_second(segmentation={"size": [HEIGHT, WIDTH], "counts": [0.5, 2399.5]})),
        "'counts' must be integers >= 0",
    ),
    Odd(
        "coco",
        "run lengths that are no code",
        coco_folder(_second(segmentation={"size": [HEIGHT, WIDTH], "counts": "zz\x7f"})),
        "malformed run lengths",
    ),
]
"""Where masks are asked for."""


def _junk(path: Path) -> None:
    path.write_bytes(b"\x00\x05\x16\x07")
