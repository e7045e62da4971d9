"""The report, the comparison and the demo page in a real browser: wide, on a phone, in dark mode, by keyboard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dcn.nn.offset_health import OffsetHealth
from dcn.report.comparison import Comparison, Difference, SeedDifference
from dcn.report.comparison_page import Pair, comparison_page
from dcn.report.detection_page import detection_page
from dcn.report.diagnosis import diagnose
from dcn.report.run_page import Example, RunFacts
from dcn.report.segmentation_page import segmentation_page
from tests.report.coco_data import detections, truth

from .conftest import accessibility_faults

LONG = "a_very_long_name_of_an_image_that_does_not_want_to_wrap_anywhere_0001.jpg"
PICTURE = torch.randint(0, 256, (3, 120, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def facts() -> RunFacts:
    losses = [{"kind": "train", "step": s, "loss": 1 / s, "lr": 0.1, "offsets/mean": s / 50} for s in range(1, 50)]
    history = [*losses, {"kind": "eval", "step": 49, "AP": 0.5, "mIoU": 0.4}]
    return RunFacts(
        title="Run <cards>/0 & more",
        data="30 images",
        history=history,
        facts={"model": "rfcn_r50_dcn", "system": "Linux-" + "x86_64-" * 20},
        commands=["dcn train " + "runs/" * 40],
        recipe="model:\n  name: rfcn_r50_dcn\n",
        examples=[Example(LONG, PICTURE, PICTURE, "2 wrong")],
        offsets=[OffsetHealth("backbone.layer4.0.conv2", 0.4, 3.0, 0.1, 0.0, 16)],
        offset_images=16,
        sizes=[(260, 260)] * 30,
    )


def write_report(folder: Path) -> Path:
    data = truth()
    names = [LONG] * len(data["images"])
    return detection_page(facts(), data, {"boxes": diagnose(data, detections(data, 0.1))}, names).write(
        folder / "a.html"
    )


def write_segmentation(folder: Path) -> Path:
    counts = np.random.default_rng(0).integers(0, 500, (5, 12, 12))
    names = [f"class_{index}" for index in range(12)]
    return segmentation_page(facts(), names, counts, [LONG] * 5).write(folder / "a.html")


def write_comparison(folder: Path) -> Path:
    metrics = {"AP": Difference(0.4, 0.5, 0.02, 0.15), "AP50": Difference(0.6, 0.61, -0.02, 0.03)}
    changed = ((LONG, 0.1, 0.9),)
    comparison = Comparison(metrics, {"cat": (0.4, 0.5), "dog": (0.5, 0.45)}, 40, changed)
    pair = Pair("cards_rcnn/0", "cards_rcnn_deformable/0", comparison, [(LONG, (PICTURE, PICTURE, PICTURE))])
    seeds = {"AP": SeedDifference((0.4, 0.41, 0.39), (0.5, 0.52, 0.47))}
    return comparison_page([pair], seeds, {"data": "40 images", "command": "dcn compare " * 20}).write(
        folder / "a.html"
    )


WRITERS = {"report": write_report, "segmentation": write_segmentation, "comparison": write_comparison}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every page once; that of the demo after next to no training."""
    from dcn.demo import job
    from tests.demo.test_job import CPU, TINY

    folder = tmp_path_factory.mktemp("pages")
    actual = {name: write(folder / name) for name, write in WRITERS.items()}
    assert job.run_demo(folder / "demo", TINY, CPU) is not None
    return {**actual, "demo": folder / "demo" / "report.html"}


@pytest.fixture(params=[*WRITERS, "demo"])
def page(request: pytest.FixtureRequest, browser: Any, pages: dict[str, Path]) -> Any:
    browser.get(pages[request.param].as_uri())
    return browser


def set_scheme(page: Any, scheme: str) -> None:
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_fault_of_accessibility(page: Any, scheme: str) -> None:
    set_scheme(page, scheme)
    assert accessibility_faults(page) == []


def test_dark_mode_is_dark(page: Any) -> None:
    def lightness() -> int:
        color = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in color.removeprefix("rgb(").rstrip(")").split(","))

    set_scheme(page, "light")
    light = lightness()
    set_scheme(page, "dark")
    assert lightness() < 150 < 600 < light
    filters = page.execute_script(
        "return [...document.querySelectorAll('img')].map(i => [i.className, getComputedStyle(i).filter != 'none'])"
    )
    assert filters
    assert all(changed == (kind == "diagram") for kind, changed in filters)  # photographs stay as they are


def test_a_phone_shows_it_without_scrolling_sideways(page: Any) -> None:
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert page.execute_script("return document.documentElement.scrollWidth") <= 360
    widths = page.execute_script("return [...document.images].map(i => i.getBoundingClientRect().right)")
    assert max(widths) <= 360
    assert accessibility_faults(page) == []


def test_every_picture_is_shown_and_described(page: Any) -> None:
    pictures = page.execute_script("return [...document.images].map(i => [i.naturalWidth, i.alt.trim().length])")
    assert pictures
    assert all(width > 0 and letters > 0 for width, letters in pictures)


def test_the_keyboard_reaches_sections_and_wide_tables(page: Any) -> None:
    from selenium.webdriver import ActionChains, Keys

    links = page.execute_script("return document.querySelectorAll('nav a').length")
    if links:
        ActionChains(page).send_keys(Keys.TAB).send_keys(Keys.TAB).send_keys(Keys.ENTER).perform()
        assert page.execute_script("return location.hash") == "#section-2"
        top = page.execute_script("return document.getElementById('section-2').getBoundingClientRect().top")
        assert abs(top) < 900
    unreachable = page.execute_script(
        "return [...document.querySelectorAll('div, pre')].filter(e => e.scrollWidth > e.clientWidth + 1 &&"
        " ['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.tabIndex < 0).length"
    )
    assert unreachable == 0
