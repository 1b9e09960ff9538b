"""Jordan, bidirectional and hand-set networks, and the starting points of recurrent weights."""

from __future__ import annotations

import itertools

import pytest
import torch

from assay.nn.recurrent.bidirectional import Bidirectional, BidirectionalLSTM, reversal
from assay.nn.recurrent.finite_state import FiniteStateNetwork, parity, ring_counter
from assay.nn.recurrent.initialisation import initialise_recurrent_, recurrent_weights
from assay.nn.recurrent.jordan import Jordan
from assay.nn.recurrent.reference import LSTM, Elman


def test_jordan_whose_output_is_its_hidden_layer_is_elman() -> None:
    torch.manual_seed(0)
    jordan, elman = Jordan(4).double(), Elman(4).double()
    with torch.no_grad():
        jordan.output_weight.weight.copy_(torch.eye(4))
        jordan.output_weight.bias.zero_()
        elman.recurrence.weight_ih_l0.copy_(jordan.input_weight.weight)
        elman.recurrence.weight_hh_l0.copy_(jordan.context_weight.weight)
        elman.recurrence.bias_ih_l0.copy_(jordan.input_weight.bias)
        elman.recurrence.bias_hh_l0.zero_()
    x = torch.randn(2, 7, 4, dtype=torch.float64)
    torch.testing.assert_close(jordan(x), elman(x), rtol=0, atol=1e-14)


@pytest.mark.parametrize("output", ["identity", "sigmoid", "softmax"])
def test_forced_with_its_own_outputs_jordan_runs_as_if_free(output: str) -> None:
    """The forced form computes all positions at once; given what the network says itself, it must say the same."""
    torch.manual_seed(0)
    jordan = Jordan(4, 6, trace=0.6, output=output).double()
    x, mask = torch.randn(2, 9, 4, dtype=torch.float64), torch.rand(2, 9) < 0.7
    free = jordan(x, mask)
    torch.testing.assert_close(jordan.teacher_forced(x, free, mask)[mask], free[mask], rtol=0, atol=1e-13)


def test_bidirectional_halves_are_torchs_with_packed_lengths() -> None:
    torch.manual_seed(0)
    mixer, lengths = BidirectionalLSTM(3).double(), torch.tensor([8, 3, 5])
    theirs = torch.nn.LSTM(3, 3, batch_first=True, bidirectional=True).double()
    for own, suffix in ((mixer.forward_mixer, ""), (mixer.backward_mixer, "_reverse")):
        for name, value in own.recurrence.state_dict().items():
            getattr(theirs, name + suffix).data.copy_(value)
    x, mask = torch.randn(3, 8, 3, dtype=torch.float64), torch.arange(8) < lengths[:, None]
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(theirs(packed)[0], batch_first=True)
    torch.testing.assert_close(torch.cat(mixer.directions(x, mask), -1)[mask], expected[mask], rtol=0, atol=1e-13)


def test_reversal_turns_real_positions_and_is_its_own_inverse() -> None:
    mask = torch.tensor([[True, False, True, True, False], [False] * 5, [True] * 5])
    assert reversal(mask).tolist() == [[3, 1, 2, 0, 4], [0, 1, 2, 3, 4], [4, 3, 2, 1, 0]]


def test_look_ahead_sees_so_far_and_no_further() -> None:
    torch.manual_seed(0)
    mixer, x = BidirectionalLSTM(3, look_ahead=2).double(), torch.randn(1, 10, 3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(mixer(x)[0, 4].sum(), x)
    felt = gradient[0].abs().sum(-1) > 0
    assert felt.tolist() == [True] * 7 + [False] * 3
    whole = Bidirectional(mixer.forward_mixer, mixer.backward_mixer, 3)
    whole.combine = mixer.combine
    mixer.look_ahead = 9
    torch.testing.assert_close(mixer(x), whole(x), rtol=0, atol=1e-13)


def test_bidirectional_refuses_streams_and_directions_without_one() -> None:
    with pytest.raises(NotImplementedError, match="look_ahead"):
        BidirectionalLSTM(3).step(torch.zeros(1, 3), None)
    with pytest.raises(ValueError, match="BidirectionalLSTM is none"):
        Bidirectional(BidirectionalLSTM(3), LSTM(3), 3)
    with pytest.raises(ValueError, match="-1"):
        BidirectionalLSTM(3, look_ahead=-1)


def test_parity_is_exact_on_every_string_of_twelve() -> None:
    strings = torch.tensor(list(itertools.product((0, 1), repeat=12)))
    assert torch.equal(parity()(strings), strings.cumsum(1) % 2)


def test_a_ring_counter_counts_round() -> None:
    strings = torch.randint(2, (4, 200), generator=torch.Generator().manual_seed(0))
    assert torch.equal(ring_counter(5)(strings), strings.cumsum(1) % 5)


def test_any_automaton_is_followed() -> None:
    """A random automaton of seven states over three symbols, walked by hand."""
    generator = torch.Generator().manual_seed(3)
    table = torch.randint(7, (7, 3), generator=generator)
    tokens = torch.randint(3, (5, 100), generator=generator)
    state, walked = torch.zeros(5, dtype=torch.long), []
    for symbol in tokens.unbind(1):
        state = table[state, symbol]
        walked.append(state)
    assert torch.equal(FiniteStateNetwork(table.tolist())(tokens), torch.stack(walked, 1))
    with pytest.raises(ValueError, match="0 … 1"):
        FiniteStateNetwork([[0, 2], [1, 0]])


def test_starting_points() -> None:
    module = torch.nn.LSTM(4, 20, num_layers=2)
    assert initialise_recurrent_(module, "orthogonal", 1.5) == 2
    for weight in recurrent_weights(module):
        for gate in weight.split(20):
            torch.testing.assert_close(gate @ gate.T, 2.25 * torch.eye(20), atol=1e-5, rtol=0)
    initialise_recurrent_(module, "identity", 0.5)
    assert all(torch.equal(gate, 0.5 * torch.eye(20)) for weight in recurrent_weights(module) for gate in weight.split(20))
    initialise_recurrent_(module, "sparse")
    assert all(int((gate != 0).sum(1).max()) == 15 for weight in recurrent_weights(module) for gate in weight.split(20))
    with pytest.raises(ValueError, match="uniform"):
        initialise_recurrent_(module, "uniform")
    with pytest.raises(ValueError, match="no recurrent weights"):
        initialise_recurrent_(torch.nn.Linear(2, 2), "identity")
