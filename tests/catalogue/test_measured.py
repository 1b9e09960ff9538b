"""A study's figures laid over the ideas, what can stand in an idea's place, and ideas of other packages."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from assay.catalogue import ideas as catalogue
from assay.catalogue.ideas import find, ideas
from assay.catalogue.measured import best_first, figures
from assay.catalogue.printing import as_json, show
from assay.cli import app
from assay.errors import UserError


def study(folder: Path, *runs: tuple[str, float], direction: str = "max", **more: Any) -> Path:
    row = {"methods": [], "axis": {}, "status": "done", "metric": "accuracy", "direction": direction} | more
    (folder / "results.jsonl").write_text("".join(json.dumps(row | {"model": model, "value": value}) + "\n" for model, value in runs))
    return folder


def test_the_best_configuration_stands_for_an_idea(tmp_path: Path) -> None:
    runs = (("lstm", 0.5), ("lstm", 0.7), ("retention~attention", 0.9), ("attention", 0.8), ("mlp", 0.99))
    found = figures(study(tmp_path, *runs, state_bytes=2048), ideas())
    by_part = {part: found[idea.id] for idea in ideas() for part in idea.parts if idea.id in found}
    assert (by_part["lstm"].value, by_part["lstm"].runs) == (pytest.approx(0.6), 2)
    assert by_part["attention"].model == by_part["retention"].model == "retention~attention"  # a part of a pattern counts
    assert str(by_part["lstm"]) == "accuracy 0.6 (lstm, 2 runs, 2,048 bytes of state)"
    assert "s4d" not in by_part
    order = [found[idea.id].value for idea in best_first(ideas(), found)]
    assert order == sorted(order, reverse=True)
    lower = figures(study(tmp_path, *runs, direction="min"), ideas())
    assert next(lower[idea.id] for idea in ideas() if "attention" in idea.parts).model == "attention"


def test_methods_and_activations_count_and_failed_runs_do_not(tmp_path: Path) -> None:
    found = figures(study(tmp_path, ("mlp", 0.9), methods=["weight-averaging"], axis={"activation": "poly-norm"}), ideas())
    parts = {part for idea in ideas() if idea.id in found for part in idea.parts}
    assert {"mlp", "weight-averaging", "poly-norm"} <= parts
    with pytest.raises(UserError, match="has no finished run"):
        figures(study(tmp_path, ("mlp", 0.9), status="failed"), ideas())


def test_figures_are_shown_and_a_wrong_file_is_one_sentence(tmp_path: Path) -> None:
    found = figures(study(tmp_path, ("lstm", 0.5)), ideas())
    chosen = best_first(ideas(), found)
    assert "accuracy 0.5 (lstm, 1 run)" in show(chosen, "", "text", found)
    assert json.loads(as_json(chosen, found))["ideas"][0]["measured"]["value"] == 0.5
    printed = CliRunner().invoke(app, ["catalog", "--measured", str(tmp_path), "--streams"])
    assert printed.exit_code == 0
    assert "accuracy 0.5 (lstm, 1 run)" in printed.output
    with pytest.raises(UserError, match="takes a study's folder"):
        figures(tmp_path / "nothing", ideas())
    (tmp_path / "results.jsonl").write_text("{\n")
    with pytest.raises(UserError, match="not JSON"):
        figures(tmp_path, ideas())


def test_what_stands_in_an_ideas_place_is_ordered_by_nearness() -> None:
    attention = next(idea for idea in ideas() if idea.id == "softmax-attention")
    found = find(instead_of="softmax-attention")
    assert [idea.id for idea in found[: len(attention.instead)]] == sorted(attention.instead)
    assert attention not in found
    assert find(instead_of="attention") == found  # the name of its part serves too
    streaming = find(instead_of="attention", streams=True, max_state="O(1)")
    assert streaming
    assert all(idea.streams and idea.cost["state"] == "O(1)" for idea in streaming)
    with pytest.raises(UserError, match=r"No idea or part is called 'atention'; the nearest are .*attention"):
        find(instead_of="atention")


def test_other_packages_ship_ideas(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {
        "id": "mine",
        "name": "Mine",
        "family": "attention",
        "patterns": ("weigh",),
        "status": "far-out",
        "year": 2026,
        "summary": "M.",
    }

    def shipping(*entries: dict[str, Any]) -> None:
        point = SimpleNamespace(value="mine:IDEAS", load=lambda: entries)
        monkeypatch.setattr(catalogue, "entry_points", lambda group: [point] if group == "assay.idea" else [])
        catalogue.ideas.cache_clear()

    try:
        shipping(entry)
        assert find("mine")[0].name == "Mine"
        shipping(entry | {"id": "softmax-attention"})
        with pytest.raises(UserError, match="which is taken"):
            ideas()
        shipping(entry | {"colour": "red"})
        with pytest.raises(UserError, match="no idea"):
            ideas()
    finally:
        catalogue.ideas.cache_clear()
