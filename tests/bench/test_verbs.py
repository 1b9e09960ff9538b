import numpy as np
import pandas as pd
import pytest

from assay.bench.verbs import evaluate, generate, inspect, predict, shrink, train
from assay.errors import UserError


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(240, 2))
    frame = pd.DataFrame({"first": x[:, 0], "second": x[:, 1], "price": 1000 + 50 * x[:, 0] - 20 * x[:, 1]})
    path = tmp_path_factory.mktemp("table") / "prices.csv"
    frame.to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def run(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mlp"
    return train(str(table), "mlp", parameters=2_000, steps=300, learning_rate=1e-2, target="price", output=folder).folder


def test_predictions_are_in_the_units_of_the_file(run, table, tmp_path):
    frame = pd.read_csv(table).head(20)
    frame.drop(columns="price").to_csv(tmp_path / "new.csv", index=False)
    found = predict(run, str(tmp_path / "new.csv"))
    assert list(found.columns) == ["name", "price"]
    assert np.abs(found["price"].to_numpy() - frame["price"].to_numpy()).mean() < 10  # the target's deviation is about 54


def test_evaluation_on_further_data_equals_the_run_s_own_measure_of_it(run, table, tmp_path):
    own = evaluate(run)
    assert own["mse"] < 0.05
    whole = evaluate(run, str(table))
    predicted, true = predict(run, str(table))["price"], pd.read_csv(table)["price"]
    deviation = np.sqrt(((predicted - true) ** 2).mean() / whole["mse"])
    parts = pd.read_csv(table)["price"].std()
    assert deviation == pytest.approx(parts, rel=0.15)  # mse is in training deviations


def test_training_goes_on_from_a_run(run, table, tmp_path):
    before = evaluate(run)["mse"]
    after = evaluate(train(str(table), from_run=run, steps=300, learning_rate=1e-3, target="price", output=tmp_path / "on"))["mse"]
    assert after < before


def test_a_shrunk_run_stands_alone(run, tmp_path):
    smaller, trail = shrink(run, "magnitude", {"parameters": 0.5}, output=tmp_path / "small")
    assert trail
    again = evaluate(smaller.folder)
    assert again == pytest.approx(evaluate(smaller), rel=1e-5)
    assert again["mse"] < 0.5


def test_inspect_finds_something_and_changes_nothing(run):
    before = evaluate(run)
    found = inspect(run, "noise")
    assert "larger than the gradient" in found["noise"].sentence
    assert evaluate(run) == before


def test_text_is_generated_by_a_run_on_text(tmp_path):
    path = tmp_path / "abc.txt"
    path.write_text("abcdefgh" * 400)
    folder = train(str(path), "gru", parameters=5_000, steps=150, learning_rate=1e-2, output=tmp_path / "run").folder
    assert generate(folder, "abcd", count=12, temperature=0.0) == "efghabcdefgh"
    with pytest.raises(UserError, match="empty"):
        generate(folder, "")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda run: train("digits"), "either a model"),
        (lambda run: train("digits", from_run=run, steps=1), "trained for"),
        (lambda run: evaluate(run / "nowhere"), "is not a folder"),
        (lambda run: evaluate(run.parent), "config.json"),
        (lambda run: generate(run, "a"), "next token"),
        (lambda run: shrink(run, "magnitude", {"parameters": 1.5}), "at most 1"),
        (lambda run: shrink(run, "magnitude", {"latency": 0.5}), "magnitude cannot shrink"),
        (lambda run: inspect(run, "no-such"), "did you mean"),
    ],
)
def test_wrong_use_is_one_sentence(run, call, words):
    with pytest.raises(UserError, match=words):
        call(run)


def test_probes_that_train_wait_until_they_are_named_and_a_refusal_is_a_sentence(run):
    assert not {"capacity", "guides"} & set(inspect(run))
    with pytest.raises(UserError, match="gradient-flow has nothing to say of"):
        inspect(run, "gradient-flow")
