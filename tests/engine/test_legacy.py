from __future__ import annotations

from pathlib import Path

import pytest

from dcn.engine.recipe import load_recipe
from dcn.tta import TTA

START = "model: {name: tiny}\ndata: {format: synthetic}\nschedule: {steps: 3}\n"
# The sections as the first version wrote them in full into every run folder.
TESTING = (
    "{scales: [], flip: %s, suppression: nms, iou: null, sigma: 0.5, box_voting: null, class_thresholds: {}, "
    "max_per_image: null}"
)
SEGMENT = "{scales: [1.0], flip: %s, window: null, overlap: 64, compare_at: prediction, absent: skip}"


def _both(metric: str, testing_flip: str, segment_flip: str) -> str:
    return f"eval: {{metric: {metric}, testing: {TESTING % testing_flip}}}\nsegment: {SEGMENT % segment_flip}"


@pytest.mark.parametrize(
    ("text", "tta", "compare_at"),
    [
        (_both("coco", "true", "false"), TTA(flip=True), "prediction"),
        (_both("coco", "false", "true"), TTA(), "prediction"),
        (_both("miou", "false", "true"), TTA(flip=True, overlap=64), "prediction"),
        ("segment: {scales: [0.5, 1.0], overlap: 16}", TTA((0.5, 1.0), overlap=16), "annotation"),
        ("eval: {testing: {scales: [[480, 800]], sigma: 0.6}}", TTA(((480, 800),), sigma=0.6), "annotation"),
        ("tta: {flip: true}", TTA(flip=True), "annotation"),
    ],
    ids=["detection", "detection-ignores-segment", "segmentation", "own-segment", "own-testing", "today"],
)
def test_old_keys_are_read_under_their_present_names(tmp_path: Path, text: str, tta: TTA, compare_at: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{START}{text}\n")
    recipe = load_recipe(path)
    assert recipe.tta == tta
    assert recipe.eval.compare_at == compare_at


def test_an_old_base_and_a_present_recipe_merge(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(f"{START}eval: {{testing: {{sigma: 0.6, flip: true}}}}\n")
    (tmp_path / "new.yaml").write_text("base: old\ntta: {flip: false}\n")
    assert load_recipe(tmp_path / "new.yaml").tta == TTA(sigma=0.6)


@pytest.mark.parametrize("text", ["eval: 3", "segment: 3", "eval: {testing: 3}", "tta: 3\nsegment: {flip: true}"])
def test_sections_that_are_none_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{START}{text}\n")
    with pytest.raises(ValueError, match="recipe"):
        load_recipe(path)
