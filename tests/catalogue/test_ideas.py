"""The catalogue of ideas: complete, connected, closed over the registry both ways, and searchable."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from assay import registry
from assay.catalogue import ideas as catalogue
from assay.catalogue.ideas import FAMILIES, PART_KINDS, PATTERNS, SCHEMA_JSON, STATES, STATUSES, find, from_json, graph, ideas, to_json
from assay.cli import app
from assay.contracts import Class as Classes
from assay.contracts import Graph, NextTokens, Signature, Tokens
from assay.errors import UserError

ENTRIES = {idea.id: idea for idea in ideas()}


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_keeps_the_rules(name: str) -> None:
    idea = ENTRIES[name]
    assert re.fullmatch(r"[a-z0-9-]+", idea.id)
    assert idea.family in FAMILIES
    assert idea.patterns
    assert set(idea.patterns) <= set(PATTERNS)
    assert idea.status in STATUSES
    assert 1940 < idea.year < 2100
    assert len(idea.summary.split()) <= 30
    assert bool(idea.parts) != bool(idea.gap)  # what has no part says why
    assert {*idea.related, *idea.instead} <= set(ENTRIES) - {idea.id}
    assert idea.cost.get("state", "–") in (*STATES, "–")


@pytest.mark.parametrize("name", [idea.id for idea in ideas() if idea.parts])
def test_parts_are_registered(name: str) -> None:
    assert list(ENTRIES[name].kinds()) == list(ENTRIES[name].parts)
    assert ENTRIES[name].command()


@pytest.mark.parametrize("kind", PART_KINDS)
def test_every_registered_part_stands_for_an_idea(kind: str) -> None:
    named = {part for idea in ideas() for part in idea.parts}
    assert set(registry.TABLE[kind]) <= named


def test_an_idea_that_streams_has_a_mixer_that_does() -> None:
    for idea in ideas():
        mixers = [registry.resolve("mixer", name) for name, kind in idea.kinds().items() if kind == "mixer"]
        if idea.streams and mixers:
            assert any(getattr(mixer, "causal", False) for mixer in mixers), idea.id
        if idea.streams is False and mixers:
            assert not any(getattr(mixer, "causal", False) for mixer in mixers), idea.id


def test_no_family_or_pattern_is_empty_and_all_is_connected() -> None:
    networkx = pytest.importorskip("networkx")
    assert {idea.family for idea in ideas()} == set(FAMILIES)
    assert {pattern for idea in ideas() for pattern in idea.patterns} == set(PATTERNS)
    assert networkx.is_weakly_connected(graph())


def test_ids_are_unique_and_json_gives_the_ideas_back() -> None:
    assert len(ENTRIES) == len(ideas())
    plain = json.loads(json.dumps(to_json(ideas())))
    assert tuple(from_json(values) for values in plain["ideas"]) == ideas()


def test_json_is_as_its_schema_says() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(json.loads(json.dumps(to_json(ideas()))), SCHEMA_JSON)
    broken = to_json(ideas()) | {"schema": 2}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, SCHEMA_JSON)


def test_words_must_all_occur_and_names_come_first() -> None:
    found = [idea.id for idea in find("retention")]
    assert found[:2] == ["retention", "two-d-retention"]
    assert find("retention gates") == []
    assert len(find("")) == len(ideas())


def test_filters_narrow() -> None:
    constant = find(streams=True, max_state="O(1)")
    assert "retention" in {idea.id for idea in constant}
    assert "softmax-attention" not in {idea.id for idea in constant}
    assert {idea.family for idea in find(family="graphs", pattern="weigh")} == {"graphs"}
    with pytest.raises(UserError, match="--status must be one of proven, partial, far-out"):
        find(status="good")


def test_data_keeps_what_accepts_them() -> None:
    graphs = {idea.id for idea in find(signature=Signature(Graph(5, 20, 60), Classes(3)))}
    assert "decoupled-propagation" in graphs
    assert "retention" not in graphs
    language = {idea.id for idea in find(signature=Signature(Tokens(256, 128), NextTokens(256), per_position=True))}
    assert "retention" in language
    assert "linformer" not in language  # it would see the tokens it must predict


def test_the_command_line_shows_cards_tables_and_what_is_near() -> None:
    run = CliRunner().invoke
    card = run(app, ["catalog", "aaren"]).output
    assert "assay compare DATA --models aaren" in card
    assert "Feng et al. (2024), Attention as an RNN" in card
    assert "recurrence" not in run(app, ["catalog", "--family", "memory"]).output.split("\n")[0]
    assert "nearest are" in run(app, ["catalog", "qqq"]).output
    assert run(app, ["catalog", "qqq"]).exit_code == 0
    assert json.loads(run(app, ["catalog", "--format", "json", "aaren"]).output)["schema"] == catalogue.SCHEMA
    assert run(app, ["catalog", "--kind", "mixer", "aaren"]).output.startswith("mixer      aaren")
    assert "digraph" in run(app, ["catalog", "--format", "graph", "hopfield"]).output
    assert "| **Hopfield" not in run(app, ["catalog", "--format", "markdown", "--family", "graphs"]).output


def test_a_search_for_words_loads_neither_torch_nor_pandas() -> None:
    # they take seconds, which is what a person waits for the answer; another process, for this one has them already
    script = """
import sys
from assay.catalogue import printing
from assay.catalogue.ideas import find
print(printing.show(find("recall"), "", "text"))
assert not {"torch", "pandas"} & set(sys.modules)
"""
    assert "gated-delta" in subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("options", [["--format", "svg"], ["--kind", "mixers"], ["--kind", "mixer", "--status", "proven"]])
def test_what_is_unknown_is_refused(options: list[str]) -> None:
    with pytest.raises(UserError):
        CliRunner().invoke(app, ["catalog", *options], catch_exceptions=False)
