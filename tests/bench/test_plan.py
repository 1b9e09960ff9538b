"""What was asked: written and read back, named by hashes, budgets, learning rates chosen, live lines."""

import hashlib
import io
from dataclasses import replace

import pandas as pd
import pytest
from rich.console import Console

from assay.bench.budget import Budget
from assay.bench.jobs import best_rate
from assay.bench.live import View
from assay.bench.plan import Plan, absolute, shown, sources_of, with_method_options
from assay.errors import UserError

PLAN = Plan(
    data='/data/a "quoted" name \\ ü',
    recognised="1,797 images, 8×8 grey",
    models=("lstm", "/x/mine.py:MyMixer"),
    baselines=("svm",),
    budget=Budget("steps", 100),
    parameters=1000,
    seeds=(0, 1, 2),
    batch_size=32,
    rates=(1e-3, 1e-05),
    threads=1,
    opening={"target": "the [label] = y"},
    methods=("none", "gradient-noise:eta=0.1+clip"),
    axis={"depth": (1, 2), "odd name": ("a", True)},
    advice={"lstm": {"learning_rate": 0.002}},
    sources={"/x/mine.py": "abc"},
)


def test_a_plan_comes_back_from_its_file_and_other_readers_agree(tmp_path):
    tomllib = pytest.importorskip("tomllib")
    text = PLAN.to_toml()
    assert Plan.from_toml(text, tmp_path) == PLAN
    read = tomllib.loads(text)
    assert read["data"] == PLAN.data
    assert read["opening"] == PLAN.opening
    assert read["axis"]["odd name"] == ["a", True]
    assert read["steps"] == 100
    assert read["rates"] == [1e-3, 1e-5]
    assert read["advice"]["lstm"] == [["learning_rate", 0.002]]


def test_a_foreign_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a study's file"):
        Plan.from_toml("models = nonsense\n", tmp_path / "study.toml")


def test_runs_are_models_times_methods_times_axes_times_seeds():
    runs = list(PLAN.runs())
    assert len(runs) == ((2 + 1) * 2 * 4 + 1) * 3  # one of the two models runs a second time, as advised
    names = {PLAN.run_name(*run) for run in runs}
    assert len(names) == len(runs)
    assert all("/" not in name and " " not in name for name in names)


@pytest.mark.parametrize(
    "change",
    [{"budget": Budget("seconds", 100.0)}, {"parameters": 1001}, {"batch_size": 16}, {"rates": (0.1,)}, {"threads": 2}, {"data": "x"}],
)
def test_whatever_decides_a_result_changes_the_runs_name(change):
    first, other = next(PLAN.runs()), replace(PLAN, **change)
    assert PLAN.run_name(*first) != other.run_name(*first)
    assert PLAN.run_name(*first) == replace(PLAN, models=("lstm",)).run_name(*first)


def test_a_changed_user_file_changes_its_runs_alone():
    other = replace(PLAN, sources={"/x/mine.py": "def"})
    changed = {
        configuration.model
        for configuration, seed in PLAN.runs()
        if PLAN.run_name(configuration, seed) != other.run_name(configuration, seed)
    }
    assert changed == {"/x/mine.py:MyMixer"}


def test_axis_points_reach_the_options_of_methods():
    axis = {"gradient-noise.eta": 0.3, "clip.norm": 2, "depth": 1}
    assert with_method_options("gradient-noise:gamma=0.5+clip", axis) == ["gradient-noise:gamma=0.5,eta=0.3", "clip:norm=2"]
    assert with_method_options("none", axis) == []


def test_file_references_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("mine.py:MyMixer") == f"{tmp_path}/mine.py:MyMixer"
    assert absolute("lstm") == "lstm"


def test_files_in_a_pattern_of_mixers_are_found(tmp_path, monkeypatch):
    """A study must run the same file from another folder, print its short name, and notice when it changes."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("class MyMixer: ...")
    name = absolute("base-conv*2~mine.py:MyMixer*3~attention")
    assert name == f"base-conv*2~{tmp_path}/mine.py:MyMixer*3~attention"
    assert shown(name) == "base-conv*2~mine.py:MyMixer*3~attention"
    assert sources_of(name) == {f"{tmp_path}/mine.py": hashlib.sha256(b"class MyMixer: ...").hexdigest()}


def test_a_run_named_in_an_option_is_absolute_known_by_its_weights_and_printed_short(tmp_path, monkeypatch):
    """A guide that is trained anew is another study's guide, though its folder has the same name; a value that is no run stays a value."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "mlp-depth=2"
    run.mkdir()
    assert absolute("guidance:guide=mlp-depth=2,weight=0.5") == "guidance:guide=mlp-depth=2,weight=0.5"  # no run yet
    (run / "config.json").write_text("{}")
    (run / "model.safetensors").write_text("weights")
    name = absolute("guidance:guide=mlp-depth=2,weight=0.5")
    assert name == f"guidance:guide={run},weight=0.5"
    assert shown(name) == "guidance:guide=mlp-depth=2,weight=0.5"
    before = sources_of(name)
    assert list(before) == [str(run)]
    (run / "model.safetensors").write_text("others")
    assert sources_of(name) != before
    assert absolute("guidance:guide=mine.py:Mine") == f"guidance:guide={tmp_path}/mine.py:Mine"
    assert absolute("guidance:guide=resnet") == "guidance:guide=resnet"


def test_budget_shares_keep_their_kind():
    assert Budget("steps", 100).share(1 / 3) == Budget("steps", 33)
    assert Budget("steps", 1).share(1 / 3).fit_options() == {"steps": 1}
    assert Budget("flops", 3e9).share(1 / 3).fit_options() == {"flops": 1e9}
    with pytest.raises(UserError, match="whole number"):
        Budget("steps", 1.5)


def test_the_best_rate_is_chosen_on_validation_and_ties_go_to_the_smaller():
    trials = {0.1: {"validation": 0.9}, 0.01: {"validation": 0.9}, 0.001: {"validation": 0.5}, 1.0: {"validation": None}}
    assert best_rate(trials, "max") == 0.01
    assert best_rate(trials, "min") == 0.001
    assert best_rate({0.1: {"validation": None}, 0.01: {"validation": None}}, "max") == 0.01


def test_plain_lines_where_there_is_no_terminal():
    stream = io.StringIO()
    configuration = PLAN.configurations()[0]
    view = View(True, {configuration.key: configuration.label}, "accuracy", Console(file=stream, soft_wrap=True))
    job = {"kind": "run", "name": "x", "rate": 0.1, "run": PLAN.run_json(configuration, 0)}
    view.begin([(configuration.key, job)], [])
    view.finished(configuration.key, job, {"status": "done", "validation": 0.875})
    view.end()
    line = stream.getvalue()
    assert line.startswith("[1/1] lstm + depth=1 + odd name=a, seed 0: accuracy 0.875 on validation")
    assert "\x1b" not in line


def test_a_live_table_on_a_terminal():
    stream = io.StringIO()
    configuration = PLAN.configurations()[0]
    view = View(True, {configuration.key: "a [bold]name[/bold]"}, "accuracy", Console(file=stream, force_terminal=True, width=120))
    job = {"kind": "run", "name": "x", "rate": 0.1, "run": PLAN.run_json(configuration, 0)}
    view.begin([(configuration.key, job)], [])
    view.progress(configuration.key, {"step": 5, "validation_accuracy": 0.75})
    view.finished(configuration.key, job, {"status": "failed", "validation": None, "error": "it [broke]"})
    view.end()
    assert "a [bold]name[/bold]" in stream.getvalue()
    assert "it [broke]" in stream.getvalue()
    assert "1 failed" in stream.getvalue()


def test_the_printed_leaderboard_has_dashes_where_nothing_finished():
    stream = io.StringIO()
    view = View(True, {}, "accuracy", Console(file=stream, width=120))
    columns = {"methods": "", "low": 0.8, "high": 1.0, "parameters": 10, "latency_ms": 0.5, "train_seconds": 1.0}
    lines = [{"rank": 1, "model": "sound", "value": 0.9, **columns}, {"rank": None, "model": "broken", "value": float("nan"), **columns}]
    view.leaderboard(pd.DataFrame(lines))
    text = stream.getvalue()
    assert "0.8 to 1" in text
    assert "nan" not in text
    assert "None" not in text


def test_silence_is_silent():
    stream = io.StringIO()
    view = View(False, {}, "accuracy", Console(file=stream))
    view.say("nothing")
    assert stream.getvalue() == ""
