"""How errors travel back: against the closed form of a linear network, and as a probe on models of several kinds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from assay.inspection.gradient_flow import GradientFlow, decay_rate, gradient_flow
from assay.models.build import build_network
from assay.tasks.synthetic.adding import adding
from assay.tasks.synthetic.delayed_bit import delayed_bit


class Linear(nn.Module):
    """``h_t = w h_{t−1} + x_t``, the prediction is h: ∂L_T/∂h_t = w^{T−t} ∂L_T/∂h_T."""

    causal = True

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def initial_state(self, batch_size: int) -> Any:
        return torch.zeros(batch_size, 1)

    def scan(self, x: torch.Tensor, state: Any, mask: Any = None) -> tuple[torch.Tensor, Any]:
        outputs = []
        for x_t in x.unbind(1):
            state = self.factor * state + x_t[:, :1]
            outputs.append(state)
        return torch.stack(outputs, 1), state


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.5])
def test_a_scalar_linear_network_follows_its_closed_form(factor: float) -> None:
    task = adding(20, train=4, test=2)
    batch = next(task.training_batches(4, 0))
    lengths = gradient_flow(Linear(factor), batch, task)
    ratios = lengths[1:] / lengths[:-1]
    torch.testing.assert_close(ratios, torch.full_like(ratios, 1 / factor), rtol=1e-4, atol=0)
    assert decay_rate(lengths) == pytest.approx(math.log(factor), abs=1e-4)


def test_the_last_question_is_where_errors_start() -> None:
    """Of delays of 3 to 6 the longest question stands at position 7: the states 0 … 7 are looked at, not the padding."""
    task = delayed_bit((3, 6), train=64, test=4)
    model = build_network("gru", task.signature, 1, 0, width=8, hidden=0)
    assert len(gradient_flow(model, next(task.training_batches(64, 0)), task)) == 8


def test_the_probe_leaves_the_model_as_it_was_and_says_something() -> None:
    task = adding(12, train=16, test=4)
    model = build_network("elman", task.signature, 1, 0, width=8, hidden=0).train()
    finding = GradientFlow(4)(model, task)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert len(finding.table) == 12
    assert "multiplied by" in finding.sentence
    assert finding.figure is not None


def test_models_without_states_are_refused() -> None:
    task = adding(12, train=16, test=4)
    with pytest.raises(ValueError, match="does not read a stream"):
        GradientFlow()(build_network("bilstm", task.signature, 1, 0, width=8), task)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        GradientFlow(0)
    assert math.isnan(decay_rate(torch.zeros(4)))
