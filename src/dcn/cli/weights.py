"""``dcn weights``: published weights, listed, downloaded and converted."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_EPILOG = """\
examples:
  dcn weights
  dcn weights get resnet50
  dcn weights get faster_rcnn_r50_fpn_dconv_c3-c5
  dcn weights get resnet50 --from resnet50-0676ba61.pth

Files are kept in $DCN_CACHE (default ~/.cache/dcn). Proxies come from the environment (https_proxy, no_proxy).
A download that was interrupted continues. The files of the original MXNet code (rfcn_dcn_coco-0000.params,
resnet_v1_101-0000.params) are no longer published: `dcn import` reads your copies.
"""


def add_parser(subparsers: Any) -> None:
    """Add the verb ``weights``."""
    parser = subparsers.add_parser(
        "weights",
        help="list, download and convert published weights",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_list)
    verbs = parser.add_subparsers(dest="action", metavar="ACTION")
    verbs.add_parser("list", help="list the published weights (default)").set_defaults(run=_list)
    get = verbs.add_parser("get", help="download weights, check and convert them")
    get.add_argument("name", help="a name of `dcn weights`")
    get.add_argument("--from", dest="source", type=Path, help="a local copy of the published file: no network is used")
    get.set_defaults(run=_get)


def _list(arguments: argparse.Namespace) -> int:
    from dcn.models.zoo.weights import PUBLISHED_WEIGHTS
    from dcn.runs.weights import cached_weights

    width = max(map(len, PUBLISHED_WEIGHTS))
    for name, row in PUBLISHED_WEIGHTS.items():
        here = "downloaded" if cached_weights(name) else ""
        print(f"{name:<{width}}  {row.kind:<8}  {here:<10}  {row.source}")
    return 0


def _get(arguments: argparse.Namespace) -> int:
    from dcn.models.zoo.weights import PUBLISHED_WEIGHTS
    from dcn.runs.weights import get_weights

    path = get_weights(arguments.name, arguments.source)
    print(path)
    if PUBLISHED_WEIGHTS[arguments.name].kind == "detector":
        print(f"try it: dcn predict {arguments.name} photo.jpg")
    else:
        print(f"in a recipe: model.backbone_weights={arguments.name}")
    return 0
