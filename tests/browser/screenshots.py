"""Makes the pictures of README and docs: ``make screenshots``, or ``python -m tests.browser.screenshots docs/images``.

Everything comes from the models that ship with the package and from generated images; the picture of the demo from a
finished one (``make demo``), where its folder is named as well. It needs Chromium, its driver and Selenium.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from dcn.cli.main import main as run
from dcn.demo import pictures
from dcn.demo.plan import MODELS
from dcn.demo.shipped import DETECTOR, SEGMENTER
from dcn.engine import load_recipe
from dcn.runs.build import open_split, test_size
from dcn.runs.load import load
from tests.browser.conftest import FLAGS

MOST_BYTES = 200_000
_IMAGES = "data.options.length=60"


def main(folder: Path, demo: Path | None = None) -> None:
    """Write every picture into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    if demo is not None and (demo / "demo.json").is_file():
        _save(_demo(demo), folder / "demo.webp")
    with tempfile.TemporaryDirectory() as work:
        browser = _browser()
        try:
            for name, take in PAGES.items():
                _save(take(browser, Path(work)), folder / f"{name}.webp")
        finally:
            browser.quit()
        for name, words in DEMOS.items():
            output = Path(work) / name
            run(["demo", *words, "-o", str(output), "--device", "cpu"])
            with Image.open(sorted(output.glob("*.jpg"))[0]) as picture:
                _save(picture.convert("RGB"), folder / f"{name}.webp")


def _demo(folder: Path) -> Image.Image:
    """A held-out image as annotated and as both models see it; below, where the deformable one samples."""
    predictors = {name: load(folder / name, device="cpu") for name in MODELS}
    recipe = load_recipe(folder / "deformable" / "recipe.yaml", [f"data.root={folder / 'data'}"])
    dataset = open_split(recipe, "test")
    index = pictures.largest_objects(dataset, 1)[0]
    found = pictures.detections(dataset, index, predictors)[0]
    points = pictures.sampling(dataset, index, predictors["deformable"], test_size(recipe))[0]
    rows = [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in (found, points)]
    width, height = rows[1].width // 2, rows[1].height // 2
    # The points of c4 and c5, and those of c5 without offsets: three of the four cells.
    cells = [rows[1].crop((x, y, x + width, y + height)) for x, y in ((0, 0), (width, 0), (width, height))]
    sheet = Image.new("RGB", (max(rows[0].width, 3 * width), rows[0].height + height), "white")
    sheet.paste(rows[0], (0, 0))
    for number, cell in enumerate(cells):
        sheet.paste(cell, (number * width, rows[0].height))
    return sheet


def _browser() -> Any:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in FLAGS:
        options.add_argument(flag)
    driver = shutil.which("chromedriver")
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def _shot(browser: Any, page: Path, size: tuple[int, int], scheme: str = "light", script: str = "") -> Image.Image:
    """The upper part of a page, after a script."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(page.as_uri())
    browser.execute_script(script)
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    return Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")


def _explorer(browser: Any, work: Path) -> Image.Image:
    page = work / "explorer.html"
    run(["explore", "-o", str(page), "--device", "cpu"])
    script = """
        const layer = document.getElementById('layer'); layer.selectedIndex = 1;
        layer.dispatchEvent(new Event('change', {bubbles: true}));
        for (const kind of ['background', 'small', 'large']) document.querySelector(`[data-pin=${kind}]`).click();
    """
    return _shot(browser, page, (1200, 1150), script=script)


def _report(browser: Any, work: Path, name: str, scheme: str, section: str) -> Image.Image:
    page = work / f"{name}.html"
    if not page.exists():
        run(["report", name, "--split", "test", _IMAGES, "-o", str(page), "--device", "cpu"])
    find = f"[...document.querySelectorAll('h2')].find(h => h.textContent == '{section}').scrollIntoView()"
    return _shot(browser, page, (1060, 1000), scheme, find if section else "")


PAGES: dict[str, Callable[[Any, Path], Image.Image]] = {
    "explorer": _explorer,
    "report": lambda browser, work: _report(browser, work, DETECTOR, "light", ""),
    "report_errors": lambda browser, work: _report(browser, work, DETECTOR, "dark", "Kinds of error"),
    "report_segmentation": lambda browser, work: _report(browser, work, SEGMENTER, "light", "Worst images"),
}
DEMOS = {
    "demo_detection": ["detection"],
    "demo_segmentation": ["segmentation"],
    "demo_offsets": ["offsets"],
    "demo_roi_parts": ["roi-parts"],
}


def _save(picture: Image.Image, path: Path) -> None:
    """WebP below :data:`MOST_BYTES`, at most 1200 pixels wide."""
    picture.thumbnail((1200, 1400))
    for quality in (85, 75, 60, 45):
        picture.save(path, "WEBP", quality=quality, method=6)
        if path.stat().st_size < MOST_BYTES:
            return
    raise ValueError(f"{path}: expected less than {MOST_BYTES} bytes, got {path.stat().st_size}")


if __name__ == "__main__":
    main(*(Path(word) for word in sys.argv[1:3]))
