"""The classical baselines against scikit-learn, closed forms and counting by hand; what was saved predicts the same."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import train_test_split

from assay import registry
from assay.contracts import (
    Class,
    Estimator,
    Events,
    Graph,
    Image,
    NextEvent,
    NextStroke,
    NextTokens,
    Pair,
    Series,
    Signature,
    Table,
    Tokens,
    Values,
)
from assay.errors import UserError
from assay.models.estimators import (
    GradientBoosting,
    LabelPropagation,
    Logistic,
    Majority,
    PoissonEvents,
    PositionMajority,
    RidgeValues,
    SupportVectors,
    baselines_for,
)
from assay.models.estimators.base import ABSENT, gather
from assay.models.estimators.graph import normalised_adjacency, propagate
from assay.tasks.base import ArrayTask
from assay.tasks.events import EventTask
from assay.tasks.synthetic.in_context_languages import in_context_languages

NAMES = ("train", "validation", "test")


def divided(x, y, key, signature, **more):
    kind = isinstance(signature.output, Class)
    stratify = y if kind and y.ndim == 1 else None
    x_train, x_rest, y_train, y_rest = train_test_split(x, y, test_size=0.4, random_state=0, stratify=stratify)
    later = y_rest if stratify is not None else None
    x_valid, x_test, y_valid, y_test = train_test_split(x_rest, y_rest, test_size=0.5, random_state=0, stratify=later)
    rows = zip(NAMES, (x_train, x_valid, x_test), (y_train, y_valid, y_test), strict=True)
    target = torch.long if kind and not signature.multi_label else torch.float32
    splits = {name: {key: torch.tensor(a, dtype=torch.float32), "target": torch.tensor(b, dtype=target)} for name, a, b in rows}
    return ArrayTask("made", signature, splits, **more)


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return divided((x.reshape(-1, 1, 8, 8) - 4.9) / 6.0, y, "image", Signature(Image(1, 8, 8), Class(10)))


@pytest.fixture(scope="module")
def cancer():
    x, y = load_breast_cancer(return_X_y=True)
    return divided((x - x.mean(0)) / x.std(0), y, "table", Signature(Table(30), Class(2)))


@pytest.fixture(scope="module")
def diabetes():
    x, y = load_diabetes(return_X_y=True)
    return divided(x / x.std(0), (y[:, None] - y.mean()) / y.std(), "table", Signature(Table(10), Values(1)))


def test_digits_reach_the_figures_known_of_them(digits):
    """Logistic regression and an RBF machine on digits are known to reach about 0.96 and 0.99; far below means a bug."""
    assert digits.evaluate(Logistic().fit(digits), "test").metrics["accuracy"] >= 0.95
    assert digits.evaluate(SupportVectors().fit(digits), "test").metrics["accuracy"] >= 0.985


def test_logistic_regression_is_scikit_learns(digits):
    """With the C it chose, its probabilities are those of scikit-learn's own model fitted to the same rows."""
    fitted = Logistic().fit(digits)
    train, test = digits.splits["train"], digits.splits["test"]
    peer = LogisticRegression(C=fitted.fitted["penalty"], max_iter=300).fit(train["image"].flatten(1).double().numpy(), train["target"])
    ours = fitted(next(digits.batches("test", 1000))).prediction.softmax(-1).numpy()
    np.testing.assert_allclose(ours, peer.predict_proba(test["image"].flatten(1).double().numpy()), atol=1e-5)


def test_two_classes_keep_the_peers_log_odds(cancer):
    """Two logits must differ by scikit-learn's single decision value."""
    fitted = Logistic().fit(cancer)
    train, test = cancer.splits["train"], cancer.splits["test"]
    peer = LogisticRegression(C=fitted.fitted["penalty"], max_iter=300).fit(train["table"].double().numpy(), train["target"])
    logits = fitted(test).prediction
    np.testing.assert_allclose((logits[:, 1] - logits[:, 0]).numpy(), peer.decision_function(test["table"].double().numpy()), atol=1e-4)


def test_ridge_is_scikit_learns_and_beats_the_mean(diabetes):
    fitted = RidgeValues().fit(diabetes)
    train, test = diabetes.splits["train"], diabetes.splits["test"]
    peer = Ridge(alpha=fitted.fitted["penalty"]).fit(train["table"].double().numpy(), train["target"].double().numpy())
    np.testing.assert_allclose(fitted(test).prediction.numpy().ravel(), peer.predict(test["table"].double().numpy()).ravel(), atol=1e-5)
    mean = diabetes.evaluate(Majority().fit(diabetes), "test").metrics["mse"]
    assert diabetes.evaluate(fitted, "test").metrics["mse"] < 0.8 * mean


def test_ridge_solves_a_linear_recurrence():
    """A forecast that is exactly linear in the lags is found to rounding, whatever the level of the window."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.zeros(400, 2)
    steps[:2] = torch.randn(2, 2, generator=generator)
    for index in range(2, 400):  # a slowly turning plane: linear, order one, does not die out
        angle = torch.tensor(0.3)
        turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
        steps[index] = turn @ steps[index - 1]
    windows = steps.unfold(0, 12, 1).transpose(1, 2)
    parts = zip(NAMES, (slice(0, 200), slice(200, 300), slice(300, 380)), strict=True)
    splits = {name: {"series": windows[part, :8], "target": windows[part, 8:]} for name, part in parts}
    task = ArrayTask("turning", Signature(Series(2, 8), Values(2), horizon=4), splits)
    fitted = RidgeValues().fit(task)
    assert fitted(next(task.batches("test", 7))).prediction.shape == (7, 4, 2)
    assert task.evaluate(fitted, "test").metrics["mse"] < 1e-4


def test_gradient_boosting_learns_what_no_line_can():
    """An exclusive or is invisible to a linear model and easy for trees."""
    x = np.random.default_rng(0).normal(size=(600, 2))
    task = divided(x, (x[:, 0] * x[:, 1] > 0).astype(int), "table", Signature(Table(2), Class(2)))
    assert task.evaluate(GradientBoosting().fit(task), "test").metrics["accuracy"] > 0.9
    assert task.evaluate(Logistic().fit(task), "test").metrics["accuracy"] < 0.7


def test_majority_is_the_prior(cancer):
    """Its logits are log frequencies, so its cross-entropy on the training split is the labels' entropy (half a count added)."""
    fitted = Majority().fit(cancer)
    counts = np.bincount(cancer.splits["train"]["target"], minlength=2) + 0.5
    np.testing.assert_allclose(fitted(cancer.splits["test"]).prediction[0].exp().numpy(), counts / counts.sum(), rtol=1e-5)


def test_majority_of_a_forecast_ignores_masked_targets():
    target = torch.tensor([[[1.0], [5.0]], [[3.0], [999.0]]])
    batch = {"series": torch.zeros(2, 4, 1), "target": target, "target_mask": torch.tensor([[[True], [True]], [[True], [False]]])}
    task = ArrayTask("masked", Signature(Series(1, 4), Values(1), horizon=2), dict.fromkeys(NAMES, batch))
    prediction = Majority().fit(task)(batch).prediction
    np.testing.assert_allclose(prediction[0, :, 0].numpy(), [2.0, 5.0])
    assert prediction.shape == (2, 2, 1)


def test_a_class_unseen_in_training_is_finite_and_never_chosen(digits):
    """Training without nines: the loss must stay finite and no nine be predicted."""
    kept = digits.splits["train"]["target"] != 9
    splits = {**digits.splits, "train": {key: value[kept] for key, value in digits.splits["train"].items()}}
    task = ArrayTask("no-nines", digits.signature, splits)
    for estimator in (Logistic(), SupportVectors()):
        found = task.evaluate(estimator.fit(task), "test")
        assert np.isfinite(found.metrics["log_loss"])
        assert (found.predictions != 9).all()
        assert float(estimator(task.splits["test"]).prediction[0, 9]) == pytest.approx(ABSENT)


def test_several_yes_no_labels_are_fitted_one_by_one(cancer):
    x, y = cancer.splits["train"]["table"], cancer.splits["train"]["target"]
    splits = {n: {"table": p["table"], "target": torch.stack([p["target"], 1 - p["target"]], 1).float()} for n, p in cancer.splits.items()}
    task = ArrayTask("multi", Signature(Table(30), Class(2), multi_label=True), splits)
    prediction = Logistic().fit(task)(splits["test"]).prediction
    np.testing.assert_allclose(prediction[:, 0].numpy(), -prediction[:, 1].numpy(), atol=1e-2)  # the second label is the first's negation
    assert task.evaluate(Logistic().fit(task), "test").metrics["accuracy"] > 0.9
    assert len(x) == len(y)


# ------------------------------------------------------------------------------------------------ graph, positions, events


def ring_task():
    """Two rings of 20 nodes, one class each; two nodes of each are labelled."""
    ring = torch.arange(20)
    half = torch.stack([ring, (ring + 1) % 20])
    edges = torch.cat([half, half + 20], 1)
    edges = torch.cat([edges, edges.flip(0)], 1)
    nodes = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    parts = {"train": [0, 10, 20, 30], "validation": [5, 25], "test": [1, 2, 3, 17, 21, 28, 36]}

    class GraphTask(ArrayTask):
        def batch_of(self, split, index):
            return {**super().batch_of(split, index), "nodes": nodes, "edges": edges}

    splits = {name: {"selected": torch.tensor(rows), "target": torch.tensor([row // 20 for row in rows])} for name, rows in parts.items()}
    return GraphTask("rings", Signature(Graph(3, 40, edges.shape[1]), Class(2)), splits), nodes, edges


def test_label_propagation_has_the_closed_form():
    """Iterating αSF + (1 − α)Y converges to (1 − α)(I − αS)⁻¹Y."""
    _, _, edges = ring_task()
    adjacency = normalised_adjacency(edges.numpy(), 40)
    labels = np.random.default_rng(0).random((40, 2))
    closed = 0.5 * np.linalg.solve(np.eye(40) - 0.5 * adjacency.toarray(), labels)
    np.testing.assert_allclose(propagate(adjacency, labels, 0.5), closed, atol=1e-12)


def test_label_propagation_follows_edges_and_features_do_not_help():
    """Labels cannot cross from ring to ring, so every node is right; the features are noise."""
    task, _, _ = ring_task()
    assert task.evaluate(LabelPropagation().fit(task), "test").metrics["accuracy"] == 1.0


def test_label_propagation_refuses_another_graph():
    task, nodes, edges = ring_task()
    fitted = LabelPropagation().fit(task)
    with pytest.raises(ValueError, match="40 nodes, got one of 39"):
        fitted({"nodes": nodes[:39], "edges": edges, "selected": torch.tensor([0])})


def test_logistic_regression_reads_sparse_nodes():
    """Node features may be sparse CSR; the answer is that of the dense ones."""
    task, nodes, edges = ring_task()
    dense = Logistic().fit(task)
    rows = {"nodes": nodes, "edges": edges, "selected": torch.tensor([4, 33])}
    sparse = {**rows, "nodes": nodes.to_sparse_csr()}
    np.testing.assert_allclose(dense(rows).prediction.numpy(), dense(sparse).prediction.numpy(), atol=1e-6)


def test_position_majority_reads_only_the_current_step():
    generator = torch.Generator().manual_seed(0)
    series = torch.randn(60, 10, 2, generator=generator)
    batch = {"series": series, "mask": torch.ones(60, 10, dtype=torch.bool), "target": (series[..., 0] > series[..., 1]).long()}
    task = ArrayTask("steps", Signature(Series(2, 10), Class(2), per_position=True), dict.fromkeys(NAMES, batch))
    fitted = PositionMajority().fit(task)
    assert task.evaluate(fitted, "test").metrics["accuracy"] > 0.97
    moved = {**batch, "series": torch.cat([series[:, :5], torch.randn(60, 5, 2, generator=generator)], 1)}
    assert torch.equal(fitted(moved).prediction[:, :5], fitted(batch).prediction[:, :5])


def test_position_majority_needs_no_mask():
    """Without padding a task has no mask: every position then counts."""
    series = torch.randn(20, 5, 2, generator=torch.Generator().manual_seed(0))
    batch = {"series": series, "target": (series[..., 0] > 0).long()}
    task = ArrayTask("unmasked", Signature(Series(2, 5), Class(2), per_position=True), dict.fromkeys(NAMES, batch))
    assert task.evaluate(PositionMajority().fit(task), "test").metrics["accuracy"] > 0.9


def test_position_majority_counts_tokens():
    tokens = torch.tensor([[0, 1, 0, 1], [0, 1, 1, 0]])
    batch = {"tokens": tokens, "target": 2 * tokens, "mask": torch.ones(2, 4, dtype=torch.bool)}
    task = ArrayTask("tokens", Signature(Tokens(2, 4), Class(3), per_position=True), dict.fromkeys(NAMES, batch))
    assert torch.equal(PositionMajority().fit(task)(batch).prediction.argmax(-1), 2 * tokens)


def events_task(generator):
    """Gaps log-normal(0.5, 0.8²), marks a cycle 0, 1, 2 that is kept 90 % of the time."""
    gaps = np.exp(generator.normal(0.5, 0.8, (90, 21))).astype(np.float32)
    marks = np.zeros((90, 21), dtype=np.int64)
    for place in range(1, 21):
        kept = generator.random(90) < 0.9
        marks[:, place] = np.where(kept, (marks[:, place - 1] + 1) % 3, generator.integers(0, 3, 90))
    real = np.ones((90, 20), dtype=bool)
    arrays = {
        "gaps": gaps[:, :-1],
        "marks": marks[:, :-1],
        "mask": real,
        "target_gaps": gaps[:, 1:],
        "target_marks": marks[:, 1:],
        "target_mask": real,
    }
    cuts = {"train": slice(0, 60), "validation": slice(60, 75), "test": slice(75, 90)}
    splits = {name: {key: torch.from_numpy(value[cut]) for key, value in arrays.items()} for name, cut in cuts.items()}
    encoding = {"scale": 1.0, "longest": float(gaps.max())}
    return EventTask("made", Signature(Events(3, 20), NextEvent(3), per_position=True), splits, encoding=encoding, metric="nll")


def test_stationary_events_reach_the_entropy_of_their_source():
    """The best possible nll is the source's own entropy: log-normal ½ln(2πe σ²) + μ, and the chain's conditional entropy."""
    task = events_task(np.random.default_rng(0))
    found = task.evaluate(PoissonEvents().fit(task), "test").metrics
    chances = np.array([0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3])
    assert found["gap_nll"] == pytest.approx(0.5 * np.log(2 * np.pi * np.e * 0.64) + 0.5, abs=0.12)
    assert found["mark_nll"] == pytest.approx(-(chances * np.log(chances)).sum(), abs=0.12)


# ------------------------------------------------------------------------------------------------ the contract


CASES = {
    "majority": "cancer",
    "logistic-regression": "digits",
    "svm": "digits",
    "gradient-boosting": "cancer",
    "ridge": "diabetes",
}


@pytest.mark.parametrize("name", CASES)
def test_what_was_saved_predicts_the_same(name, request, tmp_path):
    task = request.getfixturevalue(CASES[name])
    estimator = registry.resolve("estimator", name)().fit(task)
    estimator.save(tmp_path)
    loaded = type(estimator).load(tmp_path)
    batch = next(task.batches("test", 64))
    assert torch.equal(loaded(batch).prediction, estimator(batch).prediction)
    assert loaded.parameter_count() == estimator.parameter_count() > 0
    assert isinstance(loaded, Estimator)
    assert not list(tmp_path.glob("*.partial"))


def test_saved_graph_and_event_baselines_predict_the_same(tmp_path):
    """These two hold a graph's scores and a stream's distributions."""
    made = ((LabelPropagation, ring_task()[0]), (PoissonEvents, events_task(np.random.default_rng(0))))
    for kind, task in made:
        estimator = kind().fit(task)
        estimator.save(tmp_path / estimator.name)
        batch = next(task.batches("test", 5))
        assert torch.equal(kind.load(tmp_path / estimator.name)(batch).prediction, estimator(batch).prediction)


def test_saved_boosted_values_load(diabetes, tmp_path):
    """Regression trees hold other private types than classification trees: the allow-list must know both."""
    estimator = GradientBoosting().fit(diabetes)
    estimator.save(tmp_path)
    batch = next(diabetes.batches("test", 16))
    assert torch.equal(GradientBoosting.load(tmp_path)(batch).prediction, estimator(batch).prediction)


def test_foreign_types_are_not_loaded(cancer, tmp_path):
    """A file that names anything beyond the allow-list is refused before it is read."""
    import skops.io

    Majority().fit(cancer).save(tmp_path)
    (tmp_path / "fitted.skops").write_bytes(skops.io.dumps({"answer": ArrayTask}))
    with pytest.raises(UserError, match="never holds"):
        Majority.load(tmp_path)


def test_another_estimators_folder_is_refused(cancer, tmp_path):
    Majority().fit(cancer).save(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["build"]["name"] == "majority"
    with pytest.raises(UserError, match="'majority', not 'svm'"):
        SupportVectors.load(tmp_path)
    with pytest.raises(UserError, match=r"config\.json"):
        Majority.load(tmp_path / "nowhere")


def test_a_wrong_signature_is_refused_in_one_sentence(diabetes):
    with pytest.raises(UserError, match="svm cannot serve this data"):
        SupportVectors().fit(diabetes)


def test_unfitted_estimators_say_so(cancer):
    with pytest.raises(ValueError, match="not fitted"):
        Majority()(cancer.splits["test"])


TOKENS = Tokens(256, 32)
EXPECTED = [
    (Signature(Image(1, 8, 8), Class(10)), ["logistic-regression", "svm"]),
    (Signature(Table(4), Class(3)), ["logistic-regression", "gradient-boosting"]),
    (Signature(Table(4), Values(1)), ["ridge", "gradient-boosting"]),
    (Signature(Table(4), Class(3), multi_label=True), ["logistic-regression"]),
    (Signature(Series(2, 50), Class(3)), ["logistic-regression", "minirocket"]),
    (Signature(Series(2, 50), Values(2), horizon=5), ["seasonal-naive", "ridge"]),
    (Signature(Series(2, 50), Values(1)), ["ridge"]),
    (Signature(Series(7, 64), Class(2), per_position=True), ["behaviour-majority"]),
    (Signature(TOKENS, NextTokens(256)), ["ngram"]),
    (Signature(TOKENS, Class(2)), ["tfidf"]),
    (Signature(TOKENS, Class(2), multi_label=True), ["majority"]),
    (Signature(Pair(TOKENS, TOKENS), Values(1)), ["tfidf"]),
    (Signature(Graph(3, 40, 80), Class(2)), ["label-propagation", "logistic-regression"]),
    (Signature(Events(3, 20), NextEvent(3), per_position=True), ["poisson"]),
    (Signature(Series(3, 20), NextStroke(4), per_position=True), ["constant-strokes"]),
]


@pytest.mark.parametrize(("signature", "names"), EXPECTED)
def test_each_kind_of_data_has_its_baseline(signature, names):
    assert baselines_for(signature) == names


def test_every_registered_estimator_is_an_estimator():
    for name in registry.names("estimator"):
        made = registry.resolve("estimator", name)()
        assert made.name == name
        assert isinstance(made, Estimator)


def test_batches_that_end_with_their_longest_example_are_gathered_whole():
    """The in-context languages cut each batch at its longest row, so that the splits' batches differ in length."""
    task = in_context_languages(train=1030, validation=4, test=4, strings=(1, 2), string_length=(1, 4))
    lengths = {batch["tokens"].shape[1] for batch in task.batches("train", 1)}
    assert len(lengths) > 1
    rows = gather(task, "train")
    assert rows["tokens"].shape == rows["target_mask"].shape == (1030, max(lengths))
    assert int(rows["target_mask"].sum()) == sum(int(batch["target_mask"].sum()) for batch in task.batches("train", 100))
