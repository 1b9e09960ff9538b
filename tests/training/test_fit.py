import copy
import math

import pytest
import torch
from torch import nn

from assay.contracts import Class, Method, Output, Series, Signature, Table, Values
from assay.tasks.base import ArrayTask
from assay.training import fit


def linear_task(count=64, noise=0.0):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 3, generator=generator)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]]) + noise * torch.randn(count, 1, generator=generator)
    split = {"table": x, "target": y}
    return ArrayTask("linear", Signature(Table(3), Values(1)), {"train": split, "validation": split, "test": split})


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        self.map = nn.Linear(3, 1)
        nn.init.zeros_(self.map.weight)
        nn.init.zeros_(self.map.bias)

    def forward(self, batch):
        return Output(self.map(batch["table"]))


def sgd(parameters, rate):
    return torch.optim.SGD(parameters, lr=rate)


def test_full_batch_descent_equals_the_closed_recursion():
    task, model = linear_task(), Linear()
    fit(model, task, steps=7, learning_rate=0.1, batch_size=64, optimizer=sgd, schedule="constant", select="last")
    x = torch.cat([task.splits["train"]["table"], torch.ones(64, 1)], 1).double()
    y = task.splits["train"]["target"].double()
    w = torch.zeros(4, 1, dtype=torch.float64)
    for _ in range(7):
        w -= 0.1 * 2 / 64 * x.T @ (x @ w - y)
    found = torch.cat([model.map.weight.T, model.map.bias[:, None]]).double()
    torch.testing.assert_close(found, w, atol=1e-6, rtol=0)


def test_least_squares_is_reached():
    task, model = linear_task(noise=0.3), Linear()
    fit(model, task, steps=800, learning_rate=0.05, batch_size=64, optimizer=sgd, select="last")
    x = torch.cat([task.splits["train"]["table"], torch.ones(64, 1)], 1)
    solution = torch.linalg.lstsq(x, task.splits["train"]["target"]).solution
    torch.testing.assert_close(torch.cat([model.map.weight.T, model.map.bias[:, None]]).detach(), solution, atol=1e-3, rtol=0)


def test_same_seed_same_run_and_another_seed_another():
    weights = []
    for seed in (3, 3, 4):
        torch.manual_seed(0)
        model = Linear()
        fit(model, linear_task(noise=0.5), steps=5, learning_rate=0.01, batch_size=8, seed=seed, select="last")
        weights.append(model.map.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_best_weights_are_those_of_the_best_validation():
    task, seen = linear_task(), []

    class Watch(Method):
        def setup(self, model, task):
            self.model = model

        def update(self, next):
            def watched(optimizer):
                next(optimizer)
                seen.append(copy.deepcopy(self.model.state_dict()))

            return watched

    model = Linear()
    # a learning rate beyond stability: validation gets worse after the first steps, so the best is not the last
    history = fit(
        model, task, steps=12, learning_rate=0.9, batch_size=64, optimizer=sgd, schedule="constant", validate_every=1, methods=[Watch()]
    )
    errors = [entry["validation_mse"] for entry in history.curve]
    assert history.best_step == 1 + errors.index(min(errors)) < 12
    torch.testing.assert_close(model.state_dict(), seen[history.best_step - 1])
    assert task.evaluate(model, "validation").metrics["mse"] == pytest.approx(min(errors))


def test_divergence_is_a_status_not_an_exception():
    history = fit(Linear(), linear_task(), steps=200, learning_rate=1e6, batch_size=64, optimizer=sgd, schedule="constant")
    assert history.status == "diverged"
    assert history.steps < 200


def test_budgets_of_operations_stop_at_their_number_of_steps():
    task = linear_task()
    one = fit(Linear(), task, steps=1, batch_size=8).flops
    assert one == 3 * 2 * 8 * 3  # three times the forward's 2·batch·inputs·outputs
    assert fit(Linear(), task, flops=10 * one, batch_size=8).steps == 10


def test_seconds_stop_training_and_validation_does_not_count():
    history = fit(Linear(), linear_task(), seconds=0.05, batch_size=8)
    assert history.steps > 1
    assert 0.05 <= history.seconds < 5


@pytest.mark.parametrize("budget", [{}, {"steps": 0}, {"seconds": -1.0}])
def test_a_budget_is_needed_and_must_be_positive(budget):
    with pytest.raises(ValueError, match=r"budget|positive"):
        fit(Linear(), linear_task(), **budget)


def test_methods_wrap_in_the_order_given():
    calls = []

    class Named(Method):
        def __init__(self, name):
            self.name = name

        def update(self, next):
            def step(optimizer):
                calls.append(self.name)
                next(optimizer)

            return step

    fit(Linear(), linear_task(), steps=1, methods=[Named("outer"), Named("inner")])
    assert calls == ["outer", "inner"]


def test_own_losses_of_a_model_are_added():
    class WithPenalty(Linear):
        def forward(self, batch):
            return Output(super().forward(batch).prediction, losses={"pull": 1e3 * (self.map.bias - 1).square().sum()})

    model = WithPenalty()
    fit(model, linear_task(), steps=300, learning_rate=1e-4, batch_size=64, optimizer=sgd, schedule="constant", select="last")
    assert model.map.bias.item() == pytest.approx(1, abs=1e-2)


def test_a_batch_of_no_examples_is_refused():
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        fit(Linear(), linear_task(), steps=1, batch_size=0)


def test_dear_validations_are_fewer_and_cost_at_most_a_quarter_of_the_training():
    few, many = (linear_task(count).splits["train"] for count in (64, 1000))
    task = ArrayTask("linear", Signature(Table(3), Values(1)), {"train": few, "validation": many, "test": few})
    history = fit(Linear(), task, steps=100, batch_size=32)
    # 1,000 forward passes cost 1,000 / (3 · 32) steps, four times that must lie between two: 42; the first one shows it, the end has one
    assert [entry["step"] for entry in history.curve] == [10, 42, 84, 100]
    assert len(fit(Linear(), task, steps=100, batch_size=32, validate_every=10).curve) == 10  # who asks for them has them


def test_curve_has_ten_validations_and_the_schedule_ends_at_zero():
    rates = []

    class Rates(Method):
        def update(self, next):
            def step(optimizer):
                rates.append(optimizer.param_groups[0]["lr"])
                next(optimizer)

            return step

    history = fit(Linear(), linear_task(), steps=100, learning_rate=0.1, methods=[Rates()])
    assert [entry["step"] for entry in history.curve] == list(range(10, 101, 10))
    assert max(rates) == pytest.approx(0.1, rel=0.01)
    assert rates[-1] < 1e-3
    assert all(math.isfinite(entry["validation_mse"]) for entry in history.curve)


def test_masked_positions_count_for_nothing_in_loss_and_measures():
    series = torch.randn(4, 5, 2, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([[1, 1, 1, 0, 0]] * 4, dtype=torch.bool)
    target = torch.zeros(4, 5, dtype=torch.long)
    split = {"series": series, "mask": mask, "target": target}
    task = ArrayTask("masked", Signature(Series(2, 5), Class(2), per_position=True), {"train": split, "validation": split, "test": split})

    def predictor(batch):
        logits = torch.zeros(len(batch["series"]), 5, 2)
        logits[:, :3, 0] = 9.0  # right where it counts
        logits[:, 3:, 1] = 9.0  # wrong where it does not
        return Output(logits)

    evaluation = task.evaluate(predictor, "test", batch_size=3)
    assert evaluation.metrics["accuracy"] == 1
    assert evaluation.scores.mean() == pytest.approx(1)
    assert float(task.loss(predictor(split), split)) < 1e-3


def test_evaluation_does_not_depend_on_the_batch_size():
    generator = torch.Generator().manual_seed(2)
    mask = torch.rand(9, 6, generator=generator) > 0.4
    mask[:, 0] = True
    split = {"series": torch.randn(9, 6, 1, generator=generator), "mask": mask, "target": torch.randint(3, (9, 6), generator=generator)}
    task = ArrayTask("s", Signature(Series(1, 6), Class(3), per_position=True), {"train": split, "validation": split, "test": split})

    def predictor(batch):
        return Output(torch.cat([batch["series"], -batch["series"], batch["series"] ** 2], -1))

    whole, parts = (task.evaluate(predictor, "test", batch_size=size).metrics for size in (9, 2))
    assert whole == pytest.approx(parts, rel=1e-5)


def test_tensors_of_unequal_length_are_refused():
    split = {"table": torch.zeros(3, 1), "target": torch.zeros(2, 1)}
    with pytest.raises(ValueError, match="train"):
        ArrayTask("bad", Signature(Table(1), Values(1)), {"train": split})


def test_among_equal_accuracies_the_lower_log_loss_is_kept():
    x = torch.tensor([[1.0], [-1.0]] * 8)
    split = {"table": x, "target": (x[:, 0] > 0).long()}
    task = ArrayTask("sign", Signature(Table(1), Class(2)), {"train": split, "validation": split, "test": split})

    class Slope(nn.Module):
        def __init__(self):
            super().__init__()
            self.slope = nn.Parameter(torch.tensor(0.1))

        def forward(self, batch):
            return Output(torch.cat([-self.slope * batch["table"], self.slope * batch["table"]], 1))

    # right from the first step on; every further step only makes it surer
    history = fit(Slope(), task, steps=40, learning_rate=0.1, batch_size=16, schedule="constant")
    assert {entry["validation_accuracy"] for entry in history.curve} == {1.0}
    assert history.best_step == 40
