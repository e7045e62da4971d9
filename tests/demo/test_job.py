from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from benchmarks import demo_seeds
from dcn.cli.main import main
from dcn.demo import job
from dcn.demo import page as demo_page
from dcn.demo.plan import FULL, MODELS, SEEDS, START, Metrics, Plan, Trained
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
    # 2 + 2 diagrams, 2 images with detections, 3 with sampling points, 2 maps of offsets, 2 with parts of regions
    assert len(page.pictures) == 4 + 2 + 3 + 2 + 2
    assert all((picture["alt"] or "").strip() for picture in page.pictures)


def test_the_page_shows_the_results(output: Path, page: _Page) -> None:
    result = json.loads((output / job.RESULT_FILE).read_text())
    assert set(result["models"]) == set(MODELS)
    text = " ".join(page.words)
    for model in result["models"].values():
        assert f"{model['voc']['AP50']:.3f}" in text
        assert f"{model['coco']['AP']:.3f}" in text
        assert f"{model['parameters']:,}" in text
    layers = re.findall(r"backbone\.layer[34]\.[01]\.conv2", text)
    assert len(layers) == 3 * 2  # in the table of offsets, and in that of effective dilation
    assert set(result["seconds"]) >= {"generating and writing the data", "training, plain", "training, deformable"}


def test_both_models_are_trained_with_identical_settings(output: Path) -> None:
    plain, deformable = (load_recipe(output / name / "recipe.yaml") for name in MODELS)
    assert replace(deformable, model=replace(deformable.model, name=plain.model.name)) == plain
    assert plain.seed == 3
    assert (plain.model.name, deformable.model.name) == ("rfcn_r50", "rfcn_r50_dcn")
    assert plain.model.weights == f"{START}.safetensors"


def test_both_models_begin_as_the_same_features() -> None:
    """Offsets are zero at first, so the deformable convolutions are the plain ones: none has a head start."""
    names = load_recipe("demo_plain").data.classes or ()
    models = [build_model(load_recipe(f"demo_{name}"), names).eval() for name in MODELS]
    image = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    plain, deformable = (model.get_submodule("backbone")(image) for model in models)
    for ours, theirs in zip(deformable, plain, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_metrics_are_those_of_the_verb_eval(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(output / "deformable"), "--json", "--device", "cpu"]) == 0
    evaluated = json.loads(capsys.readouterr().out)
    written = json.loads((output / job.RESULT_FILE).read_text())["models"]["deformable"]["coco"]
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
        ((0.25, 0.5, 0.25), (0.5, 0.75, 0.125), "0.250 above it in COCO AP, 0.250 above it in AP50 and 0.125 below it"),
        ((0.5, 0.5, 0.25), (0.5, 0.5, 0.25), "level with it in COCO AP, level with it in AP50 and level with it in AP"),
    ],
    ids=["mixed", "equal"],
)
def test_the_words_follow_the_metrics(plain: Metrics, deformable: Metrics, said: str) -> None:
    def trained(name: str, metrics: Metrics) -> Trained:
        voc = VocResult((0.5, 0.7), dict(zip((0.5, 0.7), metrics[1:], strict=True)), {0.5: {}, 0.7: {}})
        return Trained(name, Path(name), load_recipe(f"demo_{name}"), voc, CocoResult.of([metrics[0]] * 12, {}), 1)

    both = [trained("plain", Metrics(*plain)), trained("deformable", Metrics(*deformable))]
    assert said in demo_page.verdict(both, FULL)
    lines = job.conclusion(both, FULL, Path("page.html"), 61.0)
    assert lines[1:] == [
        f"  plain      AP50 {plain[1]:.3f}, AP70 {plain[2]:.3f}, COCO AP {plain[0]:.3f}",
        f"  deformable AP50 {deformable[1]:.3f}, AP70 {deformable[2]:.3f}, COCO AP {deformable[0]:.3f}",
        f"1 min 1 s; the page: {Path('page.html').resolve()}",
    ]


def test_the_data_is_not_what_the_start_has_seen() -> None:
    assert load_recipe(START).data.options["seed"] != job.DATA_SEED


def test_the_page_tells_what_the_results_file_holds() -> None:
    runs = demo_seeds.read(demo_seeds.CSV)
    assert list(SEEDS) == runs
    assert len(runs) >= 5
    said = demo_page.seen_before()
    gains = [run.deformable.ap - run.plain.ap for run in runs]
    assert f"in {sum(gain > 0 for gain in gains)} of {len(runs)}, by {sum(gains) / len(gains):.3f} in the mean" in said
