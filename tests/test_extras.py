"""A bare install has torch and NumPy; what needs more says which command brings it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dcn.extras import EXTRAS, MissingPackageError, missing_package, require

ROOT = Path(__file__).parents[1]

# Hides every package that `pip install torch numpy` does not bring.
BARE = """
import sys
BROUGHT = {"torch", "torchgen", "functorch", "numpy", "typing_extensions", "sympy", "mpmath", "networkx", "jinja2",
           "markupsafe", "fsspec", "filelock", "setuptools", "_distutils_hack", "dcn", "run"}
class Hide:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in BROUGHT and top not in sys.stdlib_module_names and not top.startswith("_"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hide())
"""
LAYERS = """
import torch
import dcn, dcn.ops, dcn.nn
from dcn.nn import deformify
x = torch.rand(1, 3, 12, 12, requires_grad=True)
weight = torch.rand(4, 3, 3, 3)
y = dcn.ops.deform_conv2d(x, torch.zeros(1, 18, 12, 12), weight, padding=1)
y.sum().backward()
assert torch.allclose(y, torch.conv2d(x, weight, padding=1), atol=1e-5)
model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3, padding=1))
deformify(model, "2")
assert any(isinstance(module, dcn.nn.DeformConv2d) for module in model.modules())
assert model(x).shape == (1, 8, 12, 12)
boxes = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 4.5]])
assert dcn.ops.nms(boxes, torch.tensor([0.9, 0.8]), 0.5).tolist() == [0]
"""


def _run(program: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(
        [sys.executable, "-c", BARE + program], env=environment, check=False, capture_output=True, text=True
    )


def test_operators_layers_and_deformify_need_torch_and_numpy_alone() -> None:
    result = _run(LAYERS)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["doctor"]], ids=" ".join)
def test_what_a_bare_install_can_show(words: list[str]) -> None:
    result = _run(f"from dcn.cli.main import main\nsys.exit(main({words!r}))")
    assert result.returncode == 0, result.stderr
    assert result.stdout


@pytest.mark.parametrize(
    "words",
    [["train", "synthetic_plain"], ["predict", "faster_rcnn_r18_fpn", "photo.jpg"], ["eval", "runs/x/0"], ["demo"]],
    ids=lambda words: words[0],
)
def test_a_verb_that_lacks_a_package_names_the_command(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    (tmp_path / "runs" / "x" / "0").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "0" / "recipe.yaml").touch()
    result = _run(f"import os\nos.chdir({str(tmp_path)!r})\nfrom dcn.cli.main import main\nsys.exit(main({words!r}))")
    assert result.returncode == 2, result.stderr
    assert 'pip install "deformable-convnets[train]"' in result.stderr
    assert "Traceback" not in result.stderr


def test_several_missing_packages_are_one_command() -> None:
    error = missing_package("yaml.nodes", "onnx")
    assert str(error) == (
        'yaml, onnx: the packages are not installed; install with: pip install "deformable-convnets[export,train]"'
    )
    assert isinstance(error, ImportError)
    assert isinstance(error, ValueError)


def test_a_package_of_no_extra_is_named_itself() -> None:
    assert str(missing_package("selenium")).endswith("pip install selenium")


def test_require_checks_without_importing(monkeypatch: pytest.MonkeyPatch) -> None:
    require("yaml", "PIL")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(
        MissingPackageError, match=r"yaml: the package is not installed; .*deformable-convnets\[train\]"
    ):
        require("yaml", "PIL")


def test_every_extra_is_one_of_the_distribution() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    section = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    listed = set(re.findall(r"^(\w+) = \[", section, re.MULTILINE))
    assert set(EXTRAS.values()) <= listed
    # An import name is that of its distribution, but for these.
    names = {"PIL": "pillow", "yaml": "pyyaml"}
    for name, extra in EXTRAS.items():
        own = re.search(rf"^{extra} = \[(.*?)\]", section, re.MULTILINE | re.DOTALL)
        assert own is not None
        assert f'"{names.get(name, name)}' in own[1]
