"""The masked cells against ``torch.nn.RNN/GRU/LSTM``, and the packed path against one step at a time."""

import pytest
import torch
from torch import nn

from assay.nn.recurrent.masked import GATES, MaskedGRU, MaskedLSTM, MaskedRecurrentCell, MaskedReLU, MaskedTanh

MODES = list(GATES)


def peer(cell: MaskedRecurrentCell) -> nn.RNNBase:
    kinds = {"rnn_tanh": nn.RNN, "rnn_relu": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
    options = {"nonlinearity": cell.mode[4:]} if cell.mode.startswith("rnn") else {}
    other = kinds[cell.mode](cell.input_size, cell.hidden_size, batch_first=True, **options).to(cell.weight_ih.dtype)
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(other, f"{name}_l0").copy_(getattr(cell, name))
    return other


def loop(cell, x, state, mask=None):
    """One step at a time, written out; the oracle for every faster way."""
    outputs = []
    for t in range(x.shape[1]):
        y, new = cell.step(x[:, t], state)
        if mask is not None:
            keep = mask[:, t, None]
            y = torch.where(keep, y, state[0] if cell.mode == "lstm" else state)
            pairs = zip(new, state, strict=True) if cell.mode == "lstm" else [(new, state)]
            held = [torch.where(keep, after, before) for after, before in pairs]
            new = tuple(held) if cell.mode == "lstm" else held[0]
        state = new
        outputs.append(y)
    return torch.stack(outputs, 1), state


def hidden(cell, state):
    return torch.cat(state, -1) if cell.mode == "lstm" else state


@pytest.mark.parametrize("mode", MODES)
def test_unmasked_cell_equals_torch_in_value_and_gradient(mode):
    torch.manual_seed(0)
    cell = MaskedRecurrentCell(3, 5, mode).double()
    other = peer(cell)
    x = torch.randn(4, 7, 3, dtype=torch.float64, requires_grad=True)
    y, reference = cell(x), other(x)[0]
    weights = torch.randn_like(y)
    mine = torch.autograd.grad((y * weights).sum(), [x, cell.weight_ih, cell.weight_hh, cell.bias_ih, cell.bias_hh])
    theirs = torch.autograd.grad((reference * weights).sum(), [x, *other.parameters()])
    torch.testing.assert_close(y, reference, rtol=0, atol=1e-10)
    for gradient, expected in zip(mine, theirs, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mode", MODES)
def test_initialisation_has_torch_s_distribution(mode):
    """Same bound, and same variance of a uniform distribution: bound²/3."""
    torch.manual_seed(0)
    cell = MaskedRecurrentCell(64, 64, mode)
    for parameter in cell.parameters():
        assert parameter.abs().max() <= 1 / 8
    assert torch.isclose(cell.weight_hh.var(), torch.tensor(1 / 64 / 3), rtol=0.05)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["right", "arbitrary", "empty row"])
def test_masked_scan_equals_stepping_with_the_state_held(mode, kind):
    torch.manual_seed(1)
    cell = MaskedRecurrentCell(3, 4, mode).double()
    cell.mask_hh[torch.rand(cell.mask_hh.shape) < 0.5] = False
    cell.mask_ih[torch.rand(cell.mask_ih.shape) < 0.5] = False
    x = torch.randn(5, 9, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.arange(9) < torch.tensor([9, 1, 4, 7, 2])[:, None] if kind == "right" else torch.rand(5, 9) < 0.5
    if kind == "empty row":
        mask[2] = False
    _, state = loop(cell, torch.randn(5, 3, 3, dtype=torch.float64), cell.initial_state(5))
    y, final = cell.scan(x, state, mask)
    expected, expected_final = loop(cell, x, state, mask)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(hidden(cell, final), hidden(cell, expected_final), rtol=0, atol=1e-10)
    weights = torch.randn_like(y)
    parameters = [x, *cell.parameters()]
    mine = torch.autograd.grad((y * weights).sum() + hidden(cell, final).sum(), parameters, retain_graph=True)
    theirs = torch.autograd.grad((expected * weights).sum() + hidden(cell, expected_final).sum(), parameters)
    for gradient, wanted in zip(mine, theirs, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("lengths", [[9, 1, 4, 0], [9, 9, 9, 9], [0, 0, 0, 0]])
def test_forward_with_padding_equals_scan_in_value_and_gradient(mode, lengths):
    """Forward does not pack right padding; scan does."""
    torch.manual_seed(1)
    cell = MaskedRecurrentCell(3, 4, mode).double()
    x = torch.randn(4, 9, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    y, expected = cell(x, mask), cell.scan(x, cell.initial_state(4), mask)[0]
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-12)
    weights = torch.randn_like(y)
    for mine, theirs in zip(*(torch.autograd.grad((z * weights).sum(), [x, *cell.parameters()]) for z in (y, expected)), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-12)


def test_empty_batch():
    cell = MaskedGRU(3)
    assert cell(torch.zeros(0, 5, 3)).shape == (0, 5, 3)
    assert cell(torch.zeros(2, 0, 3), torch.ones(2, 0, dtype=torch.bool)).shape == (2, 0, 3)


@pytest.mark.parametrize("mode", MODES)
def test_masked_weights_have_no_influence_and_no_gradient(mode):
    torch.manual_seed(2)
    cell = MaskedRecurrentCell(3, 4, mode)
    cell.mask_ih[:, 0] = False
    cell.mask_hh[0] = False
    x = torch.randn(2, 6, 3)
    before = cell(x)
    with torch.no_grad():
        cell.weight_ih[:, 0] += 100.0
        cell.weight_hh[0] -= 100.0
    after = cell(x)
    assert torch.equal(before, after)
    after.square().sum().backward()
    assert cell.weight_ih.grad is not None
    assert cell.weight_hh.grad is not None
    assert cell.weight_ih.grad[:, 0].abs().max() == 0
    assert cell.weight_hh.grad[0].abs().max() == 0
    assert cell.weight_ih.grad[:, 1:].abs().max() > 0


@pytest.mark.parametrize("mode", MODES)
def test_masked_weights_stay_out_of_the_layer_under_adam_with_weight_decay(mode):
    """Decay moves the stored weight; the weight the layer computes with stays zero."""
    torch.manual_seed(3)
    cell = MaskedRecurrentCell(3, 4, mode)
    cell.mask_hh[torch.rand(cell.mask_hh.shape) < 0.5] = False
    optimizer = torch.optim.Adam(cell.parameters(), lr=0.05, weight_decay=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        cell(torch.randn(4, 5, 3)).square().sum().backward()
        optimizer.step()
    effective = cell.effective_weights()[1]
    assert torch.all(effective[~cell.mask_hh] == 0)
    assert torch.all(effective[cell.mask_hh] != 0)


def test_masks_travel_in_the_state_dict():
    cell = MaskedGRU(4)
    cell.mask_hh[:5] = False
    other = MaskedGRU(4)
    other.load_state_dict(cell.state_dict())
    x = torch.randn(2, 3, 4)
    assert torch.equal(other(x), cell(x))
    assert torch.equal(other.mask_hh, cell.mask_hh)


@pytest.mark.parametrize(("mixer", "mode"), [(MaskedTanh, "rnn_tanh"), (MaskedReLU, "rnn_relu"), (MaskedGRU, "gru"), (MaskedLSTM, "lstm")])
def test_mixers_are_square_cells_and_chunks_join(mixer, mode):
    torch.manual_seed(4)
    part = mixer(6).double()
    assert part.mode == mode
    x = torch.randn(2, 8, 6, dtype=torch.float64)
    whole = part(x)
    state, pieces = part.initial_state(2), []
    for chunk in (x[:, :3], x[:, 3:3], x[:, 3:]):
        y, state = part.scan(chunk, state)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-12)


def test_values_at_masked_positions_cannot_leak():
    """Not even an infinity or NaN in the padding may reach output or gradient."""
    cell = MaskedGRU(3)
    x = torch.randn(2, 5, 3)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    clean = cell(x, mask)
    x[1, 2:] = float("nan")
    dirty = cell(x, mask)
    assert torch.equal(clean, dirty)
    dirty.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in cell.parameters())


def test_bad_arguments_name_the_value():
    with pytest.raises(ValueError, match="'elman'"):
        MaskedRecurrentCell(3, 4, "elman")
    with pytest.raises(ValueError, match="0 and 4"):
        MaskedRecurrentCell(0, 4)
    with pytest.raises(ValueError, match=r"\(2, 5, 4\)"):
        MaskedRecurrentCell(3, 4)(torch.zeros(2, 5, 4))
    with pytest.raises(ValueError, match=r"\(2, 4\)"):
        MaskedRecurrentCell(3, 4)(torch.zeros(2, 5, 3), torch.ones(2, 4, dtype=torch.bool))
