from __future__ import annotations

import resource
import time
from pathlib import Path

import pytest

from dcn.engine.bounded_yaml import MAX_BYTES, MAX_DEPTH, read_yaml
from dcn.engine.recipe import load_recipe

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
HOSTILE = {
    "aliases": BOMB,
    "aliases-as-value": BOMB + "seed: *a11\n",
    "own-alias": "model: &m {options: *m}\n",
    "own-alias-in-a-list": "model: &m [*m]\n",
    "nested-lists": "[" * 100_000,
    "nested-mappings": "{a: " * 5000,
    "nested-blocks": "".join(f"{' ' * n}a:\n" for n in range(900)),
    "large": "a: " + "x" * MAX_BYTES,
    "wide": "a: [" + "1, " * 60_000 + "1]",
    "digits": "seed: " + "9" * 100_000 + "\n",
    "exponent": "seed: 1e999999999\n",
    "long-key": "x" * 200_000 + ": 1\n",
    "object": "!!python/object/apply:os.system [echo]\n",
    "object-as-value": "seed: !!python/name:os.system\n",
    "no-number": f"seed: !!float {'x' * 100_000}\n",
    "other-tag": "data: !!set {a, b}\n",
    "list-as-key": "? [a, b]\n: 1\n",
    "control-characters": "seed: \x01\n",
    "no-yaml": "a: b: c: [",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_recipe_is_refused_in_a_short_message(name: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(HOSTILE[name])
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ValueError, match=r"recipe") as caught:
        load_recipe(path)
    assert len(str(caught.value)) < 600
    assert time.process_time() - begun < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfea\x00:\x00 \x001\x00", b"\xef\xbb\xbfa: 1\n", "a: &x 1\nb: *x\n", "a: !!int '1'\n"],
    ids=["utf-16", "byte-order-mark", "alias", "plain-tag"],
)
def test_ordinary_yaml_is_read(content: str | bytes) -> None:
    assert read_yaml(content)["a"] == 1


def test_the_deepest_document_is_read() -> None:
    assert read_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH)
    with pytest.raises(ValueError, match="levels of nesting"):
        read_yaml("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1))


def test_numbers_and_words_are_those_of_yaml_1_2() -> None:
    assert read_yaml("[1e-4, off, no, 010, 1_0, .5, .inf]") == [1e-4, "off", "no", 10, "1_0", 0.5, float("inf")]
