"""Advice before training: what it reads, what it says, that a study can follow it, and what it refuses."""

import numpy as np
import pytest
import torch
from sklearn.kernel_ridge import KernelRidge

from assay.bench import advising
from assay.bench.advising import advise
from assay.bench.kernel_trials import KernelTrials
from assay.bench.report.advice import render_advice
from assay.bench.study import compare
from assay.contracts import Class, Signature, Table, Values
from assay.errors import UserError
from assay.tasks import ArrayTask
from assay.tasks.synthetic.recall import multi_query_recall

from .small import QUICK, table_task


@pytest.fixture(autouse=True, scope="module")
def few_depths():
    """Enough to choose among, and quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(advising, "DEPTHS", (1, 3))
        yield


def rings(examples=160, spoiled_test=False):
    """Two classes by radius, which no linear model tells apart."""
    generator = torch.Generator().manual_seed(0)
    splits = {}
    for split in ("train", "validation", "test"):
        x = torch.randn(examples, 2, generator=generator)
        splits[split] = {"table": x, "target": (x.square().sum(1) > 1.4).long()}
    if spoiled_test:
        splits["test"] = {"table": torch.full((examples, 2), torch.nan), "target": torch.zeros(examples, dtype=torch.long)}
    notes = ["a <note>"]
    return ArrayTask("rings", Signature(Table(2), Class(2)), splits, description="480 <rows>", notes=notes)


@pytest.fixture(scope="module")
def advice():
    return advise(rings(), parameters=2000)


def test_where_a_linear_model_is_at_chance_a_network_is_said_to_pay(advice):
    assert advice.sentence.startswith("A network is likely to pay")
    values = {trial.name: trial.value for trial in advice.limits}
    assert max(trial.value for trial in advice.trials) > values["linear"] + 0.2
    assert set(advice.settings) == {"depth", "activation", "init", "learning_rate"}
    assert advice.settings["init"] == "critical"
    assert 0 < advice.settings["learning_rate"] < 1


def test_where_a_linear_model_is_right_nothing_is_promised():
    assert not advise(table_task(), parameters=1000).sentence.startswith("A network is likely to pay")


def test_the_test_split_is_not_read(advice):
    assert advise(rings(spoiled_test=True), parameters=2000).settings == advice.settings


def test_kernels_train_the_biases_of_the_columns():
    """With biases at 0 and never trained, rectifiers give twice the answer for twice the row (0.68 here), and erf an odd one (0.69)."""
    trials = KernelTrials(rings())
    assert min(trials.kernel(name, 1).value for name in ("relu", "erf")) > 0.9
    assert trials.network("relu", 2).bias_rates == pytest.approx((1.0, 0.0, 0.0))  # 2 / columns


def test_leaving_out_is_fitting_without():
    """The closed form against 160 fits by scikit-learn."""
    trials = KernelTrials(rings())
    assert trials.leaving_out
    network = trials.network("relu", 1)
    gram = network.kernel(trials.x)
    ridge = 1e-3
    found = trials._left_out(gram, ridge)
    shift = ridge * np.diag(gram).mean()
    for row in (0, 17, 159):
        others = np.delete(np.arange(len(gram)), row)
        fitted = KernelRidge(alpha=shift, kernel="precomputed").fit(gram[np.ix_(others, others)], trials.y[others])
        np.testing.assert_allclose(found[row] - trials.mean, fitted.predict(gram[row, others][None])[0], atol=1e-7)


def test_the_page_escapes_what_the_data_say_and_draws_both_pictures(advice):
    page = render_advice(advice)
    assert "480 &lt;rows&gt;" in page
    assert "<li>a &lt;note&gt;</li>" in page
    assert page.count("<svg") == 2
    assert "<script" not in page


def test_a_study_runs_each_network_with_and_without_advice_and_says_what_it_did(tmp_path):
    study = compare(rings(), models=["mlp", "majority"], advised=True, output=tmp_path / "study", **QUICK)
    axes = [row["axis"] for row in study.rows if row["model"] == "mlp"]
    assert axes.count({}) == axes.count({"advised": True}) == 2
    assert len(study.advice_effects) == 1
    assert "mlp + advised" in study.advice_effects[0]
    page = study.report.read_text()
    assert "Advised" in page
    assert "mlp + advised" in page
    again = compare(rings(), models=["mlp", "majority"], advised=True, output=tmp_path / "study", resume=True, **QUICK)
    assert len(again.rows) == len(study.rows)
    plan = study.folder / "study.toml"
    plan.write_text(plan.read_text().partition("[advice]")[0])  # as if it had not been asked for
    with pytest.raises(UserError, match="it was not advised there and is now"):
        compare(rings(), models=["mlp", "majority"], advised=True, output=tmp_path / "study", resume=True, **QUICK)


def test_values_are_advised_too():
    generator = torch.Generator().manual_seed(0)
    splits = {}
    for split in ("train", "validation", "test"):
        x = torch.randn(120, 3, generator=generator)
        splits[split] = {"table": x, "target": (x[:, :1] * x[:, 1:2])}
    found = advise(ArrayTask("product", Signature(Table(3), Values(1)), splits), parameters=1000)
    assert found.direction == "min"
    assert found.sentence.startswith("A network is likely to pay")


def test_what_cannot_be_advised_is_refused_in_a_sentence():
    with pytest.raises(UserError, match="fixed row of numbers, not Tokens"):
        advise(multi_query_recall())
    one = rings()
    one.splits["train"]["target"].zero_()
    with pytest.raises(UserError, match="one class only"):
        advise(one)
    with pytest.raises(UserError, match="must be at least 1"):
        advise(rings(), parameters=0)
