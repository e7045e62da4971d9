from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from dcn.cli.main import main
from dcn.demo import job
from dcn.demo import page as demo_page
from dcn.demo.plan import FULL, MODELS, Plan, Trained
from dcn.engine import load_recipe
from dcn.engine.distributed import World
from dcn.metrics.results import CocoResult, VocResult
from dcn.runs.build import build_model

TINY = Plan(
    {"train": 6, "val": 2, "test": 3},
    (
        "schedule.steps=2",
        "schedule.batch_size=2",
        "schedule.milestones=",
        "schedule.warmup.steps=0",
        "transforms.short=[96]",
        "transforms.long=96",
        "eval.every=1",
        "eval.images=2",
        "eval.report=false",
        "log_every=1",
    ),
    offset_images=2,
    pictures=2,
)
CPU = World(torch.device("cpu"))


class _Page(HTMLParser):
    """Headings, pictures, table cells and everything that would need a network."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.outside: list[str] = []
        self.words: list[str] = []
        self._tag = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        if tag == "img":
            self.pictures.append(dict(attrs))
        links = [value or "" for name, value in attrs if name in ("src", "href")]
        self.outside += [link for link in links if not link.startswith(("data:", "#"))]
        self.outside += [tag] if tag in ("script", "link", "iframe") else []

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._tag == "h2" and data.strip():
            self.headings.append(data.strip())


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole demo, with next to no training."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    assert job.run_demo(folder, TINY, CPU, seed=3) is not None
    return folder


@pytest.fixture(scope="module")
def page(output: Path) -> _Page:
    return _Page((output / "report.html").read_text(encoding="utf-8"))


def test_the_page_has_every_part_and_loads_nothing(page: _Page) -> None:
    assert page.headings == [
        "Result",
        "Training",
        "Detections in held-out images",
        "Where the deformable layers sample",
        "How it was made",
    ]
    assert page.outside == []
    # 2 + 2 diagrams, 2 images with detections, 3 with sampling points, 2 maps of offsets
    assert len(page.pictures) == 4 + 2 + 3 + 2
    assert all((picture["alt"] or "").strip() for picture in page.pictures)


def test_the_page_shows_the_results(output: Path, page: _Page) -> None:
    result = json.loads((output / job.RESULT_FILE).read_text())
    assert set(result["models"]) == set(MODELS)
    text = " ".join(page.words)
    for model in result["models"].values():
        assert f"{model['voc']['AP50']:.3f}" in text
        assert f"{model['coco']['AP']:.3f}" in text
        assert f"{model['parameters']:,}" in text
    layers = re.findall(r"backbone\.layer[234]\.[01]\.conv2", text)
    assert len(layers) == 6
    assert set(result["seconds"]) >= {"generating and writing the data", "training, plain", "training, deformable"}


def test_both_models_are_trained_with_identical_settings(output: Path) -> None:
    plain, deformable = (load_recipe(output / name / "recipe.yaml") for name in MODELS)
    assert deformable.schedule.lr_multipliers == {"*.conv_offset.*": 0.1}  # only these layers have such a branch
    same = replace(deformable.schedule, lr_multipliers=plain.schedule.lr_multipliers)
    assert (plain.schedule, plain.data, plain.transforms, plain.eval, plain.seed) == (
        same,
        deformable.data,
        deformable.transforms,
        deformable.eval,
        3,
    )
    assert plain.model.options == deformable.model.options
    assert deformable.model.name == f"{plain.model.name}_mdconv_c3-c5"


def test_the_metrics_are_those_of_the_verb_eval(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(output / "deformable"), "--json", "--device", "cpu"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    written = json.loads((output / job.RESULT_FILE).read_text())["models"]["deformable"]["voc"]
    assert evaluated == pytest.approx(written, nan_ok=True)


def test_an_earlier_demo_is_replaced_and_nothing_else(output: Path, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    (earlier / "data").mkdir(parents=True)
    (earlier / "data" / "old").touch()
    (earlier / "mine.txt").touch()
    with pytest.raises(ValueError, match="expected an empty folder or an earlier demo"):
        job.clear(earlier)
    (earlier / job.RESULT_FILE).write_text("{}")
    job.clear(earlier)
    assert sorted(path.name for path in earlier.iterdir()) == [job.RESULT_FILE, "mine.txt"]
    with pytest.raises(ValueError, match="expected a folder, got the file"):
        job.clear(earlier / "mine.txt")


@pytest.mark.parametrize(
    ("plain", "deformable", "said"),
    [
        ((0.5, 0.25), (0.75, 0.125), "0.250 above it in AP50 and 0.125 below it in AP70"),
        ((0.5, 0.25), (0.5, 0.25), "level with it in AP50 and level with it in AP70"),
    ],
    ids=["mixed", "equal"],
)
def test_the_words_follow_the_metrics(plain: tuple[float, float], deformable: tuple[float, float], said: str) -> None:
    def trained(name: str, metrics: tuple[float, float]) -> Trained:
        voc = VocResult((0.5, 0.7), dict(zip((0.5, 0.7), metrics, strict=True)), {0.5: {}, 0.7: {}})
        return Trained(name, Path(name), load_recipe(f"demo_{name}"), voc, CocoResult.of([0.1] * 12, {}), 1)

    both = [trained("plain", plain), trained("deformable", deformable)]
    assert said in demo_page.verdict(both, FULL)
    lines = job.conclusion(both, FULL, Path("page.html"), 61.0)
    assert lines[1:] == [
        f"  plain      AP50 {plain[0]:.3f}, AP70 {plain[1]:.3f}, COCO AP 0.100",
        f"  deformable AP50 {deformable[0]:.3f}, AP70 {deformable[1]:.3f}, COCO AP 0.100",
        f"1 min 1 s; the page: {Path('page.html').resolve()}",
    ]


def test_the_data_is_not_what_the_backbone_has_seen() -> None:
    seen = load_recipe("synthetic_backbone").data.options["seed"]
    assert seen != job._DATA_SEED


@pytest.mark.parametrize("name", MODELS)
def test_the_shipped_backbone_starts_both(name: str) -> None:
    recipe = load_recipe(f"demo_{name}")
    model = build_model(recipe, tuple(recipe.data.classes or ()))
    norm = model.get_submodule("backbone.layer4.1.bn2")
    # A network that was trained: running statistics differ from their start, 0 and 1.
    assert float(norm.get_buffer("running_mean").abs().max()) > 0.01
