"""The optional packages: which extra brings each of them, and the message about one that is missing.

``pip install deformable-convnets`` alone brings torch and NumPy, which operators, layers and ``deformify`` need.
"""

from __future__ import annotations

import importlib.util

DISTRIBUTION = "deformable-convnets"
EXTRAS = {
    "PIL": "train",
    "safetensors": "train",
    "yaml": "train",
    "tqdm": "train",
    "hotcoco": "train",
    "matplotlib": "train",
    "tensorboard": "loggers",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "av": "video",
    "supervision": "supervision",
    "scipy": "sbd",
    "huggingface_hub": "hub",
}
"""Import name -> the extra that installs it."""


class MissingPackageError(ImportError, ValueError):
    """A package is missing that this call needs; the message is the command that installs it."""


def is_installed(name: str) -> bool:
    """Whether a package can be imported; it is not imported."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def require(*names: str) -> None:
    """Check that optional packages are installed, before a verb or function starts its work.

    Args:
        names: import names, keys of :data:`EXTRAS`.

    Raises:
        MissingPackageError: some are not; the message names them and the command that installs them.
    """
    missing = [name for name in names if not is_installed(name)]
    if missing:
        raise missing_package(*missing)


def missing_package(*names: str) -> MissingPackageError:
    """The error about packages that are not installed.

    Args:
        names: import names; those of submodules (``yaml.nodes``) count as their package.
    """
    packages = [name.partition(".")[0] for name in names]
    extras = sorted({EXTRAS[package] for package in packages if package in EXTRAS})
    what = "packages are" if len(packages) > 1 else "package is"
    target = f'"{DISTRIBUTION}[{",".join(extras)}]"' if extras else " ".join(packages)
    return MissingPackageError(
        f"{', '.join(packages)}: the {what} not installed; install with: pip install {target}", name=names[0]
    )
