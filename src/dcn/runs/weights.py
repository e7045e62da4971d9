"""Weights by name: published files, downloaded once, converted, and kept in a folder of this machine."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path

from dcn.engine.checkpoint import find_weights
from dcn.engine.recipe import shipped_weights
from dcn.extras import require
from dcn.models.zoo.weights import PUBLISHED_WEIGHTS, PublishedWeights
from dcn.runs.download import download, file_sha256
from dcn.runs.import_weights import convert_backbone, convert_detector
from dcn.suggest import suggest

CACHE_VARIABLE = "DCN_CACHE"
HUB = "hf://"


def cache_folder() -> Path:
    """Where weights are kept: ``$DCN_CACHE``, else ``$XDG_CACHE_HOME/dcn``, else ``~/.cache/dcn``."""
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dcn"


def published(name: str) -> PublishedWeights:
    """The table's row of a name.

    Raises:
        ValueError: nothing is published under this name.
    """
    if name not in PUBLISHED_WEIGHTS:
        raise ValueError(
            f"weights: expected a published name, got {name!r}; {suggest(name, PUBLISHED_WEIGHTS, '`dcn weights`')}"
        )
    return PUBLISHED_WEIGHTS[name]


def cached_weights(name: str) -> Path | None:
    """The converted file of a published name where this machine has it already."""
    path = _converted(name)
    return path if path.is_file() else None


def get_weights(name: str, source: str | Path | None = None, *, show: bool = True) -> Path:
    """The weights of a published name as a safetensors file; downloaded and converted where they are not there yet.

    Args:
        name: of the table :data:`dcn.models.zoo.PUBLISHED_WEIGHTS`.
        source: a local copy of the published file, for machines without a network. It is taken even if the weights are
            in the cache already.
        show: draw a progress bar.

    Returns:
        The file in :func:`cache_folder`.

    Raises:
        ValueError: an unknown name; a server that does not answer; a damaged file, or one of another model.
    """
    row, target = published(name), _converted(name)
    if source is None and target.is_file():
        return target
    file = _local(Path(source).expanduser(), row) if source is not None else _downloaded(name, row, show)
    _convert(name, row, file, target)
    return target


def hub_weights(address: str) -> Path:
    """A weights file of a model hub.

    Args:
        address: ``hf://owner/name``, ``hf://owner/name/file.safetensors``; ``@revision`` may follow the name. Without
            a file the hub's only ``.safetensors`` file is taken. The endpoint is ``$HF_ENDPOINT``, a token
            ``$HF_TOKEN``; files are kept in the hub's own cache.

    Raises:
        ValueError: a wrong address, a file that the hub does not have, or huggingface_hub is not installed.
    """
    match = re.fullmatch(r"hf://([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?", address)
    if match is None:
        raise ValueError(f"weights: expected hf://owner/name or hf://owner/name/file, got {address!r}")
    require("huggingface_hub")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    owner, revision, file = match.groups()
    hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=os.environ.get("HF_TOKEN") or False)
    try:
        names = [file] if file else hub.list_repo_files(owner, revision=revision)
        files = [each for each in names if each.endswith(".safetensors")]
        if len(files) != 1:
            raise ValueError(f"{address}: expected one .safetensors file, got {files or names}; name it in the address")
        return Path(hub.hf_hub_download(owner, files[0], revision=revision))
    except (HfHubHTTPError, OSError) as error:
        raise ValueError(f"{address}: {' '.join(str(error).split())[:300]}") from None


def find_weights_file(text: str | Path, key: str = "weights") -> Path:
    """The weights file that a text means.

    In this order: a file; a run folder (its best weights); a file that comes with the recipes, with or without its
    suffix; a hub address; a published name, which is downloaded where it is not in the cache.

    Args:
        text: see above.
        key: of the recipe, for messages.

    Raises:
        ValueError: it means none of these; a download that fails.
    """
    path, name = Path(text).expanduser(), str(text)
    if path.is_dir():
        return find_weights(path)
    if path.is_file():
        return path
    shipped = shipped_weights()
    for file in (name, f"{name}.safetensors"):
        if file in shipped:
            return shipped[file]
    if name.startswith(HUB):
        return hub_weights(name)
    if name in PUBLISHED_WEIGHTS:
        return get_weights(name)
    hint = suggest(name, [*PUBLISHED_WEIGHTS, *shipped], "`dcn weights`")
    other = "; model.backbone_weights=random trains from random weights" if key == "model.backbone_weights" else ""
    raise ValueError(f"{key}: expected a file, a run folder or a published name, got {name!r}; {hint}{other}")


def _converted(name: str) -> Path:
    return cache_folder() / "weights" / f"{name}.safetensors"


def _downloaded(name: str, row: PublishedWeights, show: bool) -> Path:
    target = cache_folder() / "downloads" / row.file_name
    try:
        return download(row.url, target, sha256=row.sha256, show=show)
    except ValueError as error:
        raise ValueError(f"{error}. Without a network: `dcn weights get {name} --from FILE`") from None


def _local(file: Path, row: PublishedWeights) -> Path:
    """A file that the user names: the published one, or one that proves that it is whole.

    PyTorch files since version 1.6 are archives with a checksum of every tensor. A file whose own checksum is not the
    published one (another training of the same model) is accepted if it is such an archive and all of them are right.
    """
    if not file.is_file():
        raise ValueError(f"--from: expected a file, got {file}")
    got = file_sha256(file)
    if got.startswith(row.sha256):
        return file
    expected = f"--from: {file}: expected the published file (SHA-256 {row.sha256}...), got {got[:8]}..."
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{expected}, in a format without checksums of its own: the file may be damaged")
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{expected}; the file is damaged ({error})") from None
    if damaged is not None:
        raise ValueError(f"{expected}; the file is damaged (its entry {damaged})")
    _warn(
        f"{file}: not the published file (SHA-256 {got[:8]}... instead of {row.sha256}...), but whole; taken as it is"
    )
    return file


def _warn(text: str) -> None:
    import warnings

    warnings.warn(text, stacklevel=4)


def _convert(name: str, row: PublishedWeights, file: Path, target: Path) -> None:
    if row.kind == "backbone":
        convert_backbone(file, target)
    else:
        convert_detector(file, target, name)
