"""The explorer in a real browser: its points against closed forms, its controls, its accessibility."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dcn.nn import DeformConv2d
from dcn.report import Observation, observe, write_explorer
from dcn.report.explorer import RoIOffsets
from dcn.structures import Detections
from dcn.vis import sampling_points

from .conftest import accessibility_faults

SIZE = (48, 64)
TAPS = torch.cartesian_prod(torch.arange(-1.0, 2.0), torch.arange(-1.0, 2.0))  # y, x of a 3x3 kernel
TRANSFORMS = {
    "shift": (torch.eye(2), torch.tensor([1.5, -2.25])),
    "scale": (1.7 * torch.eye(2), torch.zeros(2)),
    "rotation": (
        torch.tensor([[math.cos(0.6), math.sin(0.6)], [-math.sin(0.6), math.cos(0.6)]]),
        torch.tensor([0.3, 0.7]),
    ),
}


def stack(
    transform: tuple[Tensor, Tensor], strides: tuple[int, ...], dilation: int, modulated: bool = False
) -> nn.Module:
    """Deformable 3x3 layers whose taps lie at ``matrix @ tap + shift`` (times the dilation) around their unit."""
    matrix, shift = transform
    layers = []
    for stride in strides:
        layer = DeformConv2d(1, 1, 3, stride=stride, padding=dilation, dilation=dilation, modulated=modulated)
        moved = dilation * (TAPS @ matrix.T + shift - TAPS)
        with torch.no_grad():
            assert layer.conv_offset.bias is not None
            layer.conv_offset.bias[:18] = moved.flatten()
        layers.append(layer)
    return nn.Sequential(*layers).eval()


def expected(
    transform: tuple[Tensor, Tensor], strides: tuple[int, ...], dilation: int, unit: tuple[int, int]
) -> Tensor:
    """``[9 ** layers, 2]`` (x, y): the points of the lowest layer, from the transform alone."""
    matrix, shift = transform
    pixels = [math.prod(strides[:index]) for index in range(len(strides))]  # of a cell of each layer's input
    points = torch.tensor([unit], dtype=torch.float64) * math.prod(strides)
    steps = (TAPS.double() @ matrix.T.double() + shift.double()) * dilation
    for cell in reversed(pixels):
        points = (points[:, None] + steps[None] * cell).flatten(0, 1)
    return points.flip(1) + 0.5


def open_page(browser: Any, folder: Path, observations: list[Observation]) -> Any:
    page = write_explorer(folder / "page.html", observations, title="A <test> & more")
    browser.get(page.as_uri())
    return browser


def gray(size: tuple[int, int] = SIZE) -> Tensor:
    return torch.full((1, 1, *size), 0.5)


@pytest.mark.parametrize("dilation", [1, 2], ids=["dilation1", "dilation2"])
@pytest.mark.parametrize("strides", [(1, 1, 1), (2, 1, 2)], ids=["stride1", "strides212"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_points_are_where_the_transform_puts_them(
    browser: Any, tmp_path: Path, name: str, strides: tuple[int, ...], dilation: int
) -> None:
    model = stack(TRANSFORMS[name], strides, dilation)
    open_page(browser, tmp_path, [observe(model, gray())])
    unit = (SIZE[0] // math.prod(strides) // 2, SIZE[1] // math.prod(strides) // 2)
    traced = browser.execute_script("return dcnExplorer.trace(0, 2, 3, 0, arguments[0], true)", list(unit))
    assert [len(level["points"]) for level in traced["levels"]] == [9, 81, 729]
    points = torch.tensor([[p["x"], p["y"]] for p in traced["levels"][2]["points"]], dtype=torch.float64)
    assert (points - expected(TRANSFORMS[name], strides, dilation, unit)).abs().max() < 1e-4


def test_the_page_and_the_python_function_agree(browser: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = stack(TRANSFORMS["rotation"], (2, 1, 1), 1, modulated=True)
    for layer in model.children():
        assert isinstance(layer, DeformConv2d)
        nn.init.normal_(layer.conv_offset.weight, std=2.0)
    observation = observe(model, torch.rand(1, 1, *SIZE))
    open_page(browser, tmp_path, [observation])
    ours = sampling_points(observation.layers, (20.0, 11.0))
    unit = browser.execute_script("return dcnExplorer.nearestUnit(2, 20.0, 11.0)")
    theirs = browser.execute_script("return dcnExplorer.trace(0, 2, 3, 0, arguments[0], true)", unit)
    assert theirs["center"] == pytest.approx(ours.center)
    for level, points in zip(ours.levels, theirs["levels"], strict=True):
        locations = torch.tensor([[p["x"], p["y"]] for p in points["points"]])
        assert torch.allclose(locations, level.points, atol=1e-3)
        assert torch.allclose(torch.tensor([p["weight"] for p in points["points"]]), level.weights, atol=1e-5)
        assert [p["inside"] for p in points["points"]] == level.inside.tolist()


def test_without_a_detector_nothing_is_said_about_detections(browser: Any, tmp_path: Path) -> None:
    open_page(browser, tmp_path, [observe(stack(TRANSFORMS["rotation"], (2, 1, 1), 1), gray())])
    buttons = browser.find_elements("css selector", "#boxes, [data-pin]")
    assert [button.is_displayed() for button in buttons] == [False] * 4
    assert browser.find_element("id", "clear").is_displayed()
    assert "background" not in browser.find_element("id", "caption-deformable").text


def test_points_outside_of_the_map_are_marked(browser: Any, tmp_path: Path) -> None:
    shift = (torch.eye(2), torch.tensor([0.0, -4.0]))
    open_page(browser, tmp_path, [observe(stack(shift, (1,), 1), gray())])
    traced = browser.execute_script("return dcnExplorer.trace(0, 0, 1, 0, [10, 4], true)")
    assert [p["inside"] for p in traced["levels"][0]["points"]] == [False, True, True] * 3


@pytest.mark.parametrize("strides", [(1, 1, 1), (2, 1, 2)], ids=["stride1", "strides212"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_points_outside_are_marked_through_three_layers(
    browser: Any, tmp_path: Path, name: str, strides: tuple[int, ...]
) -> None:
    """A point counts as inside if it and all taps on its way lie on their maps: less than one cell off still reads."""
    open_page(browser, tmp_path, [observe(stack(TRANSFORMS[name], strides, 1), gray())])
    seen: set[bool] = set()
    for unit in ((0, 0), (SIZE[0] // math.prod(strides) - 1, 1), (4, 7)):
        traced = browser.execute_script("return dcnExplorer.trace(0, 2, 3, 0, arguments[0], true)", list(unit))
        expected_flags = inside_flags(TRANSFORMS[name], strides, unit)
        for level, flags in zip(traced["levels"], expected_flags, strict=True):
            assert [p["inside"] for p in level["points"]] == flags
        seen |= set(expected_flags[2])
    assert seen == {False, True}


def inside_flags(transform: tuple[Tensor, Tensor], strides: tuple[int, ...], unit: tuple[int, int]) -> list[list[bool]]:
    """For 9, 81 and 729 points whether they are read. What follows an unread tap is unread too."""
    matrix, shift = transform
    steps = (TAPS @ matrix.T + shift).tolist()
    sizes = [SIZE]
    for stride in strides:
        sizes.append((-(-sizes[-1][0] // stride), -(-sizes[-1][1] // stride)))
    points, inside, levels = [(float(unit[0]), float(unit[1]))], [True], []
    for depth in reversed(range(len(strides))):
        (height, width), stride = sizes[depth], strides[depth]
        taps = [(y * stride + dy, x * stride + dx) for y, x in points for dy, dx in steps]
        reads = [-1 < y < height and -1 < x < width for y, x in taps]
        inside = [before and now for before, now in zip([b for b in inside for _ in steps], reads, strict=True)]
        points = taps
        levels.append(inside)
    return levels


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Any:
    """A page of two images with detections, parts of a region, and three layers."""
    model = stack(TRANSFORMS["scale"], (2, 1, 1), 1, modulated=True)
    box = torch.tensor([[4.0, 4.0, 20.0, 20.0], [30.0, 10.0, 60.0, 40.0]])
    actual = Detections(box, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]))
    rois = [RoIOffsets(box, torch.ones(2, 2, 3, 3), None, (3, 3), 0.1)]
    observations = []
    for name in ("first", "second"):
        seen = observe(model, gray(), name=name)
        observations.append(Observation(name, seen.picture, seen.layers, actual, ("cat", "dog"), rois))
    return open_page(browser, tmp_path, observations)


def caption(page: Any) -> str:
    return str(page.find_element("id", "caption-deformable").text)


def move_to(page: Any, x: float, y: float, *, click: bool = False) -> None:
    """Move the pointer to (x, y) in pixels of the image."""
    from selenium.webdriver import ActionChains

    canvas = page.find_element("id", "view-deformable")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    width, height = SIZE[1], SIZE[0]
    margin = round(0.12 * width)
    scale = canvas.size["width"] / (width + 2 * margin)
    offset = ((x + margin) * scale - canvas.size["width"] / 2, (y + margin) * scale - canvas.size["height"] / 2)
    assert abs(canvas.size["height"] / canvas.size["width"] - (height + 2 * margin) / (width + 2 * margin)) < 0.02
    chain = ActionChains(page).move_to_element_with_offset(canvas, *(round(value) for value in offset))
    (chain.click() if click else chain).perform()
    page.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def press(page: Any, *keys: str) -> None:
    page.find_element("id", "view-deformable").send_keys(*keys)


def test_moving_shows_the_unit_under_the_pointer(page: Any) -> None:
    move_to(page, 40.5, 20.5)
    assert caption(page).startswith("Unit at (41, 21), dog.")
    move_to(page, 10.5, 12.5)
    assert caption(page).startswith("Unit at (11, 13), cat.")
    move_to(page, 26.5, 40.5)
    assert "background" in caption(page)
    assert "Effective dilation 1.70" in caption(page)
    assert "Dilation 1.00" in page.find_element("id", "caption-plain").text


def test_pins_are_compared_and_removed(page: Any) -> None:
    move_to(page, 40.5, 20.5, click=True)
    for name in ("background", "small", "large"):
        page.find_element("css selector", f"[data-pin={name}]").click()
    rows = [row.text for row in page.find_elements("css selector", "#pin-rows tr")]
    assert [word for row in rows for word in ("dog", "background", "cat") if word in row] == [
        *("dog", "background", "cat", "dog")
    ]
    page.find_element("css selector", "[aria-label='Remove pin 2']").click()
    assert len(page.find_elements("css selector", "#pin-rows tr")) == 3
    for _ in range(8):
        page.find_element("css selector", "[data-pin=large]").click()
    assert len(page.find_elements("css selector", "#pin-rows tr")) == 6
    page.find_element("id", "clear").click()
    assert not page.find_element("id", "pins").is_displayed()


def test_the_keyboard_does_all_of_it(page: Any) -> None:
    from selenium.webdriver import Keys

    before = page.execute_script("return dcnExplorer.state.unit")
    press(page, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    assert page.execute_script("return dcnExplorer.state.unit") == [before[0] + 1, before[1] + 2]
    press(page, Keys.ENTER, Keys.ARROW_LEFT, " ")
    assert len(page.find_elements("css selector", "#pin-rows tr")) == 2
    press(page, Keys.DELETE)
    assert len(page.find_elements("css selector", "#pin-rows tr")) == 1
    press(page, "[")
    assert page.execute_script("return dcnExplorer.state.layer") == 1
    press(page, "[", "[", "]", "1")
    assert page.execute_script("return [dcnExplorer.state.layer, dcnExplorer.state.levels]") == [1, 1]


def test_switching_keeps_the_place(page: Any) -> None:
    from selenium.webdriver.support.select import Select

    move_to(page, 40.5, 20.5)
    Select(page.find_element("id", "layer")).select_by_index(0)
    assert caption(page).startswith("Unit at (41, 21)")
    assert page.find_element("css selector", "[data-levels='2']").get_attribute("disabled")
    Select(page.find_element("id", "image")).select_by_visible_text("second")
    assert page.execute_script("return [dcnExplorer.state.image, dcnExplorer.state.layer]") == [1, 2]


@pytest.mark.parametrize(("value", "unit"), [("dilation", "cells"), ("offset", "px")])
def test_heat_maps_have_a_scale(page: Any, value: str, unit: str) -> None:
    from selenium.webdriver.support.select import Select

    assert not page.find_element("id", "scale").is_displayed()
    Select(page.find_element("id", "overlay")).select_by_value(value)
    assert page.find_element("id", "scale-high").text.endswith(unit)


def test_a_detection_shows_the_parts_of_its_region(page: Any) -> None:
    page.find_element("css selector", "#detection-list li:nth-child(2) button").click()
    parts = page.execute_script("return dcnExplorer.data.images[0].detections[dcnExplorer.state.detection].parts")
    assert parts["region"] == [30, 10, 60, 40]
    assert parts["boxes"][0] == pytest.approx([33, 13, 43, 23])  # a tenth of 30 x 30 further right and down
    assert caption(page).startswith("Unit at (45, 25), dog.")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_fault_of_accessibility(page: Any, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    page.find_element("css selector", "[data-pin=large]").click()
    assert accessibility_faults(page) == []


def test_a_phone_shows_it_without_scrolling_sideways(page: Any) -> None:
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    page.find_element("css selector", "[data-pin=large]").click()
    assert page.execute_script("return document.documentElement.scrollWidth") <= 360
    assert page.find_element("id", "view-deformable").size["width"] > 300


def test_touch_moves_the_unit(page: Any) -> None:
    box = page.execute_script(
        "const c = document.getElementById('view-deformable'); c.scrollIntoView({block: 'center'});"
        "const b = c.getBoundingClientRect(); return [b.left, b.top, b.width, b.height]"
    )
    before = page.execute_script("return dcnExplorer.state.unit")
    points = [{"x": box[0] + box[2] / 4, "y": box[1] + box[3] / 4}]
    for kind, touches in (("touchStart", points), ("touchEnd", [])):
        page.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})
    page.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    assert page.execute_script("return dcnExplorer.state.unit") != before
