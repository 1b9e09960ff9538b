"""Gauss–Newton products and conjugate gradients against matrices that were written out, and the method on a small network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.contracts import Output, Series, Signature, Values
from assay.models.build import build_network
from assay.tasks.base import ArrayTask
from assay.training import fit
from assay.training.methods.clipping import Clipping
from assay.training.methods.hessian_free import HessianFree, conjugate_gradients, gauss_newton


def test_products_are_those_of_the_matrix() -> None:
    torch.manual_seed(0)
    x, target = torch.randn(5, 3, dtype=torch.float64), torch.randint(4, (5,))
    weights = [torch.randn(4, 3, dtype=torch.float64), torch.randn(4, dtype=torch.float64)]

    def predict(values: list[Tensor]) -> Tensor:
        return torch.tanh(x @ values[0].T + values[1])

    def loss(prediction: Tensor) -> Tensor:
        return F.cross_entropy(prediction, target)

    jacobian = torch.cat([part.flatten(2).flatten(0, 1) for part in torch.func.jacrev(predict)(weights)], 1)
    curvature = torch.func.hessian(loss)(predict(weights)).reshape(20, 20)
    matrix = jacobian.T @ curvature @ jacobian
    direction = [torch.randn_like(part) for part in weights]
    found = torch.cat([part.flatten() for part in gauss_newton(predict, loss, weights)(direction)])
    torch.testing.assert_close(found, matrix @ torch.cat([part.flatten() for part in direction]))
    assert float(torch.linalg.eigvalsh(matrix).min()) > -1e-12


def test_conjugate_gradients_solve_what_the_matrix_solves() -> None:
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    matrix, gradient = root @ root.T + torch.eye(8), torch.randn(8, generator=generator, dtype=torch.float64)
    step, value = conjugate_gradients(lambda v: [matrix @ v[0]], [gradient], [torch.ones(8, dtype=torch.float64)], 50)
    expected = -torch.linalg.solve(matrix, gradient)
    torch.testing.assert_close(step[0], expected, rtol=1e-6, atol=1e-7)
    assert value == pytest.approx(float(gradient @ expected / 2), rel=1e-6)


def linear_task() -> ArrayTask:
    generator = torch.Generator().manual_seed(0)
    series = torch.randn(64, 6, 2, generator=generator)
    rows = {"series": series, "target": series.cumsum(1).sum(2, keepdim=True)}
    return ArrayTask("sums", Signature(Series(2, 6), Values(1), per_position=True), {"train": rows, "validation": rows, "test": rows})


class Sums(nn.Module):
    """A linear map of running sums: its loss is its own quadratic model."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(2, 1)
        self.dropout = nn.Dropout(0.0)

    def forward(self, batch: dict[str, Tensor]) -> Output:
        return Output(self.dropout(self.map(batch["series"].cumsum(1))))


def test_one_step_solves_least_squares_and_the_damping_falls() -> None:
    task, model, method = linear_task(), Sums(), HessianFree(damping=1e-6)
    fit(model, task, steps=1, batch_size=64, methods=[method])
    assert task.evaluate(model, "test").metrics["mse"] < 1e-6
    assert method.damping == pytest.approx(1e-6 * 2 / 3)


@pytest.mark.parametrize("mixer", ["elman", "lstm"])
def test_it_trains_recurrent_networks_with_what_methods_left_of_the_gradient(mixer: str) -> None:
    """The whole split is one batch, so no step may make it worse."""
    task = linear_task()
    torch.manual_seed(0)
    model: Any = build_network(mixer, task.signature, 1, 0, width=8, hidden="none", depth=1, positions="none")
    before = task.evaluate(model, "test").metrics["mse"]
    seen: list[float] = []
    fit(
        model,
        task,
        steps=4,
        batch_size=64,
        methods=[Clipping(1e6), HessianFree(iterations=8)],
        select="last",
        validate_every=1,
        on_progress=lambda history: seen.append(history.curve[-1]["validation_mse"]),
    )
    assert len(seen) == 4
    assert sorted([before, *seen], reverse=True) == [before, *seen]
    assert seen[-1] < 0.7 * before


def test_a_network_without_derivatives_forwards_is_refused_in_a_sentence() -> None:
    task = linear_task()
    model = build_network("multi-head-lstm", task.signature, 1, 0, width=8, hidden="none", depth=1)
    with pytest.raises(ValueError, match="derivatives forwards"):
        fit(model, task, steps=1, methods=[HessianFree()])
    with pytest.raises(ValueError, match="-1"):
        HessianFree(damping=-1)
