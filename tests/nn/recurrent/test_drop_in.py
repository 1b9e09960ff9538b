"""The drop-in layers against those of ``torch.nn`` with the same parameters: outputs, final states and gradients."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from assay.nn.recurrent import drop_in
from assay.ops import recurrent_scan_compiled

pytestmark = pytest.mark.skipif(recurrent_scan_compiled.library() is None, reason="there is no C++ compiler")
PAIRS: list[tuple[Any, Any, dict[str, Any]]] = [
    (drop_in.LSTM, nn.LSTM, {}),
    (drop_in.GRU, nn.GRU, {}),
    (drop_in.RNN, nn.RNN, {}),
    (drop_in.RNN, nn.RNN, {"nonlinearity": "relu"}),
]
KINDS = [pytest.param(*pair, id=f"{pair[0].__name__} {pair[2]}") for pair in PAIRS]
SHAPES = list(itertools.product((1, 2), (False, True), (True, False), (True, False)))  # layers, bidirectional, batch_first, bias


def twins(ours: Any, theirs: Any, *args: Any, **options: Any) -> tuple[nn.Module, nn.Module]:
    """One of ours and PyTorch's, with the same parameters."""
    torch.manual_seed(0)
    first, second = ours(*args, **options), theirs(*args, **options)
    second.load_state_dict(first.state_dict())
    return first, second


def flat(found: Any) -> list[Tensor]:
    """Outputs and states in a row, however they are nested."""
    if isinstance(found, PackedSequence):
        return [found.data]
    return [found] if isinstance(found, Tensor) else [tensor for part in found for tensor in flat(part)]


def assert_same(ours: nn.Module, theirs: nn.Module, x: Any, *more: Any) -> None:
    results = []
    for layer in (ours, theirs):
        tensors = flat(layer(x, *more))
        gradients = torch.autograd.grad(sum((tensor * tensor).sum() for tensor in tensors), list(layer.parameters()))
        results.append([*tensors, *gradients])
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(("ours", "theirs", "options"), KINDS)
@pytest.mark.parametrize(("layers", "bidirectional", "batch_first", "bias"), SHAPES)
def test_a_layer_is_torch_s(ours: Any, theirs: Any, options: dict, layers: int, bidirectional: bool, batch_first: bool, bias: bool) -> None:
    more = {"num_layers": layers, "bidirectional": bidirectional, "batch_first": batch_first, "bias": bias, **options}
    first, second = twins(ours, theirs, 5, 7, **more)
    x = torch.randn(3, 9, 5)
    assert_same(first, second, x)
    state = torch.randn(layers * (2 if bidirectional else 1), 3 if batch_first else 9, 7)
    assert_same(first, second, x, (state, -state) if ours is drop_in.LSTM else state)


@pytest.mark.parametrize(("ours", "theirs", "options"), KINDS)
@pytest.mark.parametrize("in_order", [True, False])
def test_packed_sequences_in_any_order(ours: Any, theirs: Any, options: dict[str, Any], in_order: bool) -> None:
    first, second = twins(ours, theirs, 5, 6, num_layers=2, bidirectional=True, **options)
    lengths = torch.tensor([9, 4, 1]) if in_order else torch.tensor([4, 9, 1])
    packed = pack_padded_sequence(torch.randn(3, 9, 5), lengths, batch_first=True, enforce_sorted=in_order)
    assert_same(first, second, packed)
    y, expected = first(packed)[0], second(packed)[0]
    assert torch.equal(y.batch_sizes, expected.batch_sizes)
    assert (y.sorted_indices is None) == (expected.sorted_indices is None)
    state = torch.randn(4, 3, 6)
    assert_same(first, second, packed, (state, -state) if ours is drop_in.LSTM else state)


@pytest.mark.parametrize(("ours", "theirs", "options"), KINDS)
def test_one_sequence_without_a_batch(ours: Any, theirs: Any, options: dict[str, Any]) -> None:
    first, second = twins(ours, theirs, 5, 6, **options)
    assert_same(first, second, torch.randn(9, 5))
    assert [tensor.shape for tensor in flat(first(torch.randn(9, 5)))] == [tensor.shape for tensor in flat(second(torch.randn(9, 5)))]


def test_dropout_acts_between_layers_in_training_alone() -> None:
    layer, peer = twins(drop_in.LSTM, nn.LSTM, 5, 64, num_layers=2, dropout=0.5)
    x = torch.randn(12, 3, 5)
    assert not torch.equal(layer(x)[0], layer(x)[0])
    torch.testing.assert_close(layer.eval()(x)[0], peer.eval()(x)[0], rtol=1e-4, atol=1e-5)


def test_what_is_not_float32_is_torch_s_own() -> None:
    """Bit by bit, for it is the same code."""
    layer, peer = twins(drop_in.GRU, nn.GRU, 5, 6)
    x = torch.randn(9, 2, 5, dtype=torch.float64)
    assert torch.equal(layer.double()(x)[0], peer.double()(x)[0])


def test_it_stands_in_for_a_layer_of_torch() -> None:
    assert isinstance(drop_in.LSTM(3, 4), nn.LSTM)
    assert list(drop_in.GRU(3, 4, 2).state_dict()) == list(nn.GRU(3, 4, 2).state_dict())


@pytest.mark.parametrize("state", [torch.zeros(1, 3, 6), torch.zeros(2, 2, 6), torch.zeros(1, 2, 6, dtype=torch.float64)])
def test_states_of_another_batch_layers_or_type_are_refused(state: Tensor) -> None:
    with pytest.raises((RuntimeError, ValueError)):
        drop_in.GRU(5, 6)(torch.randn(9, 2, 5), state)


def test_projections_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="proj_size must be 0, got 2"):
        drop_in.LSTM(5, 6, proj_size=2)


# ------------------------------------------------------------------------------------------------ the logistic function


def logistic_twin(ours: nn.Module) -> nn.Module:
    """PyTorch's tanh layer with the weights that make it the logistic one of the same parameters, for σ(a) = (1 + tanh(a / 2)) / 2.

    With s_t = 2 h_t − 1 the layer ``h_t = σ(W x + U h_{t−1} + b)`` is ``s_t = tanh((W x + b + U 1 / 2) / 2 + U s_{t−1} / 4)``.
    """
    twin = nn.RNN(5, 6, batch_first=True).double()
    weights = {name: parameter.detach() for name, parameter in ours.named_parameters()}
    with torch.no_grad():
        twin.weight_ih_l0.copy_(weights["weight_ih_l0"] / 2)
        twin.weight_hh_l0.copy_(weights["weight_hh_l0"] / 4)
        twin.bias_ih_l0.copy_((weights["bias_ih_l0"] + weights["bias_hh_l0"] + weights["weight_hh_l0"].sum(1) / 2) / 2)
        twin.bias_hh_l0.zero_()
    return twin


def test_the_logistic_layer_is_a_tanh_layer_of_torch_in_other_units() -> None:
    """Against PyTorch's own recurrence in float64: outputs, final state, and the gradients of input and initial state."""
    torch.manual_seed(0)
    ours = drop_in.RNN(5, 6, 1, "sigmoid", batch_first=True).double()
    twin = logistic_twin(ours)
    x, h = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 9, 5), (1, 3, 6)))
    found, expected = ours(x, h), tuple((1 + s) / 2 for s in twin(x, 2 * h - 1))
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-13)
    for mine, other in zip(*(torch.autograd.grad((y * y).sum() + last.sum(), (x, h)) for y, last in (found, expected)), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)


def test_the_logistic_layer_in_float32_and_packed_is_that_in_float64() -> None:
    """The compiled form and the loop, both directions and two layers; packed sequences end where they end."""
    torch.manual_seed(0)
    layer = drop_in.RNN(5, 6, num_layers=2, nonlinearity="sigmoid", bidirectional=True, batch_first=True)
    x = torch.randn(3, 9, 5)
    packed = pack_padded_sequence(x, torch.tensor([9, 4, 1]), batch_first=True)
    y, last = layer(packed)
    for row, length in enumerate((9, 4, 1)):
        alone, end = layer.double()(x[row : row + 1, :length].double())
        torch.testing.assert_close(pad_packed_sequence(y, batch_first=True)[0][row, :length].double(), alone[0], rtol=0, atol=1e-5)
        torch.testing.assert_close(last[:, row].double(), end[:, 0], rtol=0, atol=1e-5)


def test_the_logistic_layer_refuses_inputs_of_another_width() -> None:
    with pytest.raises(ValueError, match=r"the last of 5, got shape \(9, 2, 4\)"):
        drop_in.RNN(5, 6, nonlinearity="sigmoid")(torch.randn(9, 2, 4))
    with pytest.raises(ValueError, match="selu"):
        drop_in.RNN(5, 6, nonlinearity="selu")
