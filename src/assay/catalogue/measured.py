"""What a study measured of the ideas: the figures of one's own leaderboard laid over the map."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.catalogue.ideas import Idea
from assay.errors import UserError


@dataclass(frozen=True)
class Figure:
    """The best configuration of a study in which something stands for an idea.

    Args:
        model: the network's name, methods behind it.
        metric: what ``value`` is.
        value: mean over the runs.
        larger_is_better: of the metric.
        runs: how many.
        latency_ms: of one example, where it was measured.
        state_bytes: of one stream, where it was measured.
    """

    model: str
    metric: str
    value: float
    larger_is_better: bool
    runs: int
    latency_ms: float | None = None
    state_bytes: float | None = None

    def merit(self) -> float:
        """The larger the better, whatever the metric."""
        return self.value if self.larger_is_better else -self.value

    def __str__(self) -> str:
        found = f"{self.metric} {self.value:.4g} ({self.model}, {self.runs} run{'' if self.runs == 1 else 's'}"
        found += "" if self.latency_ms is None else f", {self.latency_ms:.3g} ms"
        return found + ("" if self.state_bytes is None else f", {self.state_bytes:,.0f} bytes of state") + ")"


def figures(study: str | Path, ideas: Iterable[Idea]) -> dict[str, Figure]:
    """By id, the best of a study for each idea that has a part in it: a mixer of a pattern, a model, a baseline, a method.

    Args:
        study: a study's folder, or its ``results.jsonl``.
        ideas: those to look for.

    Raises:
        UserError: no such file, a line that is not JSON, or no finished run.
    """
    configurations: dict[str, list[dict[str, Any]]] = {}
    for row in _rows(Path(study)):
        if row.get("status") == "done":
            configurations.setdefault(json.dumps([row["model"], row["methods"], row["axis"]]), []).append(row)
    if not configurations:
        raise UserError(f"{study} has no finished run.")
    found: dict[str, Figure] = {}
    for idea in ideas:
        made = [_figure(rows) for rows in configurations.values() if _parts(rows[0]) & set(idea.parts)]
        if made:
            found[idea.id] = max(made, key=Figure.merit)
    return found


def best_first(ideas: Iterable[Idea], found: Mapping[str, Figure]) -> list[Idea]:
    """The ideas that were measured, from the best to the worst."""
    return sorted((idea for idea in ideas if idea.id in found), key=lambda idea: (-found[idea.id].merit(), idea.id))


def _rows(path: Path) -> list[dict[str, Any]]:
    path = path / "results.jsonl" if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"{path} is not there: --measured takes a study's folder or its results.jsonl.")
    *lines, _torn = path.read_text(encoding="utf-8", errors="replace").split("\n")
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise UserError(f"{path} holds a line that is not JSON: {error}.") from error


def _parts(row: Mapping[str, Any]) -> set[str]:
    """Registered names at work in a run."""
    methods = [name for method in row["methods"] for name in method.split("+")]
    return {*row["model"].split("~"), *methods, *(str(value) for value in row["axis"].values())}


def _figure(rows: list[dict[str, Any]]) -> Figure:
    first = rows[0]
    name = " ".join([first["model"], *(f"+ {method}" for method in first["methods"])])
    name += "".join(f", {key} {value}" for key, value in first["axis"].items())
    value = sum(row["value"] for row in rows) / len(rows)
    return Figure(name, first["metric"], value, first["direction"] == "max", len(rows), first.get("latency_ms"), first.get("state_bytes"))
