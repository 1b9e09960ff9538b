"""The gates that layers show are those they run with: each is found again in what one step does to the state."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from assay.nn.recurrent.gates import affine_gates, states_around
from assay.nn.recurrent.historical import CoupledLSTM, HistoricalLSTM, OriginalLSTM, PeepholeLSTM
from assay.nn.recurrent.masked import MaskedGRU, MaskedLSTM, MaskedTanh
from assay.nn.recurrent.min_gru import MinGRU, MinLSTM
from assay.nn.recurrent.multi_head import SLSTM, MultiHeadElman, MultiHeadGRU, MultiHeadLSTM
from assay.nn.recurrent.original_gru import OriginalGRU
from assay.nn.recurrent.reference import GRU, LSTM

WIDTH, LENGTH = 4, 7


def built(make: Any, seed: int = 0) -> tuple[Any, Tensor, Tensor, Any]:
    """A layer in float64 with wide weights, an input, a mask with holes, and a state to begin with."""
    torch.manual_seed(seed)
    layer = make(WIDTH).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    x, mask = torch.randn(3, LENGTH, WIDTH, dtype=torch.float64), torch.rand(3, LENGTH) < 0.7
    state = pytree.tree_map(lambda part: torch.rand_like(part) + 1, layer.initial_state(3))
    return layer, x, mask, state


def around(layer: Any, x: Tensor, mask: Tensor, state: Any) -> tuple[dict[str, Any], list[Tensor], list[Tensor]]:
    """Gates by name, and the states before and after, all at real positions alone and (positions, units)."""
    with torch.no_grad():
        gates = {gate.name: gate for gate in layer.gate_values(x, state, mask)}
        before, after = states_around(layer, x, state, mask)
    chosen = {
        name: gate._replace(values=gate.values[mask], kept=None if gate.kept is None else gate.kept[mask]) for name, gate in gates.items()
    }
    rows = [[part[mask].flatten(1) for part in pytree.tree_leaves(parts)] for parts in (before, after)]
    return chosen, rows[0], rows[1]


def cell_derivative(layer: Any, x: Tensor, mask: Tensor, before: list[Tensor], part: int) -> Tensor:
    """``∂s'_u / ∂s_u`` of one part of the state, for layers where it acts on no other unit: a step from every state at once."""
    like = pytree.tree_leaves(layer.initial_state(1))
    leaves = [old.unflatten(1, shape.shape[1:]).clone() for old, shape in zip(before, like, strict=True)]
    leaves[part].requires_grad_()
    state = pytree.tree_unflatten(leaves, pytree.tree_structure(layer.initial_state(1)))
    _, after = layer.scan(x[mask][:, None], state)
    (found,) = torch.autograd.grad(pytree.tree_leaves(after)[part].sum(), leaves[part])
    return found.flatten(1)


CELLS: dict[str, tuple[Any, int]] = {
    "lstm": (LSTM, 1),
    "masked lstm": (MaskedLSTM, 1),
    "forget": (HistoricalLSTM, 1),
    "coupled": (CoupledLSTM, 1),
    "heads": (partial(MultiHeadLSTM, heads=2), 1),
    "heads without bias": (partial(MultiHeadLSTM, heads=2, bias=False), 1),
    "minimal gru": (MinGRU, 0),
    "minimal lstm": (MinLSTM, 0),
}


@pytest.mark.parametrize("name", CELLS)
def test_what_a_gate_keeps_is_the_derivative_of_the_new_state_by_the_old(name: str) -> None:
    make, part = CELLS[name]
    layer, x, mask, state = built(make)
    gates, before, _ = around(layer, x, mask, state)
    (kept,) = (gate.kept for gate in gates.values() if gate.kept is not None)
    torch.testing.assert_close(kept, cell_derivative(layer, x, mask, before, part), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "make", [LSTM, MaskedLSTM, HistoricalLSTM, OriginalLSTM, PeepholeLSTM, CoupledLSTM, partial(MultiHeadLSTM, heads=2)]
)
def test_gates_and_cells_make_the_next_state(make: Any) -> None:
    """``h' = o tanh(c')``; and with a candidate held at tanh(50) = 1, ``c' = f c + i``, peepholes included."""
    layer, x, mask, state = built(make)
    bias = next(value for name, value in layer.named_parameters() if name.removeprefix("recurrence.") in ("bias_ih", "bias_ih_l0", "bias"))
    gates_in_bias = bias.shape[0] // WIDTH if bias.ndim == 1 else bias.shape[0]
    with torch.no_grad():
        bias.view(gates_in_bias, -1)[2 if gates_in_bias == 4 else 1] = 50
        weights = [value for name, value in layer.named_parameters() if "weight" in name or "input_projection" in name]
        for weight in weights:
            weight.mul_(0.3)
    gates, (_, cell), (hidden, after) = around(layer, x, mask, state)
    torch.testing.assert_close(hidden, gates["output"].values * after.tanh(), rtol=0, atol=1e-12)
    if "forget" in gates:
        kept = gates["forget"].values
    else:
        kept = 1.0 if isinstance(layer, OriginalLSTM) else 1 - gates["input"].values
    torch.testing.assert_close(after, kept * cell + gates["input"].values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("make", [GRU, MaskedGRU, OriginalGRU, partial(MultiHeadGRU, heads=2)])
def test_the_update_gate_is_found_in_the_next_state(make: Any) -> None:
    """With a candidate held at tanh(50) = 1, ``1 − h' = z (1 − h)``."""
    layer, x, mask, state = built(make)
    bias = next(value for name, value in layer.named_parameters() if name.removeprefix("recurrence.") in ("bias_ih", "bias_ih_l0", "bias"))
    with torch.no_grad():
        bias.view(bias.shape[0] // WIDTH if bias.ndim == 1 else bias.shape[0], -1)[-1] = 1e3
    gates, (before,), (after,) = around(layer, x, mask, state)
    torch.testing.assert_close(1 - after, gates["update"].values * (1 - before), rtol=0, atol=1e-12)
    assert gates["update"].kept is not None


@pytest.mark.parametrize("make", [GRU, MaskedGRU])
def test_the_reset_gate_is_what_a_recurrent_bias_weighs_less_than_an_input_bias(make: Any) -> None:
    """The candidate is ``tanh(… + b + r (U h + c))``: ∂h'/∂c is r times ∂h'/∂b."""
    layer, x, mask, state = built(make, 1)
    cell = getattr(layer, "recurrence", layer)
    of_input, of_recurrence = (
        next(value for name, value in cell.named_parameters() if name.startswith(f"bias_{kind}")) for kind in ("ih", "hh")
    )
    gates, (before,), _ = around(layer, x, mask, state)
    for row in range(3):
        like = layer.initial_state(1)
        alone = before[row].view_as(like[0] if isinstance(like, tuple) else like)
        _, after = layer.scan(x[mask][row][None, None], (alone,) if isinstance(like, tuple) else alone)
        found = torch.autograd.grad(pytree.tree_leaves(after)[0].sum(), (of_input, of_recurrence))
        by_input, by_recurrence = (part[2 * WIDTH :] for part in found)
        torch.testing.assert_close(by_recurrence, gates["reset"].values[row] * by_input, rtol=1e-9, atol=1e-12)


def test_slstm_shows_its_logistic_gates_and_the_share_that_its_normalised_cell_keeps() -> None:
    """``F = ∂c'/∂c``, so σ(f) = F exp(m' − m); the cell over the normaliser keeps F n / n'; ``h = o c / n``."""
    layer, x, mask, state = built(partial(SLSTM, heads=2))
    gates, (_, _, n, m), (hidden, cell, after_n, after_m) = around(layer, x, mask, state)
    _, before, _ = around(layer, x, mask, state)
    stay = cell_derivative(layer, x, mask, before, 1)
    torch.testing.assert_close(gates["forget"].values, stay * torch.exp(after_m - m), rtol=0, atol=1e-10)
    torch.testing.assert_close(gates["forget"].kept, stay * n / after_n, rtol=0, atol=1e-10)
    torch.testing.assert_close(hidden, gates["output"].values * cell / after_n, rtol=0, atol=1e-10)
    assert list(gates) == ["forget", "output"]


def test_a_reset_leaves_nothing_to_keep() -> None:
    layer, x, _, state = built(partial(SLSTM, heads=2))
    reset = torch.arange(LENGTH)[None].expand(3, -1) == 3
    forget = next(gate for gate in layer.gate_values(x, state, None, reset) if gate.name == "forget")
    assert forget.kept[:, 3].eq(0).all()
    anew = next(gate for gate in layer.gate_values(x[:, 3:], layer.initial_state(3)) if gate.name == "forget")
    torch.testing.assert_close(forget.values[:, 3:], anew.values, rtol=0, atol=1e-12)


def test_stacked_layers_are_named_and_read_what_the_one_below_gives() -> None:
    torch.manual_seed(0)
    both, x = LSTM(WIDTH, layers=2, bias=False).double(), torch.randn(2, LENGTH, WIDTH, dtype=torch.float64)
    gates = both.gate_values(x, both.initial_state(2))
    assert [gate.name for gate in gates] == [f"{name} of layer {layer}" for layer in (1, 2) for name in ("input", "forget", "output")]
    below = nn.LSTM(WIDTH, WIDTH, bias=False, batch_first=True).double()
    below.load_state_dict({name: value for name, value in both.recurrence.state_dict().items() if name.endswith("l0")})
    above = LSTM(WIDTH, bias=False).double()
    above.recurrence.load_state_dict(
        {f"{name[:-1]}0": value for name, value in both.recurrence.state_dict().items() if name.endswith("l1")}
    )
    alone = above.gate_values(below(x)[0], above.initial_state(2))
    for mine, other in zip(gates[3:], alone, strict=True):
        torch.testing.assert_close(mine.values, other.values, rtol=0, atol=1e-12)


def test_layers_without_gates_have_none_and_wrong_inputs_are_refused() -> None:
    x = torch.randn(2, LENGTH, WIDTH)
    for layer in (MaskedTanh(WIDTH), MultiHeadElman(WIDTH)):
        assert layer.gate_values(x, layer.initial_state(2)) == []
    for make in (LSTM, MaskedLSTM, MinGRU, MultiHeadLSTM, HistoricalLSTM, OriginalGRU):
        layer = make(WIDTH)
        with pytest.raises(ValueError, match="must have shape"):
            layer.gate_values(x[..., 1:], layer.initial_state(2))
    with pytest.raises(ValueError, match="lstm or gru to have gates, got 'rnn_tanh'"):
        affine_gates("rnn_tanh", x, x, [])
