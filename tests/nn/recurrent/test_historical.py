"""The forms of the long short-term memory against torch's, against each other, and against what their equations promise."""

from __future__ import annotations

import pytest
import torch

from assay.nn.recurrent.historical import HistoricalLSTM, OriginalLSTM


def made(variant: str, width: int = 5, **options) -> HistoricalLSTM:
    torch.manual_seed(1)
    return HistoricalLSTM(width, variant, **options).double()


def walked(cell: HistoricalLSTM, x: torch.Tensor) -> torch.Tensor:
    """The equations as written, a position at a time, whatever the kernel would do."""
    state, outputs = cell.initial_state(len(x)), []
    for x_t in x.unbind(1):
        y, state = cell._step(torch.nn.functional.linear(x_t, cell.weight_ih, cell.bias), state, None)
        outputs.append(y)
    return torch.stack(outputs, 1)


def gradients(cell: HistoricalLSTM, y: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad((y * torch.linspace(0, 1, y.shape[1], dtype=y.dtype)[:, None]).sum(), list(cell.parameters())))


def test_forget_is_torchs_lstm() -> None:
    """Outputs and gradients of the equations as written are those of ``torch.nn.LSTM`` with the same weights."""
    cell, x = made("forget"), torch.randn(3, 11, 5, dtype=torch.float64)
    theirs = torch.nn.LSTM(5, 5, batch_first=True).double()
    theirs.load_state_dict(
        {"weight_ih_l0": cell.weight_ih, "weight_hh_l0": cell.weight_hh, "bias_ih_l0": cell.bias, "bias_hh_l0": 0 * cell.bias}
    )
    expected = theirs(x)[0]
    torch.testing.assert_close(walked(cell, x), expected, rtol=0, atol=1e-12)
    mine = gradients(cell, walked(cell, x))
    wanted = torch.autograd.grad(
        (expected * torch.linspace(0, 1, 11, dtype=torch.float64)[:, None]).sum(),
        [theirs.weight_ih_l0, theirs.weight_hh_l0, theirs.bias_ih_l0],  # pyright: ignore
    )
    for one, other in zip(mine, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("variant", ["original", "forget"])
def test_the_kernel_computes_the_equations(variant: str) -> None:
    cell, x = made(variant), torch.randn(2, 9, 5, dtype=torch.float64)
    assert cell._in_kernel()
    torch.testing.assert_close(cell(x), walked(cell, x), rtol=0, atol=1e-12)
    for one, other in zip(gradients(cell, cell(x)), gradients(cell, walked(cell, x)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_a_forget_gate_that_always_stands_open_is_the_original() -> None:
    original, forget = made("original"), made("forget")
    with torch.no_grad():
        for mine, theirs in zip((forget.weight_ih, forget.weight_hh, forget.bias), original.parameters(), strict=True):
            mine[:5], mine[10:] = theirs[:5], theirs[5:]
        forget.weight_ih[5:10], forget.weight_hh[5:10], forget.bias[5:10] = 0, 0, 1e4
    x = torch.randn(2, 30, 5, dtype=torch.float64)
    torch.testing.assert_close(walked(original, x), walked(forget, x), rtol=0, atol=1e-14)


def test_peepholes_start_closed_and_open_to_old_and_new_cells() -> None:
    """Closed they change nothing; input and forget gate see the cell before, the output gate the cell after."""
    peephole, forget = made("peephole"), made("forget")
    x = torch.randn(2, 1, 5, dtype=torch.float64)
    torch.testing.assert_close(walked(peephole, x), walked(forget, x), rtol=0, atol=0)
    h, s = torch.zeros(2, 5, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    with torch.no_grad():
        peephole.peepholes.copy_(torch.randn(3, 5))
    gates = torch.nn.functional.linear(x[:, 0], peephole.weight_ih, peephole.bias)
    i, f, g, o = gates.chunk(4, -1)
    after = torch.sigmoid(f + peephole.peepholes[1] * s) * s + torch.sigmoid(i + peephole.peepholes[0] * s) * torch.tanh(g)
    y, (_, found) = peephole._step(gates, (h, s), None)
    torch.testing.assert_close(found, after)
    torch.testing.assert_close(y, torch.sigmoid(o + peephole.peepholes[2] * after) * torch.tanh(after))


def test_the_carousel_keeps_its_cell_bit_for_bit() -> None:
    """With the input gate shut, 1997's cell is the same after 1,000 steps; that of 2000 has leaked away."""
    for variant, kept in (("original", True), ("forget", False)):
        cell = made(variant).float()
        with torch.no_grad():
            cell.weight_ih.zero_()
            cell.weight_hh.zero_()
            cell.bias[:5] = -1e4
        state = (torch.zeros(1, 5), torch.randn(1, 5))
        _, (_, after) = cell.scan(torch.zeros(1, 1000, 5), state)
        assert torch.equal(after, state[1]) is kept


def test_coupled_gates_add_up_to_one() -> None:
    """A cell whose candidate is what it holds does not move, whatever its gate says."""
    cell = made("coupled")
    with torch.no_grad():
        cell.weight_ih.zero_()
        cell.weight_hh.zero_()
        cell.bias[5:10] = 100.0
    _, (_, s) = cell.scan(torch.zeros(1, 4, 5, dtype=torch.float64), (torch.zeros(1, 5).double(), torch.ones(1, 5).double()))
    torch.testing.assert_close(s, torch.ones(1, 5).double(), rtol=0, atol=1e-15)


def test_truncated_errors_flow_through_the_cell_alone() -> None:
    """∂s_T/∂s_0 is one for the original cell when h is held, and the recurrent weights get no error through time."""
    x = torch.randn(1, 12, 5, dtype=torch.float64)
    for truncated in (True, False):
        cell = made("original", truncated_gradient=truncated)
        start = torch.zeros(1, 5, dtype=torch.float64, requires_grad=True)
        _, (_, s) = cell.scan(x, (torch.zeros(1, 5, dtype=torch.float64), start))
        (flow,) = torch.autograd.grad(s.sum(), start)
        assert torch.equal(flow, torch.ones_like(flow)) is truncated


def test_the_squashings_of_1997() -> None:
    cell = made("original", input_squashing="logistic", output_squashing="logistic")
    gates = torch.randn(1, 15, dtype=torch.float64)
    i, g, o = gates.chunk(3, -1)
    s = torch.sigmoid(i) * (4 * torch.sigmoid(g) - 2)
    y, _ = cell._step(gates, cell.initial_state(1), None)
    torch.testing.assert_close(y, torch.sigmoid(o) * (2 * torch.sigmoid(s) - 1))


def test_the_forget_bias_is_where_forgetting_is() -> None:
    assert made("forget", forget_bias=3.0).bias[5:10].eq(3).all()
    assert made("coupled", forget_bias=3.0).bias[:5].eq(-3).all()
    assert not made("original").bias.gt(1).any()


@pytest.mark.parametrize("options", [{"variant": "full"}, {"width": 0}, {"input_squashing": "relu"}])
def test_bad_arguments_are_named(options: dict) -> None:
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        HistoricalLSTM(**{"width": 4, **options})


def test_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(batch, length, 4\), got \(2, 3, 5\)"):
        OriginalLSTM(4)(torch.zeros(2, 3, 5))
