"""Every ``dcn ...`` line of README, docs and ``--help`` is a call that a shell and the command line understand."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from dcn.cli.main import VERBS, _parser, parse
from dcn.cli.words import is_change
from dcn.data.catalog import options_of
from dcn.engine.config import Recipe
from dcn.engine.parse import key_names

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
OPEN_KEYS = ("model.options.", "data.options.", "schedule.lr_multipliers.", "tta.class_thresholds.")
"""Keys of dictionaries, whose names the recipe does not know."""


def _code(text: str) -> list[str]:
    """Lines of code blocks, fenced or indented; lines that end in a backslash are joined."""
    fenced = re.findall(r"^```(?:sh|bash|console)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in fenced for line in block.replace("\\\n", " ").splitlines()]
    return lines + [line for line in text.replace("\\\n", " ").splitlines() if line.startswith("    ")]


def _command(line: str) -> str | None:
    """The command of a line, without a remark behind it."""
    match = re.match(r"\s*(?:\$ )?((?:torchrun [^#]*?-m )?dcn [a-z].*)", line)
    return None if match is None else re.split(r"\s{2,}#|\s{3,}", match[1])[0].strip()


def _help_examples(verb: str) -> list[str]:
    parser = _parser([verb])
    (subparsers,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    epilogs = [_epilogs(subparsers.choices[verb])]
    return [line for epilog in epilogs for line in epilog.splitlines()]


def _epilogs(parser: argparse.ArgumentParser) -> str:
    inner = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return "\n".join([parser.epilog or "", *(_epilogs(own) for action in inner for own in action.choices.values())])


SOURCES = {
    **{path.relative_to(ROOT).as_posix(): _code(path.read_text(encoding="utf-8")) for path in PAGES},
    **{f"dcn {verb} --help": _help_examples(verb) for verb in VERBS},
}
COMMANDS = [
    pytest.param(command, id=f"{source}: {command[:60]}")
    for source, lines in SOURCES.items()
    for command in dict.fromkeys(_command(line) for line in lines)
    if command is not None
]
KNOWN_KEYS = set(key_names(Recipe))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_printed_command_is_understood(command: str) -> None:
    words = shlex.split(command)
    arguments = parse(words[words.index("dcn") + 1 :])
    changes = [word for word in getattr(arguments, "words", []) if is_change(word)]
    generated = getattr(arguments, "data_verb", None) == "write"  # its keys are options of the generated set
    for key in (word.partition("=")[0] for word in changes):
        assert key in (options_of("synthetic") if generated else KNOWN_KEYS) or key.startswith(OPEN_KEYS), (
            f"{key} is no key of a recipe"
        )


@pytest.mark.parametrize("command", COMMANDS)
def test_a_shell_changes_nothing(command: str) -> None:
    """Outside of quotes there is nothing that bash or zsh would expand, in a folder without files to match.

    zsh refuses a pattern that matches nothing; both would split at ``;`` and ``&``.
    """
    bare = re.sub(r"'[^']*'|\"[^\"]*\"", "", command)
    assert not set(bare) & set("[]{}*?;&|<>()$`!"), bare


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shells_hand_over_the_words(shell: str, tmp_path: Path) -> None:
    """All commands through a real shell: the words that a program gets are those that Python's lexer gives."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    commands = [str(param.values[0]) for param in COMMANDS]
    script = "\n".join(f"printf '%s\\0' {command}; printf '\\n'" for command in commands)
    done = subprocess.run([shell, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert [line.split("\0")[:-1] for line in done.stdout.splitlines()] == [shlex.split(c) for c in commands]


def test_every_verb_with_changes_shows_examples() -> None:
    for verb in ("train", "eval", "predict", "analyze", "bench", "import"):
        assert any(_command(line) for line in _help_examples(verb)), verb


def test_there_are_commands_to_check() -> None:
    assert len(COMMANDS) > 40
