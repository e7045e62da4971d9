"""The small ablation as data: systems, data sets, variants, and the runs that follow from them."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dcn.engine.bounded_yaml import read_yaml
from dcn.suggest import suggest

Settings = dict[str, Any]
Stage = Literal["start", "tune"]

PLAN = Path(__file__).with_name("small.yaml")
PLAIN = "plain"
CONDITIONS = ("start", "tune", "offsets", "pool_offsets")
"""Keys of a layer of settings that count under a condition: the stage, or what is deformable in the variant."""

SHARED_SEED = 0
"""Seed of the start that all seeds share, unless the data set says ``starts: own``."""

_SECTIONS = {"recipe", "systems", "variants", "parts", "datasets"}
_KEYS = {
    "systems": {"title", "task", "recipe", "aliases"},
    "variants": {"title", "recipe", "systems"},
    "parts": {"title", "variants", "systems"},
    "datasets": {"like", "title", "systems", "sides", "starts", "start_of", "folder", "recipe", "own"},
}
# What changes neither the weights nor the metrics: rows stay valid where it changes.
_IRRELEVANT = {"workers": None, "log_every": None, "checkpoint_every": None, "eval": {"pictures": None}}


@dataclass(frozen=True)
class Job:
    """One training of the ablation.

    Attributes:
        system: name in the plan, such as ``rcnn``.
        dataset: name in the plan, such as ``shapes``.
        variant: name in the plan, such as ``deformable``.
        stage: ``start`` or ``tune``.
        seed: of the recipe.
        settings: the recipe as it is in the plan, without folders, weights to start from and seed.
        start: the job whose weights it starts from.
        own_start: whether each seed has a start of its own.
    """

    system: str
    dataset: str
    variant: str
    stage: Stage
    seed: int
    settings: Settings
    start: Job | None = None
    own_start: bool = False

    @property
    def recipe(self) -> str:
        """What identifies the recipe: twelve digits that change with everything that matters to the result."""
        content = [_without(self.settings, _IRRELEVANT), None if self.start is None else self.start.recipe]
        content += ["own start"] if self.own_start else []
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def name(self) -> str:
        """For messages and folders: ``shapes/rcnn/deformable-0``."""
        return f"{self.dataset}/{self.system}/{self.variant if self.stage == 'tune' else 'start'}-{self.seed}"


@dataclass(frozen=True)
class Plan:
    """The file ``small.yaml``, or one of the same form; the sections are described there."""

    recipe: Settings
    systems: Settings
    variants: Settings
    parts: Settings
    datasets: Settings

    def title(self, section: str, name: str) -> str:
        """What a name of the plan is called in tables."""
        return str(getattr(self, section)[name]["title"])

    def task(self, system: str) -> str:
        """``detection`` or ``segmentation``."""
        return str(self.systems[system]["task"])

    def systems_of(self, dataset: str) -> tuple[str, ...]:
        """The systems that run on a data set."""
        return tuple(self.datasets[dataset]["systems"])

    def resolved(self, system: str, variant: str) -> str:
        """The variant that stands for another one with the same recipe."""
        aliases = self.systems[system].get("aliases", {})
        while variant in aliases:
            variant = aliases[variant]
        return variant

    def variants_of(self, part: str, system: str) -> list[str]:
        """The different variants of a part for a system, the one of reference first; none where it does not apply."""
        own = self.parts[part]
        if system not in own.get("systems", self.systems):
            return []
        return list(dict.fromkeys(self.resolved(system, variant) for variant in own["variants"]))

    def job(self, dataset: str, system: str, variant: str, seed: int) -> Job:
        """The fine-tuning of a variant."""
        variant = self.resolved(system, variant)
        own = self.datasets[dataset].get("starts", "shared") == "own"
        begun = self.datasets[dataset].get("start_of", dataset)
        settings = self._settings(begun, system, PLAIN, "start")
        start = Job(system, begun, PLAIN, "start", seed if own else SHARED_SEED, settings)
        return Job(system, dataset, variant, "tune", seed, self._settings(dataset, system, variant, "tune"), start, own)

    def _settings(self, dataset: str, system: str, variant: str, stage: Stage) -> Settings:
        data, change = self.datasets[dataset], self.variants[variant]
        layers = [
            self.recipe,
            self.systems[system]["recipe"],
            data["recipe"],
            data.get("own", {}).get(system, {}),
            change.get("systems", {}).get(system, change["recipe"]),
        ]
        always = merged({key: value for key, value in layer.items() if key not in CONDITIONS} for layer in layers)
        options = always["model"].get("options", {})
        holding: list[str] = [stage]
        holding += ["offsets"] if options.get("deform_layers") else []
        holding += ["pool_offsets"] if options.get("deform_pool") else []
        folder = {"data": {"folder": data["folder"]}} if "folder" in data else {}
        return merged([always, *(layer.get(key, {}) for key in holding for layer in layers), folder])


def read_plan(path: Path = PLAN) -> Plan:
    """Read a plan and check that its names fit together.

    Raises:
        ValueError: a missing section, or a name that is not in the plan.
    """
    content = read_yaml(path.read_bytes())
    if not isinstance(content, dict) or set(content) != _SECTIONS:
        raise ValueError(f"{path}: expected the sections {', '.join(sorted(_SECTIONS))}, got {sorted(content or ())}")
    for section, keys in _KEYS.items():
        for name, own in content[section].items():
            _check(f"{path}: {section}.{name}", own, dict.fromkeys(sorted(keys)))
    datasets: Settings = {}
    for name, own in content["datasets"].items():
        like = own.pop("like", None)
        if like is not None and like not in datasets:
            raise ValueError(f"{path}: datasets.{name}.like: expected a data set above it, got {like!r}")
        datasets[name] = merged([datasets[like], own]) if like is not None else own
    plan = Plan(**{**content, "datasets": datasets})
    for part, own in plan.parts.items():
        _check(f"{path}: parts.{part}.variants", own["variants"], plan.variants)
        _check(f"{path}: parts.{part}.systems", own.get("systems", ()), plan.systems)
    for name, own in datasets.items():
        _check(f"{path}: datasets.{name}.systems", own["systems"], plan.systems)
        _check(f"{path}: datasets.{name}.start_of", [own.get("start_of", name)], datasets)
        _check(f"{path}: datasets.{name}.starts", [own.get("starts", "shared")], {"shared": None, "own": None})
    return plan


def _check(where: str, names: Iterable[str], known: Mapping[str, Any]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{where}: expected one of {', '.join(known)}, got {name!r}; {suggest(name, known)}")


@dataclass(frozen=True)
class Choice:
    """What of the plan is wanted; ``None``: all of it.

    Attributes:
        datasets: names.
        systems: names.
        parts: names.
        variants: names.
        seeds: of the fine-tuning.
    """

    datasets: Sequence[str] | None = None
    systems: Sequence[str] | None = None
    parts: Sequence[str] | None = None
    variants: Sequence[str] | None = None
    seeds: Sequence[int] = (0, 1, 2)


def chosen_jobs(plan: Plan, choice: Choice) -> list[Job]:
    """The fine-tunings of a choice: part by part, in each seed by seed: a queue that ends early has whole comparisons.

    Raises:
        ValueError: a name that is not in the plan.
    """
    for option, names, known in (
        ("--dataset", choice.datasets, plan.datasets),
        ("--system", choice.systems, plan.systems),
        ("--part", choice.parts, plan.parts),
        ("--variant", choice.variants, plan.variants),
    ):
        _check(option, names or (), known)
    parts = choice.parts or plan.parts
    jobs = (job for part in parts for seed in choice.seeds for job in _of_part(plan, choice, part, seed))
    return list({job.name: job for job in jobs}.values())


def _of_part(plan: Plan, choice: Choice, part: str, seed: int) -> Iterator[Job]:
    for dataset in choice.datasets or plan.datasets:
        for system in plan.systems_of(dataset):
            if system not in (choice.systems or plan.systems):
                continue
            wanted = {plan.resolved(system, variant) for variant in choice.variants or plan.variants}
            for variant in plan.variants_of(part, system):
                if variant in wanted:
                    yield plan.job(dataset, system, variant, seed)


def merged(layers: Iterable[Mapping[str, Any]]) -> Settings:
    """Nested mappings one upon the other: later values replace earlier ones, key by key."""
    result: Settings = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = merged([result[key], value]) if both else copy.deepcopy(value)
    return result


def _without(settings: Mapping[str, Any], left_out: Mapping[str, Any]) -> Settings:
    result: Settings = {}
    for key, value in settings.items():
        if key not in left_out:
            result[key] = value
        elif left_out[key] is not None and isinstance(value, Mapping):
            result[key] = _without(value, left_out[key])
    return result
