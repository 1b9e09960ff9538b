"""Truncated and forward-mode gradients against backpropagation through time, the vanishing-gradient penalty, and clipping."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from assay.contracts import Output, Series, Signature, Values
from assay.models.build import build_network
from assay.nn.recurrent import drop_in
from assay.nn.recurrent.reference import Elman
from assay.tasks.base import ArrayTask
from assay.tasks.synthetic.adding import adding
from assay.tasks.synthetic.delayed_bit import delayed_bit
from assay.training import fit
from assay.training.methods.clipping import Clipping, clip_gradients_
from assay.training.methods.truncated_backpropagation import TruncatedBackpropagation, truncated_backpropagation
from assay.training.methods.vanishing_gradient import VanishingGradientPenalty, vanishing_gradient_penalty
from assay.training.real_time_recurrent_learning import RealTimeRecurrentLearning

LENGTH = 12


def stream() -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """A small LSTM network in float64, a task with a value at every position, and one batch with padding."""
    torch.manual_seed(0)
    signature = Signature(Series(2, LENGTH), Values(1), per_position=True)
    mask = torch.arange(LENGTH) < torch.tensor([[LENGTH], [5], [9]])
    rows = {
        "series": torch.randn(3, LENGTH, 2, dtype=torch.float64),
        "target": torch.randn(3, LENGTH, 1, dtype=torch.float64),
        "mask": mask,
        "target_mask": mask & (torch.rand(3, LENGTH) < 0.7),
    }
    task = ArrayTask("check", signature, {"train": rows, "validation": rows, "test": rows})
    model = build_network("lstm", signature, 1, 0, width=8, hidden=0, depth=2).double()
    return model, task, rows


def gradients(model: nn.Module) -> list[torch.Tensor]:
    found = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    return found


def whole(model: Any, task: Any, batch: dict[str, torch.Tensor]) -> tuple[float, list[torch.Tensor]]:
    loss = task.loss(model(batch), batch)
    loss.backward()
    return float(loss.detach()), gradients(model)


@pytest.mark.parametrize(("k1", "k2"), [(LENGTH, LENGTH), (4, LENGTH), (5, LENGTH), (5, 40), (1, LENGTH)])
def test_pieces_whose_errors_flow_to_the_beginning_give_the_whole_gradient(k1: int, k2: int) -> None:
    model, task, batch = stream()
    loss, expected = whole(model, task, batch)
    output = truncated_backpropagation(model, batch, task.loss, k1, k2)
    assert float(output.loss) == pytest.approx(loss, abs=1e-12)
    torch.testing.assert_close(output.prediction[batch["mask"]], model(batch).prediction.detach()[batch["mask"]], rtol=0, atol=1e-12)
    for one, other in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_values_without_any_mask_count_at_every_position() -> None:
    model, task, batch = stream()
    plain = {key: batch[key] for key in ("series", "target")}
    loss, expected = whole(model, task, plain)
    assert float(truncated_backpropagation(model, plain, task.loss, 5, 40).loss) == pytest.approx(loss, abs=1e-12)
    for one, other in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (3, 3), (2, 5)])
def test_truncated_gradients_are_those_with_the_earlier_state_held(k1: int, k2: int) -> None:
    """By hand: for each piece, the state k2 positions before its end is a constant."""
    model, task, batch = stream()
    total = batch["target_mask"].sum()
    for start in range(0, LENGTH, k1):
        end = min(start + k1, LENGTH)
        first = start if k1 == k2 else max(0, min(start, end - k2))
        with torch.no_grad():
            _, state = model.scan(batch["series"][:, :first], model.initial_state(3), batch["mask"][:, :first])
        prediction, _ = model.scan(batch["series"][:, first:end], state, batch["mask"][:, first:end])
        piece = {key: value[:, start:end] for key, value in batch.items()}
        (task.loss(Output(prediction[:, start - first :]), piece) * (int(piece["target_mask"].sum()) / int(total))).backward()
    expected = gradients(model)
    truncated_backpropagation(model, batch, task.loss, k1, k2)
    for one, other in zip(gradients(model), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_each_piece_can_be_stepped_on() -> None:
    model, task, batch = stream()
    steps = []
    truncated_backpropagation(model, batch, task.loss, 5, after_piece=lambda: steps.append(1))
    assert len(steps) == 3


def test_truncation_hides_what_lies_further_back() -> None:
    """A bit asked for after 20 symbols: all errors stop 5 positions back, so the bit's embedding gets none."""
    task = delayed_bit((20, 20), train=8, test=4)
    model: Any = build_network("elman", task.signature, 1, 0, width=8, hidden=0, depth=1)
    batch = next(task.training_batches(8, 0))
    for k2, reached in ((5, False), (22, True)):
        truncated_backpropagation(model, batch, task.loss, 5, k2)
        assert bool(model.encoder.embedding.weight.grad[:2].abs().sum() > 0) is reached
        model.zero_grad()


def test_the_method_trains_streams_and_leaves_others_alone() -> None:
    task = adding(10, train=64, test=16)
    model = build_network("gru", task.signature, 1, 0, width=8, hidden=0)
    history = fit(model, task, steps=30, learning_rate=1e-2, methods=[Clipping(), TruncatedBackpropagation(5, 10)])
    assert history.curve[-1]["train_loss"] < history.curve[0]["train_loss"]
    with pytest.raises(ValueError, match="k1=4 and k2=3"):
        TruncatedBackpropagation(4, 3)
    with pytest.raises(ValueError, match="k1=0"):
        TruncatedBackpropagation(0)


def elman_step(parameters: Any, state: Any, x: torch.Tensor) -> Any:
    h = torch.tanh(parameters["input"] @ x + parameters["recurrent"] @ state["h"] + parameters["bias"])
    return {"h": h, "trace": 0.5 * state["trace"] + h[:2]}


def small_cell() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]:
    torch.manual_seed(0)
    shapes = {"input": (4, 3), "recurrent": (4, 4), "bias": (4,)}
    parameters = {name: torch.randn(*shape, dtype=torch.float64) for name, shape in shapes.items()}
    state = {"h": torch.zeros(2, 4, dtype=torch.float64), "trace": torch.zeros(2, 2, dtype=torch.float64)}
    return parameters, state, torch.randn(2, 9, 3, dtype=torch.float64)


def test_real_time_recurrent_learning_gives_the_gradient_of_backpropagation_through_time() -> None:
    parameters, state, x = small_cell()

    def loss(state: Any) -> torch.Tensor:
        return (state["h"].sum(1) ** 2).sum() + state["trace"].prod(1).sum()

    learner = RealTimeRecurrentLearning(elman_step, parameters, state)
    found = {name: torch.zeros_like(value) for name, value in parameters.items()}
    for x_t in x.unbind(1):
        learner.advance(x_t)
        for name, gradient in learner.gradient(loss).items():
            found[name] += gradient
    leaves = {name: value.requires_grad_() for name, value in parameters.items()}
    total, unrolled = torch.zeros(()), state
    for x_t in x.unbind(1):
        step = torch.func.vmap(elman_step, in_dims=(None, 0, 0))
        unrolled = step(leaves, unrolled, x_t)
        total = total + loss(unrolled)
    for name, gradient in zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(learner.state["h"], unrolled["h"].detach())


def test_the_diagonal_form_keeps_what_moves_a_unit_itself() -> None:
    """After one position it is exact; later the influence of one unit's weights on the others is left out."""
    parameters, state, x = small_cell()
    exact, sparse = (RealTimeRecurrentLearning(elman_step, parameters, state, diagonal=diagonal) for diagonal in (False, True))
    for learner in (exact, sparse):
        learner.advance(x[:, 0])
    torch.testing.assert_close(exact.influence, sparse.influence)
    for learner in (exact, sparse):
        learner.advance(x[:, 1])
    own, others = sparse.influence["bias"][:, :4].diagonal(dim1=1, dim2=2), sparse.influence["bias"][:, 0, 1:]
    assert bool((own != 0).all())
    assert bool((others == 0).all())
    assert bool((exact.influence["bias"][:, 0, 1:] != 0).any())


def test_the_penalty_is_zero_for_a_rotation_and_known_for_a_scaled_one() -> None:
    """A linear stretch (rectified units that are all on) multiplies every error by its factor: Ω = (factor − 1)²."""
    layer = nn.RNN(2, 2, nonlinearity="relu", batch_first=True).double()
    for factor in (1.0, 1.5):
        nn.init.eye_(layer.weight_hh_l0).data.mul_(factor)
        x = torch.rand(3, 6, 2, dtype=torch.float64) + 5
        with torch.no_grad():
            layer.weight_ih_l0.copy_(torch.eye(2))
        h, _ = layer(x)
        direct = torch.zeros_like(h)
        direct[:, -1] = 1.0
        penalty = vanishing_gradient_penalty(layer, x, h, direct)
        assert float(penalty.detach()) == pytest.approx((factor - 1) ** 2, abs=1e-12)


def test_the_penalty_s_gradient_is_that_of_the_local_factor_alone() -> None:
    """Finite differences with errors and states held: only ‖g ∂h_{t+1}/∂h_t‖ moves."""
    torch.manual_seed(0)
    layer = nn.RNN(3, 4, batch_first=True).double()
    x, direct = torch.randn(2, 5, 3, dtype=torch.float64), torch.randn(2, 5, 4, dtype=torch.float64)
    h = layer(x)[0].detach()
    (found,) = torch.autograd.grad(vanishing_gradient_penalty(layer, x, h, direct), layer.weight_hh_l0)
    before = torch.nn.functional.pad(h[:, :-1], (0, 0, 1, 0))
    slope = 1 - h.square()
    error, errors = torch.zeros(2, 4, dtype=torch.float64), []
    for position in reversed(range(5)):
        error = error + direct[:, position]
        errors.append(error)
        error = (error * slope[:, position]) @ layer.weight_hh_l0.detach()
    held = torch.stack(errors[::-1], 1)

    def omega(recurrent: torch.Tensor) -> torch.Tensor:
        sums = x @ layer.weight_ih_l0.T + layer.bias_ih_l0 + before @ recurrent.T + layer.bias_hh_l0
        carried = (held * (1 - torch.tanh(sums).square())) @ recurrent
        return ((carried.norm(dim=-1) / held.norm(dim=-1) - 1)[:, 1:] ** 2).mean()

    weight, step = layer.weight_hh_l0.detach(), 1e-6
    for row, column in ((0, 0), (1, 3), (3, 2)):
        shift = torch.zeros_like(weight)
        shift[row, column] = step
        slope_found = float((omega(weight + shift) - omega(weight - shift)).detach() / (2 * step))
        assert float(found[row, column]) == pytest.approx(slope_found, rel=1e-5, abs=1e-9)


def test_the_penalty_knows_the_slope_of_the_logistic_function() -> None:
    """One unit of weight u whose sums are 0: every step back multiplies an error by u / 4, so Ω = (u / 4 − 1)²."""
    layer = drop_in.RNN(1, 1, nonlinearity="sigmoid", batch_first=True).double()
    with torch.no_grad():
        layer.weight_hh_l0.fill_(3.0)
        layer.weight_ih_l0.fill_(1.0)
        layer.bias_ih_l0.zero_()
        layer.bias_hh_l0.zero_()
    x = torch.full((1, 6, 1), -1.5, dtype=torch.float64)  # −3 σ(0): a state of 1/2 stays
    x[:, 0] = 0.0
    h, _ = layer(x)
    torch.testing.assert_close(h, torch.full_like(h, 0.5))
    direct = torch.zeros_like(h)
    direct[:, -1] = 1.0
    assert float(vanishing_gradient_penalty(layer, x, h.detach(), direct).detach()) == pytest.approx(0.25**2, abs=1e-12)


def test_the_method_adds_the_penalty_to_elman_layers_alone() -> None:
    task = adding(10, train=64, test=16)
    batch = next(task.training_batches(16, 0))

    def plain(model: nn.Module, batch: Any) -> Output:
        output = model(batch)
        output.loss = task.loss(output, batch)
        return output

    for mixer, penalised in (("elman", True), ("gru", False)):
        torch.manual_seed(0)
        model = build_network(mixer, task.signature, 1, 0, width=8, hidden=0, depth=2)
        output = VanishingGradientPenalty(2.0).objective(plain)(model, batch)
        assert ("vanishing_gradient" in output.losses) is penalised
        bare = plain(model, batch).loss
        assert output.loss is not None
        added = output.losses["vanishing_gradient"] if penalised else torch.zeros(())
        torch.testing.assert_close(output.loss, bare + added)
    assert any(isinstance(part, Elman) for part in build_network("elman", task.signature, 1, 0, width=8).modules())
    with pytest.raises(ValueError, match="-1"):
        VanishingGradientPenalty(-1)


def with_gradients(*values: float) -> list[nn.Parameter]:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in values]
    for parameter, value in zip(parameters, values, strict=True):
        parameter.grad = torch.tensor([value])
    return parameters


def test_clipping_limits_the_norm_and_keeps_the_direction() -> None:
    for limit in (1.0, 10.0):
        parameters = with_gradients(3.0, -4.0)
        assert clip_gradients_(parameters, limit) == pytest.approx(5.0)
        left = torch.cat([parameter.grad for parameter in parameters])  # pyright: ignore
        assert float(left.norm()) == pytest.approx(min(5.0, limit), rel=1e-5)
        torch.testing.assert_close(left / left.norm(), torch.tensor([0.6, -0.8]))


def test_clipping_by_value_limits_each_entry() -> None:
    parameters = with_gradients(3.0, -0.5)
    clip_gradients_(parameters, norm=None, value=1.0)
    assert [float(parameter.grad) for parameter in parameters] == [1.0, -0.5]  # pyright: ignore


def test_what_is_not_finite_is_never_scaled() -> None:
    """Scaling by a norm that is not a number would make every weight so; a run ends as diverged instead."""
    with pytest.raises(FloatingPointError, match="nan"):
        clip_gradients_(with_gradients(1.0, math.nan))
    task = adding(6, train=32, test=8)
    model = build_network("gru", task.signature, 1, 0, width=8, hidden=0)
    with torch.no_grad():
        next(model.parameters()).fill_(math.inf)
    history = fit(model, task, steps=3, methods=[Clipping()])
    assert history.status == "diverged"


@pytest.mark.parametrize("options", [{"norm": 0.0}, {"norm": None}, {"value": -1.0}])
def test_limits_must_be_positive_and_there(options: dict) -> None:
    with pytest.raises(ValueError, match=r"None|0\.0|-1\.0"):
        Clipping(**options)
