"""What was asked of a study, written down once in ``study.toml``, and the runs that follow from it."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from assay import registry
from assay.bench.budget import KINDS, Budget
from assay.errors import UserError
from assay.models.build import pattern_elements
from assay.models.reference import referred_folder

PLAIN = "none"
"""The name of training without any method."""

ADVISED = "advised"
"""The axis point of a network that is built and trained as `assay.bench.advising` says; a person cannot name it as an axis."""

STUDY_SETTINGS = ("parameters", "batch_size", "steps", "seconds", "flops", "learning_rate", "examples")
"""Axis names with a meaning of their own; ``method.option`` sets a method's option; any other name is an option of the networks."""

_TABLES = ("opening", "axis", "advice", "sources")
_DATA_SETTINGS = ("examples",)  # the only axis that a classical baseline feels
_RUN_FILES = ("config.json", "model.safetensors")


@dataclass(frozen=True)
class Configuration:
    """One row of the leaderboard: a model, its training methods, a point on the axes."""

    model: str
    baseline: bool
    methods: str = PLAIN
    axis: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        """What to call it in print."""
        return " + ".join([shown(self.model), *self.method_names, *axis_words(dict(self.axis))])

    @property
    def method_names(self) -> list[str]:
        """The methods one by one; none for plain training."""
        return [] if self.methods == PLAIN else [shown(name) for name in self.methods.split("+")]

    @property
    def key(self) -> str:
        """Unique within a study; `assay.bench.results.configuration_key` of its rows."""
        return json.dumps([shown(self.model), self.method_names, dict(self.axis)], sort_keys=True)


@dataclass(frozen=True)
class Plan:
    """Everything that decides the results of a study; what does not (number of workers) is left out.

    Args:
        data: a path, or the name of built-in data, or ``python:<name>`` for a task handed over in Python.
        opening: how the data are opened: task, target, group, time, horizon, tokenizer, as far as given.
        recognised: the task's one-line description.
        models: networks; ``file.py:Class`` names are absolute.
        baselines: classical estimators.
        methods: each ``none`` or methods joined by ``+``.
        parameters: budget of trainable parameters a network.
        budget: of training.
        seeds: of the runs; the first also serves the search for the learning rate.
        batch_size: examples a step.
        rates: learning rates that are tried.
        threads: of every run.
        axis: values by name; see `STUDY_SETTINGS`.
        advice: for a model, the axis points that it has in a second, advised configuration.
        sources: SHA-256 of each file of the user's that is run.
    """

    data: str
    recognised: str
    models: tuple[str, ...]
    baselines: tuple[str, ...]
    budget: Budget
    parameters: int
    seeds: tuple[int, ...]
    batch_size: int
    rates: tuple[float, ...]
    threads: int
    opening: dict[str, Any] = field(default_factory=dict)
    methods: tuple[str, ...] = (PLAIN,)
    axis: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    advice: dict[str, dict[str, Any]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def configurations(self) -> list[Configuration]:
        """Every model × methods × axis point; a baseline only where the axis changes the data."""
        points = [tuple(zip(self.axis, values, strict=True)) for values in itertools.product(*self.axis.values())]
        advised = [(*point, (ADVISED, True)) for point in points]
        networks = [
            Configuration(model, False, methods, point)
            for model in self.models
            for methods in self.methods
            for point in (points + advised if model in self.advice else points)
        ]
        felt = list(dict.fromkeys(tuple(pair for pair in point if pair[0] in _DATA_SETTINGS) for point in points))
        return networks + [Configuration(model, True, PLAIN, point) for model in self.baselines for point in felt]

    def runs(self) -> Iterator[tuple[Configuration, int]]:
        """Every configuration with every seed."""
        return ((configuration, seed) for configuration in self.configurations() for seed in self.seeds)

    def run_json(self, configuration: Configuration, seed: int) -> dict[str, Any]:
        """All that decides a run's result; its hash names the run's folder."""
        run: dict[str, Any] = {
            "data": self.data,
            "opening": self.opening,
            "recognised": self.recognised,
            "model": configuration.model,
            "baseline": configuration.baseline,
            "axis": dict(configuration.axis),
            "seed": seed,
            "threads": self.threads,
        }
        if not configuration.baseline:
            run |= {"methods": configuration.methods, "parameters": self.parameters, "budget": asdict(self.budget)}
            run |= {"batch_size": self.batch_size, "rates": list(self.rates), "search_seed": self.seeds[0]}
        if ADVISED in run["axis"]:
            run |= {"advice": self.advice[configuration.model]}
        used = [path for path in self.sources if path in configuration.model or path in configuration.methods]
        return run | ({"sources": {path: self.sources[path] for path in used}} if used else {})

    def settings(self, configuration: Configuration) -> dict[str, Any]:
        """`settings_of` the configuration's runs."""
        return settings_of(self.run_json(configuration, self.seeds[0]))

    def run_name(self, configuration: Configuration, seed: int) -> str:
        """``<slug>-<hash of the run's JSON>``, the run's folder below ``runs/``."""
        return f"{_slug(configuration, seed)}-{_hash(self.run_json(configuration, seed))}"

    def trial_name(self, configuration: Configuration, rate: float) -> str:
        """The same for one tried learning rate, below ``searches/``."""
        run = self.run_json(configuration, self.seeds[0]) | {"tried": rate}
        return f"{_slug(configuration, self.seeds[0])}-{rate:g}-{_hash(run)}"

    # -------------------------------------------------------------------------------------------- on disk

    def to_toml(self) -> str:
        """TOML whose every value is written as JSON, which TOML reads too."""
        plain = asdict(self)
        budget = plain.pop("budget")
        tables = {name: plain.pop(name) for name in _TABLES}
        tables["advice"] = {model: list(points.items()) for model, points in tables["advice"].items()}  # TOML's tables are not JSON's
        plain[budget["kind"]] = int(budget["amount"]) if budget["kind"] == "steps" else budget["amount"]
        lines = ["# What was asked of this study. `assay compare --resume --output` with this folder goes on with it."]
        lines += [f"{key} = {_json(value)}" for key, value in plain.items()]
        for name, table in tables.items():
            if table:
                lines += ["", f"[{name}]", *(f"{_json(key)} = {_json(value)}" for key, value in table.items())]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str, path: Path) -> Plan:
        """Read `to_toml`'s text.

        Raises:
            UserError: the file is not one that a study wrote.
        """
        tables: dict[str, dict[str, Any]] = {"": {}, **{name: {} for name in _TABLES}}
        table = tables[""]
        try:
            for line in text.splitlines():
                if line.startswith("["):
                    table = tables[line.strip("[]")]
                elif line and not line.startswith("#"):
                    key, _, value = _split_entry(line)
                    table[key] = json.loads(value)
            values = tables[""]
            kind = next(name for name in KINDS if name in values)
            budget = Budget(kind, values.pop(kind))  # pyright: ignore[reportArgumentType]
            for name in ("models", "baselines", "methods", "seeds", "rates"):
                values[name] = tuple(values[name])
            axis = {name: tuple(points) for name, points in tables["axis"].items()}
            advice = {model: dict(points) for model, points in tables["advice"].items()}
            return cls(**values, budget=budget, axis=axis, advice=advice, opening=tables["opening"], sources=tables["sources"])
        except (ValueError, KeyError, TypeError, StopIteration) as error:
            raise UserError(f"{path} is not a study's file ({error}): choose another --output, or delete the folder.") from error

    def disagreement(self, given: Mapping[str, Any]) -> str | None:
        """The first thing in which options given now differ from this plan, as a clause; None when they agree."""
        for name, value in given.items():
            mine = getattr(self, name)
            if mine != value:
                return f"{name} is {_say(mine)} there and {_say(value)} now"
        return None


def with_method_options(methods: str, axis: Mapping[str, Any]) -> list[str]:
    """The methods of a configuration, one text each, with the ``method.option`` points of the axis written into them."""
    names = [] if methods == PLAIN else methods.split("+")
    for place, value in axis.items():
        method, dot, option = place.partition(".")
        if dot:
            names = [
                f"{name}{',' if '=' in name else ':'}{option}={json.dumps(value)}" if name.split(":")[0] == method else name
                for name in names
            ]
    return names


def axis_words(axis: Mapping[str, Any]) -> list[str]:
    """How the points of the axes are printed: ``depth=2``, ``advised``."""
    return [name if name == ADVISED else f"{name}={value}" for name, value in axis.items()]


def settings_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """All axis points of a run: those that were advised, under those that were asked for."""
    return {**run.get("advice", {}), **{name: value for name, value in run["axis"].items() if name != ADVISED}}


def model_options(axis: Mapping[str, Any]) -> dict[str, Any]:
    """The axis points that are options of the networks themselves."""
    return {name: value for name, value in axis.items() if name not in STUDY_SETTINGS and "." not in name}


def absolute(name: str) -> str:
    """A name with every path in it absolute, of ``mine.py:MyMixer`` and of a run named in an option; other names unchanged."""
    return _with_paths(name, lambda path: str(Path(path).expanduser().resolve()))


def shown(name: str) -> str:
    """A name as it is printed: files and runs by their own names without their folders."""
    return _with_paths(name, lambda path: Path(path).name)


def sources_of(name: str) -> dict[str, str]:
    """SHA-256 of every file that a name or a pattern of mixers runs, and of every run that an option names, by its path.

    Raises:
        UserError: there is no such file.
    """
    paths: list[str] = []
    _with_paths(name, lambda path: paths.append(path) or path)
    return {path: digest_of(path) for path in paths}


def digest_of(path: str) -> str:
    """SHA-256 of a user's source, or of a run's recipe and weights.

    Raises:
        UserError: there is no such file.
    """
    if Path(path).is_dir():
        return hashlib.sha256("".join(digest_of(str(Path(path) / name)) for name in _RUN_FILES).encode()).hexdigest()
    if not Path(path).is_file():
        hint = "name a Python file and a class in it, as in mine.py:MyMixer" if path.endswith(".py") else "the study needs that run"
        raise UserError(f"{path} does not exist: {hint}.")
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _with_paths(text: str, change: Callable[[str], str]) -> str:
    """A name, with options or without, in which every path of a user's file or of a run is changed."""
    name, options = registry.split_options(text)
    changed = [f"{option}={_value_with_paths(value, change)}" for option, value in options.items()]
    return _in_each_element(name, change) + (":" + ",".join(changed) if changed else "")


def _value_with_paths(value: str, change: Callable[[str], str]) -> str:
    run = referred_folder(value) and all((Path(value) / name).is_file() for name in _RUN_FILES)
    return change(value) if run else _in_each_element(value, change)


def _in_each_element(name: str, change: Callable[[str], str]) -> str:
    parts = [(element, _file_parts(element)) for element in pattern_elements(name)]
    return "~".join(element if found is None else f"{change(found[0])}:{found[1]}" for element, found in parts)


def _file_parts(element: str) -> tuple[str, str] | None:
    """Path and class (with its number of repeats) of an element of a pattern; None for a registered name."""
    reference, star, times = element.partition("*")
    path, _, attribute = reference.rpartition(":")
    return (path, attribute + star + times) if registry.is_file_reference(reference) else None


def _slug(configuration: Configuration, seed: int) -> str:
    return re.sub(r"[^a-z0-9.=]+", "-", f"{configuration.label}-seed-{seed}".lower()).strip("-.")[:80]


def _hash(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _split_entry(line: str) -> tuple[str, str, str]:
    if not line.startswith('"'):
        return line.partition(" = ")
    key, end = json.JSONDecoder().raw_decode(line)
    return key, "=", line[end:].strip().removeprefix("=").strip()


def _say(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value)) or "nothing"
    return "nothing" if value is None else str(value)
