"""The command ``dcn``: one file per verb; torch is imported by the verbs that need it, so that ``--help`` is quick."""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import sys
import warnings
from collections.abc import Sequence

import dcn
from dcn import threads
from dcn.extras import EXTRAS, missing_package
from dcn.plugins import use_plugins
from dcn.suggest import suggest

# Verbs in the order of `dcn --help`. The module of each, dcn.cli.<verb>, has add_parser(subparsers); `import` is a word
# of Python and so cannot be the name of a module.
VERBS = {
    "train": "train a model from a recipe",
    "eval": "evaluate a model, or a file of results",
    "predict": "detect objects in images, or segment them",
    "report": "write the page about a run: metrics, kinds of error, worst images",
    "compare": "compare runs, with intervals",
    "export": "write a model for other programs",
    "explore": "write a page that shows what each unit of a deformable model reads",
    "reproduce": "train and tabulate what the papers report, at full size or in miniature",
    "demo": "train, evaluate and draw a small detector in minutes; draw what models see",
    "data": "check, show or write data",
    "models": "list the models",
    "bench": "measure the speed of a model",
    "analyze": "measure how far deformable layers reach, what units see, and what models cost",
    "weights": "list, download and convert published weights",
    "import": "convert weights of other programs",
    "doctor": "show which backends run here, and why the others do not",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 success, 1 some inputs failed, 2 error, 130 interrupted)."""
    threads.prepare()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # consoles that lack letters of class names, as stderr does
    argv = sys.argv[1:] if argv is None else list(argv)
    traceback = "--traceback" in argv
    argv, plugins = take_plugins([word for word in argv if word != "--traceback"])
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    warnings.formatwarning = lambda message, *_: f"dcn: warning: {message}\n"
    arguments = parse(argv)
    try:
        use_plugins(*plugins)
        return int(arguments.run(arguments))
    except KeyboardInterrupt:
        print("dcn: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has seen enough; nothing more can be written, not even at exit.
        sys.stderr.close()
        return 0
    except (ValueError, OSError) as error:
        if traceback:
            raise
        print(f"dcn: error: {_in_words(error)}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if traceback or (error.name or "").partition(".")[0] not in EXTRAS:
            raise
        print(f"dcn: error: {missing_package(str(error.name))}", file=sys.stderr)
        return 2


def _in_words(error: ValueError | OSError) -> str:
    """The message of an error; of the system's own ones the file and what is wrong, without the number."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def take_plugins(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words without ``--plugin MODULE``, which may stand anywhere, and the modules."""
    words, modules = [], []
    following = iter(argv)
    for word in following:
        if word == "--plugin":
            module = next(following, None)
            if module is None:
                words.append(word)  # argparse says what is missing
            else:
                modules.append(module)
        elif word.startswith("--plugin="):
            modules.append(word.partition("=")[2])
        else:
            words.append(word)
    return words, modules


_SECOND_WORDS = ("what", "kind", "data_verb", "action")  # of analyze and demo, bench, data, weights


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of a command line; names and ``key=value`` words may stand between and after options."""
    parser = _parser(argv)
    verb = next((word for word in argv if not word.startswith("-")), None)
    if verb is not None and verb not in VERBS:
        parser.error(f"verb: expected one of {', '.join(VERBS)}, got {verb!r}; {_nearest(verb)}")
    arguments, rest = parser.parse_known_args(argv)
    # argparse gives a list of words only those that stand together.
    if rest and not (hasattr(arguments, "words") and all(word[:1] != "-" or word == "-" for word in rest)):
        verbs = [getattr(arguments, name, None) for name in ("verb", *_SECOND_WORDS)]
        hint = _hint(rest, hasattr(arguments, "words"), " ".join(name for name in verbs if name))
        parser.error(f"unrecognized arguments: {' '.join(rest)}{hint}")
    if rest:
        arguments.words += rest
    return arguments


def _nearest(verb: str) -> str:
    near = suggest(verb, VERBS)
    return near if near.startswith("did you mean") else "`dcn --help` says what they do"


def _hint(rest: Sequence[str], takes_words: bool, verb: str) -> str:
    """What may have been meant by options that do not exist: a key of a recipe, or where all options are listed."""
    keys = [word.lstrip("-").partition("=")[0].replace("-", "_") for word in rest if word.startswith("--")]
    if takes_words and keys and not verb.startswith("data"):  # whose words are options of the generated set
        from dcn.engine.config import Recipe
        from dcn.engine.parse import key_names

        meant = next((name for name in key_names(Recipe) if name.rpartition(".")[2] == keys[0]), None)
        if meant is not None:
            return f"; a setting of the recipe is a word without dashes, {meant}=VALUE"
    return f"; `dcn {verb} --help` lists the options"


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dcn",
        description="Deformable convolutional networks: train, evaluate, predict.",
        epilog="`dcn VERB --help` shows the options of a verb. `--traceback` shows where an error came from. "
        "`--plugin MODULE` uses the models, data formats, recipes and weights of a module of yours.",
    )
    parser.add_argument("--version", action="version", version=f"dcn {dcn.__version__}")
    subparsers = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    chosen = next((word for word in argv if not word.startswith("-")), None)
    for verb, help_text in VERBS.items():
        if verb == chosen:
            module = "import_weights" if verb == "import" else verb
            importlib.import_module(f"dcn.cli.{module}").add_parser(subparsers)
            _describe_plugins(subparsers.choices[verb])
        else:
            subparsers.add_parser(verb, help=help_text)
    return parser


def _describe_plugins(parser: argparse.ArgumentParser) -> None:
    """Show ``--plugin`` in the help of a verb and of its own verbs; :func:`take_plugins` reads it."""
    parser.add_argument("--plugin", metavar="MODULE", help="use the models, data formats ... of this module of yours")
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                _describe_plugins(inner)


if __name__ == "__main__":
    sys.exit(main())
