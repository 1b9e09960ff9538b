"""Results on disk: torn lines, rows grouped and averaged, a leaderboard even where nothing finished."""

import json

import numpy as np
import pytest

from assay.bench import results
from assay.bench.files import finite, write_text
from assay.bench.statistics import Comparison
from assay.errors import UserError


def row(model, seed, status="done", **values):
    base = {"run": f"{model}-{seed}", "model": model, "methods": [], "axis": {}, "baseline": False, "seed": seed, "status": status}
    return base | {"metric": "mse", "direction": "min", "value": None, "parameters": 10, "train_seconds": 2.0 + seed, **values}


def write_scores(folder, name, scores):
    (folder / "runs" / name).mkdir(parents=True)
    np.savez(folder / "runs" / name / "scores.npz", scores=scores)


def test_a_torn_last_line_is_dropped_and_a_broken_whole_line_is_said(tmp_path):
    results.append_row(tmp_path, {"run": "a", "value": float("nan")})
    with (tmp_path / "results.jsonl").open("a") as stream:
        stream.write('{"run": "b", "val')
    assert results.read_rows(tmp_path) == [{"run": "a", "value": None}]
    results.drop_torn_line(tmp_path)
    results.append_row(tmp_path, {"run": "c"})
    assert [json.loads(line)["run"] for line in (tmp_path / "results.jsonl").read_text().splitlines()] == ["a", "c"]
    write_text(tmp_path / "results.jsonl", "{broken}\n")
    with pytest.raises(UserError, match="line 1, is not JSON"):
        results.read_rows(tmp_path)


def test_a_leaderboard_of_errors_puts_the_smallest_first_and_the_failed_last(tmp_path):
    generator = np.random.default_rng(0)
    errors = generator.exponential(1.0, 200)
    rows = []
    for model, shift in (("worse", 1.0), ("better", 0.0)):
        for seed in range(2):
            write_scores(tmp_path, f"{model}-{seed}", errors + shift)
            rows.append(row(model, seed))
    rows.append(row("broken", 0, "failed"))
    comparison = results.load_comparison(tmp_path, rows)
    table = results.leaderboard(rows, comparison)
    assert list(table["model"]) == ["better", "worse", "broken"]
    assert list(table["rank"][:2]) == [1, 2]
    assert table["value"][1] - table["value"][0] == pytest.approx(1.0)
    assert table["train_seconds"][0] == 2.5
    assert list(table["runs"]) == [2, 2, 0]
    verdict = results.study_verdict(rows, comparison)
    assert verdict.kind == "network"
    assert verdict.sentence.startswith("Use better: mse")


def test_where_nothing_finished_there_is_still_a_table_and_a_sentence():
    rows = [row("broken", 0, "failed"), row("hungry", 0, "out-of-memory")]
    table = results.leaderboard(rows, Comparison({}))
    assert table["rank"].isna().all()
    assert len(table) == 2
    assert results.study_verdict(rows, Comparison({})).kind == "nothing"


def test_json_has_no_numbers_it_cannot_say():
    assert finite({"a": [1.0, float("inf")], "b": (float("nan"), "x")}) == {"a": [1.0, None], "b": [None, "x"]}
