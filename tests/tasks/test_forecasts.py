"""Forecast windows against the table they were cut from: order of time, no leakage, gaps, missing values, units."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from assay.contracts import Output
from assay.errors import UserError
from assay.tasks.forecasts import open_forecast
from assay.tasks.options import Options


def table(steps=400, seed=0):
    generator = np.random.default_rng(seed)
    hours = pd.date_range("2024-01-01", periods=steps, freq="h")
    return pd.DataFrame({"when": hours, "load": generator.normal(50, 5, steps).cumsum(), "heat": generator.normal(0, 2, steps)})


def opened(frame, **options):
    return open_forecast(frame, Options(Path("load.csv"), **{"time": "when", "horizon": 6, **options}))


def test_windows_hold_the_tables_own_numbers():
    """The first training window, put back into units, is the table's beginning."""
    frame = table()
    task = opened(frame)
    mean, deviation = np.array(task.encoding["mean"]), np.array(task.encoding["deviation"])
    window = task.splits["train"]["series"][0].numpy() * deviation + mean
    np.testing.assert_allclose(window, frame[["load", "heat"]].to_numpy()[:24], rtol=1e-4, atol=1e-3)
    future = task.splits["train"]["target"][0].numpy() * deviation + mean
    np.testing.assert_allclose(future, frame[["load", "heat"]].to_numpy()[24:30], rtol=1e-4, atol=1e-3)


def test_training_sees_nothing_of_what_comes_later():
    """Changing all that lies behind the first 60 % changes no training window and no statistic."""
    frame, other = table(), table()
    other.loc[240:, ["load", "heat"]] *= -7.0
    first, second = opened(frame), opened(other)
    assert first.encoding["mean"] == second.encoding["mean"]
    for key in ("series", "target"):
        assert torch.equal(first.splits["train"][key], second.splits["train"][key])


def test_parts_follow_one_another_and_forecast_no_step_twice_across_parts():
    frame = pd.DataFrame({"when": np.arange(400), "count": np.arange(400.0)})
    task = opened(frame)
    mean, deviation = task.encoding["mean"][0], task.encoding["deviation"][0]
    steps = {name: np.unique(np.round(part["target"].numpy() * deviation + mean)) for name, part in task.splits.items()}
    assert steps["train"].max() < 240 <= steps["validation"].min()
    assert steps["validation"].max() < 320 <= steps["test"].min()


def test_rows_are_put_in_order_of_time():
    frame = table()
    shuffled = frame.sample(frac=1, random_state=1)
    assert torch.equal(opened(frame).splits["test"]["series"], opened(shuffled).splits["test"]["series"])


def test_gaps_are_put_in_and_never_scored():
    """Ten rows are taken out: the step count stays, the invented steps are masked and no window ends on one."""
    frame = table()
    lost = [100, 101, 102, 350, 351, 352, 353, 354, 355, 356]
    task = opened(frame.drop(index=lost))
    assert task.description.startswith("400 steps")
    assert any("10 moments are missing" in sentence for sentence in task.notes)
    assert task.splits["test"]["target_mask"].logical_not().any()
    for part in task.splits.values():
        assert torch.isfinite(part["series"]).all()
    masked = task.splits["test"]["target_mask"]
    wrong = task.splits["test"]["target"].clone()
    wrong[~masked] += 1000.0  # whatever is said of an invented step must not count
    parts = iter(wrong.split(256))
    assert task.evaluate(lambda batch: Output(next(parts)), "test").metrics["mse"] == 0.0


def test_no_window_ends_on_a_filled_value():
    """A straight line into the future ends at a value not yet seen: the window's last step must be measured."""
    frame = pd.DataFrame({"when": np.arange(400), "count": np.arange(400.0)})
    frame.loc[::7, "count"] = np.nan
    task = opened(frame)
    mean, deviation = task.encoding["mean"][0], task.encoding["deviation"][0]
    for part in task.splits.values():
        last = np.round(part["series"][:, -1, 0].numpy() * deviation + mean)
        assert (last % 7 != 0).all()


def test_months_of_unequal_days_are_regular():
    months = pd.date_range("1990-01-01", periods=300, freq="MS")
    task = opened(pd.DataFrame({"when": months.astype(str), "sales": np.random.default_rng(0).normal(size=300)}))
    assert task.description.startswith("300 steps")
    assert not any("moments are missing" in sentence for sentence in task.notes)


def test_target_columns_come_first_and_only_they_are_forecast():
    task = opened(table(), target="heat")
    assert task.encoding["channels"] == ["heat", "load"]
    assert task.signature.output.count == 1
    assert task.splits["test"]["target"].shape[1:] == (6, 1)


def test_errors_in_units_are_the_standardised_ones_times_the_deviation():
    task = opened(table())
    zeros = task.evaluate(lambda batch: Output(torch.zeros_like(batch["target"])), "test")
    target, deviation = task.splits["test"]["target"].numpy(), np.array(task.encoding["deviation"])
    assert zeros.metrics["mse"] == pytest.approx(float((target**2).mean()), rel=1e-5)
    assert zeros.metrics["mae load"] == pytest.approx(float(np.abs(target[..., 0]).mean() * deviation[0]), rel=1e-5)
    assert zeros.scores.mean() == pytest.approx(zeros.metrics["mse"], rel=1e-6)


def test_overlapping_windows_are_resampled_in_blocks():
    task = opened(table())
    groups = task.groups["test"]
    assert len(groups) == task.size("test")
    assert 1 < len(np.unique(groups)) < len(groups)


def test_several_series_are_cut_one_by_one():
    """No window may run from one series into the next: levels 0 and 1000 never mix."""
    frame = pd.concat([table().assign(site="a", load=np.arange(400.0)), table().assign(site="b", load=1e6 + np.arange(400.0))])
    task = opened(frame, group="site", target="load")
    mean, deviation = task.encoding["mean"][0], task.encoding["deviation"][0]
    for part in task.splits.values():
        level = part["series"][..., 0].numpy() * deviation + mean > 5e5
        assert (level.all(1) | ~level.any(1)).all()


def test_new_rows_are_read_with_the_old_statistics():
    task = opened(table())
    again = opened(table(), encoding=task.encoding)
    assert list(again.splits) == ["test"]
    np.testing.assert_allclose(again.splits["test"]["series"][0].numpy(), task.splits["train"]["series"][0].numpy(), atol=1e-5)
    ahead = opened(table(26), encoding=task.encoding)
    assert "target" not in ahead.splits["test"]
    assert ahead.size("test") == 1


REFUSED = [
    (table().assign(load=np.where(np.arange(400) == 4, np.inf, 1.0)), {}, r"row 5, channel 'load' is infinite"),
    (pd.concat([table(), table().iloc[7:8]]), {}, r"row 401, column 'when'.*occurs twice"),
    (table(20), {}, r"20 steps, and \d+ are needed"),
    (table()[["when"]], {}, "no column of numbers"),
    (table().assign(when=[None, *table()["when"].astype(str)[1:]]), {}, "row 1, column 'when' holds no time"),
]


@pytest.mark.parametrize(("frame", "options", "sentence"), REFUSED)
def test_unusable_tables_are_refused_in_one_sentence(frame, options, sentence):
    with pytest.raises(UserError, match=sentence):
        opened(frame, **options)


def test_weather_and_carbon_dioxide_open():
    pytest.importorskip("statsmodels")
    from assay.tasks.series import co2, weather

    made = weather()
    assert made.signature.input.channels == 5
    assert made.splits["train"]["target"].shape[1:] == (24, 5)
    assert co2().splits["train"]["series"].shape[1:] == (104, 1)
