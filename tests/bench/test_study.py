"""A study end to end on a small table: rows, folders, leaderboard, failures as rows, resuming, refusals."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from small import FAMILIES, MIXER, QUICK, table_task

import assay
from assay import measure
from assay.bench.files import locked
from assay.bench.results import LEADERBOARD_COLUMNS, ROW_FIELDS
from assay.bench.statistics import paired_interval
from assay.errors import UserError


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "s"
    return assay.compare(table_task(), models=["mlp", "logistic-regression"], output=folder, **QUICK | {"rates": (1e-3, 1e-2), "steps": 40})


def test_rows_have_every_field_and_real_measures(study):
    assert len(study.rows) == 4
    for row in study.rows:
        assert set(ROW_FIELDS) <= set(row)
        assert row["status"] == "done"
        assert row["machine"] == measure.machine()
        assert row["latency_p95_ms"] >= row["latency_ms"] > 0
        assert row["latency_batch_ms"] > 0
        assert row["bytes"] > 4 * row["parameters"]
        assert row["train_seconds"] > 0
    network = next(row for row in study.rows if row["model"] == "mlp")
    assert network["parameters_off"] == (abs(network["parameters"] - 500) > 10)
    assert network["steps"] == 40
    assert network["inference_flops"] > 0
    assert network["search_seconds"] > 0
    assert network["learning_rate"] in (1e-3, 1e-2)
    assert network["flops"] > network["inference_flops"] * 3 * 32 * 39


def test_a_runs_folder_holds_what_a_row_says(study):
    for row in study.rows:
        folder = study.folder / "runs" / row["run"]
        names = {path.name for path in folder.iterdir()}
        assert {"config.json", "encoding.json", "curve.csv", "log.txt", "scores.npz", "row.json"} <= names
        assert not list(folder.parent.glob(".*"))
        with np.load(folder / "scores.npz") as arrays:
            assert arrays["scores"].mean() == pytest.approx(row["value"])
            assert len(arrays["predictions"]) == len(arrays["scores"]) == 60


def test_the_checkpoint_gives_the_rows_value_again(study):
    from assay import models

    row = next(row for row in study.rows if row["model"] == "mlp")
    model = models.load(study.folder / "runs" / row["run"])
    assert table_task().evaluate(model, "test").metrics["accuracy"] == pytest.approx(row["value"])


def test_leaderboard_and_verdict_agree_with_the_scores_on_disk(study):
    table = pd.read_csv(study.folder / "leaderboard.csv")
    assert list(table.columns) == list(LEADERBOARD_COLUMNS)
    means = {row["model"]: [] for row in study.rows}
    scores = {row["model"]: [] for row in study.rows}
    for row in sorted(study.rows, key=lambda row: row["seed"]):
        means[row["model"]].append(row["value"])
        scores[row["model"]].append(np.load(study.folder / "runs" / row["run"] / "scores.npz")["scores"])
    for line in table.to_dict("records"):
        assert line["value"] == pytest.approx(np.mean(means[line["model"]]))
        assert line["low"] <= line["value"] <= line["high"]
        assert line["runs"] == 2
    interval = paired_interval(np.array(scores["mlp"]), np.array(scores["logistic-regression"]))
    tied = interval.low <= 0 <= interval.high
    assert (study.verdict.kind == "undecided") == tied
    assert study.report.is_file()


@pytest.fixture
def unmeasured(monkeypatch):
    """Latency and memory cost a fresh process a model: only the tests that look at them pay for it."""
    monkeypatch.setattr("assay.bench.study.measured", lambda *_args: {})


def test_broken_models_are_rows_and_the_study_goes_on(tmp_path, unmeasured):
    (tmp_path / "mine.py").write_text(FAMILIES)
    models = [f"{tmp_path}/mine.py:{name}" for name in ("Raising", "Hungry", "Exploding", "Sound")]
    study = assay.compare(table_task(), models=models, output=tmp_path / "s", **QUICK)
    rows = {row["model"]: row for row in study.rows}
    assert rows["mine.py:Raising"]["status"] == "failed"
    assert rows["mine.py:Raising"]["error"] == "RuntimeError: a part is"
    assert "Traceback" in (study.folder / "runs" / rows["mine.py:Raising"]["run"] / "log.txt").read_text()
    assert rows["mine.py:Hungry"]["status"] == "out-of-memory"
    assert rows["mine.py:Exploding"]["status"] == "diverged"
    assert rows["mine.py:Exploding"]["value"] is None
    assert rows["mine.py:Sound"]["status"] == "done"
    last = study.leaderboard.tail(3)
    assert set(last["model"]) == {"mine.py:Raising", "mine.py:Hungry", "mine.py:Exploding"}
    assert last["rank"].isna().all()
    for line in (study.folder / "results.jsonl").read_text().splitlines():
        assert "NaN" not in line


@pytest.mark.slow
def test_a_users_mixer_stands_among_the_others(tmp_path):
    from assay.contracts import Class, Series, Signature
    from assay.tasks import ArrayTask

    generator = torch.Generator().manual_seed(0)
    splits = {}
    for split in ("train", "validation", "test"):
        x = torch.randn(40, 6, 1, generator=generator)
        splits[split] = {"series": x, "target": (x.mean((1, 2)) > 0).long()}
    task = ArrayTask("means", Signature(Series(1, 6), Class(2)), splits)
    (tmp_path / "mine.py").write_text(MIXER)
    study = assay.compare(
        task, models=["lstm", f"{tmp_path}/mine.py:MyMixer", "logistic-regression"], output=tmp_path / "s", **QUICK | {"parameters": 2000}
    )
    assert {row["model"]: row["status"] for row in study.rows} == {"lstm": "done", "mine.py:MyMixer": "done", "logistic-regression": "done"}
    lstm = next(row for row in study.rows if row["model"] == "lstm")
    assert lstm["state_bytes"] > 0
    assert next(row for row in study.rows if row["model"] == "mine.py:MyMixer")["state_bytes"] is None


def test_axes_and_methods_multiply_and_show(tmp_path, unmeasured):
    axis = {"gradient-noise.eta": [0.01, 0.3], "examples": [20, 60]}
    study = assay.compare(
        table_task(), models=["mlp"], methods=["none", "gradient-noise"], axis=axis, output=tmp_path / "s", **QUICK | {"seeds": 1}
    )
    networks = [row for row in study.rows if not row["baseline"]]
    baselines = [row for row in study.rows if row["baseline"]]
    assert len(networks) == 2 * 2 * 2
    assert {tuple(row["axis"]) for row in baselines} == {("examples",)}
    noisy = {row["axis"]["gradient-noise.eta"]: row["validation"] for row in networks if row["methods"] and row["axis"]["examples"] == 60}
    assert len(noisy) == 2
    assert "gradient-noise.eta=0.01 + examples=20" in set(study.leaderboard["axis"])


def test_resuming_runs_nothing_twice_and_mends_what_a_kill_left(tmp_path, monkeypatch, unmeasured):
    folder = tmp_path / "s"
    options = {"models": ["mlp"], "output": folder, **QUICK | {"rates": (1e-3, 1e-2)}}
    whole = assay.compare(table_task(), **options)
    before = whole.leaderboard
    removed, orphan = whole.rows[0]["run"], whole.rows[1]["run"]
    content = [json.dumps(row) for row in whole.rows if row["run"] not in (removed, orphan)]
    (folder / "results.jsonl").write_text(
        "\n".join([*content, '{"run": "torn, "task"'])
    )  # the orphan's folder was written, its row was not
    for path in (folder / "runs" / removed).iterdir():
        path.unlink()
    (folder / "runs" / removed).rmdir()
    (folder / "runs" / ".half.partial").mkdir()
    import assay.bench.executors as executors

    performed = []
    real = executors.perform
    monkeypatch.setattr(executors, "perform", lambda job, *rest: performed.append(job["name"]) or real(job, *rest))
    again = assay.compare(table_task(), resume=True, **options)
    assert performed == [removed]
    assert not (folder / "runs" / ".half.partial").exists()
    pd.testing.assert_frame_equal(
        before[["rank", "model", "value", "low", "high"]], again.leaderboard[["rank", "model", "value", "low", "high"]]
    )
    assert len((folder / "results.jsonl").read_text().splitlines()) == len(whole.rows)


def test_a_resumed_study_must_be_the_same(tmp_path, unmeasured):
    folder = tmp_path / "s"
    assay.compare(table_task(), models=["mlp"], output=folder, **QUICK)
    with pytest.raises(UserError, match="already holds a study: add --resume"):
        assay.compare(table_task(), models=["mlp"], output=folder, **QUICK)
    with pytest.raises(UserError, match="parameters is 500 there and 700 now"):
        assay.compare(table_task(), models=["mlp"], output=folder, resume=True, **QUICK | {"parameters": 700})
    with pytest.raises(UserError, match=r"budget is 6 steps there and 7 steps now"):
        assay.compare(table_task(), output=folder, resume=True, **QUICK | {"steps": 7})


def test_a_study_in_use_is_refused(tmp_path, unmeasured):
    folder = tmp_path / "s"
    folder.mkdir()
    with locked(folder), pytest.raises(UserError, match=r"is in use by another assay \(process \d+\)"):
        assay.compare(table_task(), models=["mlp"], output=folder, **QUICK)
    with locked(folder):
        pass  # the lock is free again


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"models": ["dagnn"]}, "dagnn cannot serve this data"),
        ({"models": ["nonsense"]}, "nonsense"),
        ({"models": []}, "names no model"),
        ({"seconds": 3.0}, "one budget, got steps and seconds"),
        ({"steps": 0}, "must be positive"),
        ({"seeds": 0}, "--seeds must be at least 1"),
        ({"rates": (0.0,)}, "must be positive"),
        ({"batch_size": 0}, "--batch-size must be at least 1"),
        ({"axis": {"parameters": ["many"]}}, "needs positive numbers"),
        ({"methods": ["nonsense"]}, "nonsense"),
        ({"workers": 2}, "made in Python"),
    ],
)
def test_unusable_options_are_one_sentence_and_leave_nothing(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        assay.compare(table_task(), **{"models": ["mlp"], "output": tmp_path / "s", **QUICK, **options})
    assert not (tmp_path / "s" / "results.jsonl").exists()


def test_the_same_study_twice_has_the_same_quality(tmp_path, unmeasured):
    values = []
    for name in ("a", "b"):
        torch.manual_seed(len(values))  # what went on before must not matter
        study = assay.compare(table_task(), models=["mlp"], output=tmp_path / name, **QUICK)
        values.append([(row["run"], row["value"], row["validation"]) for row in study.rows])
    assert values[0] == values[1]
    assert all(math.isfinite(value) for _, value, _ in values[0])


def test_built_in_data_are_meant_where_a_folder_bears_their_name(tmp_path, monkeypatch, unmeasured):
    # as after `assay compare karate --output karate`
    monkeypatch.chdir(tmp_path)
    for resume in (False, True):
        study = assay.compare("digits", models=["majority"], seeds=1, steps=1, output=tmp_path / "digits", resume=resume)
    assert 'data = "digits"' in (study.folder / "study.toml").read_text()
