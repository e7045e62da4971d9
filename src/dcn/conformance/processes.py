"""Ask the questions in another process: some implementations end theirs on a NaN offset."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection

import torch

from dcn.conformance.implementations import load, offered
from dcn.conformance.matrix import RULES
from dcn.conformance.rules import Finding, Rule, examine


def _answer(name: str, rule: Rule, large: bool) -> Finding:
    if rule.large and not large:
        return Finding(rule.name, "not asked: it needs much memory (--large)", None)
    function = offered(name, rule.operator)
    return Finding(rule.name, "not offered", None) if function is None else examine(function, rule)


def _ask(name: str, indices: list[int], large: bool, answers: Connection) -> None:
    torch.set_num_threads(1)
    for index in indices:
        answers.send(_answer(name, RULES[index], large))
    answers.close()


def findings(name: str, seconds: float = 300.0, *, large: bool = False) -> list[Finding]:
    """All answers of the implementation called ``name``; the process is started anew after it died.

    Args:
        name: see :func:`dcn.conformance.load`.
        seconds: the time one question may take.
        large: also ask what needs tens of gigabytes.

    Raises:
        ValueError: there is no such implementation.
    """
    load(name)
    context = multiprocessing.get_context("spawn")
    collected: list[Finding] = []
    while len(collected) < len(RULES):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_ask, args=(name, list(range(len(collected), len(RULES))), large, sender))
        process.start()
        sender.close()
        collected += _collect(receiver, seconds, len(RULES) - len(collected))
        process.join(0.0 if len(collected) == len(RULES) else 5.0)
        timed_out = process.is_alive() and len(collected) < len(RULES)
        if timed_out:
            process.kill()
        process.join()
        if len(collected) < len(RULES):
            how = "takes too long" if timed_out else f"ends the process (exit code {process.exitcode})"
            collected.append(Finding(RULES[len(collected)].name, how, False))
    return collected


def _collect(answers: Connection, seconds: float, count: int) -> list[Finding]:
    """Answers until all are there, the process ends or one takes too long."""
    collected: list[Finding] = []
    try:
        while len(collected) < count and answers.poll(seconds):
            collected.append(answers.recv())
    except EOFError:
        return collected  # the process has ended; the caller says how
    return collected
