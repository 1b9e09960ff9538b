"""Selective attention against attention at every position, its rules of selection, and what they must not see."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from assay.contracts import Class, Signature, Tokens
from assay.measure import count_flops
from assay.models.sequence import SequenceFamily
from assay.nn.attention.selective import RowSelectiveAttention, SelectiveAttention, repeated
from assay.nn.attention.softmax import SoftmaxAttention
from assay.testing import check_mixer

RULES = ("learned", "programmatic", "random", "all")


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_keeps_the_contract(rule) -> None:
    check_mixer(partial(SelectiveAttention, selection=rule))


def test_the_rule_by_rows_keeps_the_contract_of_a_mixer_that_sees_the_future() -> None:
    check_mixer(RowSelectiveAttention)
    with pytest.raises(ValueError, match="selects by the whole sequence"):
        RowSelectiveAttention(8).initial_state(1)


def sequence(length: int = 30, width: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, length, width, generator=generator, dtype=torch.float64), torch.randint(20, (2, length), generator=generator)


def peer_of(layer: SelectiveAttention) -> SoftmaxAttention:
    """Softmax attention with the same weights."""
    peer = SoftmaxAttention(layer.width, layer.heads).double()
    with torch.no_grad():
        for name in ("weight", "bias"):
            parts = (getattr(layer.query_projection, name), getattr(layer.key_value_projection, name))
            getattr(peer.input_projection, name).copy_(torch.cat(parts))
    peer.output_projection.load_state_dict(layer.output_projection.state_dict())
    return peer


def test_selecting_all_is_multi_head_attention() -> None:
    torch.manual_seed(0)
    layer, (x, _) = SelectiveAttention(8, selection="all").double(), sequence()
    torch.testing.assert_close(layer(x), peer_of(layer)(x), atol=1e-12, rtol=0)


def test_programmatic_selection_is_attention_where_a_token_repeats_and_zero_elsewhere() -> None:
    torch.manual_seed(0)
    layer, (x, tokens) = SelectiveAttention(8, selection="programmatic").double(), sequence()
    again = torch.tensor([[token in row[:t] for t, token in enumerate(row)] for row in tokens.tolist()])
    assert again.any()
    assert not again.all()
    expected = torch.where(again[..., None], peer_of(layer)(x), 0.0)
    torch.testing.assert_close(layer(x, tokens=tokens), expected, atol=1e-12, rtol=0)
    assert layer(x[:, :20], tokens=torch.arange(20).expand(2, 20)).abs().max() == 0


@pytest.mark.parametrize("rule", RULES)
def test_gradients_of_the_gathered_way_are_those_of_masking_attention(rule) -> None:
    torch.manual_seed(0)
    layer, (x, tokens) = SelectiveAttention(8, selection=rule).double().eval(), sequence()
    inputs = {"tokens": tokens} if layer.inputs else {}
    weight = (layer(x, **inputs).abs().amax(-1, keepdim=True) > 0).double()
    if layer.selector is not None:
        weight = weight * torch.sigmoid(layer.selector(x))
    found = torch.autograd.grad(layer(x, **inputs).square().sum(), layer.query_projection.weight)[0]
    keys, values = layer._keys_and_values(x)
    every = layer._attended(x, keys, values, torch.arange(30).expand(2, 30), None)
    expected = torch.autograd.grad((weight * every).square().sum(), layer.query_projection.weight)[0]
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_learned_selection_weighs_every_position_in_training_and_some_in_evaluation() -> None:
    torch.manual_seed(0)
    layer, (x, _) = SelectiveAttention(8, selection="learned").double(), sequence()
    score = torch.sigmoid(layer.selector(x))
    every = score * peer_of(layer)(x)
    torch.testing.assert_close(layer(x), every, atol=1e-12, rtol=0)
    torch.testing.assert_close(layer.eval()(x), torch.where(score > 0.5, every, 0.0), atol=1e-12, rtol=0)
    rows = RowSelectiveAttention(8).double().eval()
    rows.load_state_dict(layer.state_dict())
    chosen = (rows(x).abs().amax(-1) > 0).sum(1)
    assert chosen.tolist() == [6, 6]  # ⌈√30⌉
    least_chosen = score[..., 0].masked_fill(rows(x).abs().amax(-1) == 0, 1.0).amin(1)
    assert (score[..., 0].masked_fill(rows(x).abs().amax(-1) > 0, 0.0).amax(1) < least_chosen).all()


def test_the_selection_loss_is_zero_just_when_the_mean_score_is_within_budget() -> None:
    layer, x = SelectiveAttention(8, penalty=0.5), torch.zeros(2, 16, 8)
    for score, expected in ((0.2, 0.0), (0.25, 0.0), (0.45, 0.5 * 0.2)):  # ⌈√16⌉ of 16 is a quarter
        layer.selector.bias.data.fill_(torch.logit(torch.tensor(score)))
        layer(x)
        assert float(layer.losses["selection"].detach()) == pytest.approx(expected, abs=1e-6)
    layer.losses.clear()
    layer.eval()(x)
    assert not layer.losses  # a loss is of training alone
    mask = torch.arange(16) < 4  # of four real positions two are within budget
    layer.train()(x, mask.expand(2, 16))
    assert float(layer.losses["selection"].detach()) == 0.0


def test_a_sequence_model_hands_on_tokens_and_takes_up_the_selection_loss() -> None:
    signature = Signature(Tokens(5, 12), Class(5), per_position=True)
    batch = {"tokens": torch.randint(5, (2, 12), generator=torch.Generator().manual_seed(0))}
    for rule in RULES:
        network = SequenceFamily(SelectiveAttention).network(signature, 1, 0, selection=rule)
        assert set(network(batch).losses) == ({"selection"} if rule == "learned" else set())
        assert not network.eval()(batch).losses


def test_random_selection_takes_about_the_square_root_and_the_same_everywhere() -> None:
    torch.manual_seed(0)
    layer, x = SelectiveAttention(4, selection="random"), torch.randn(2, 4096, 4)
    chosen = layer(x).abs().amax(-1) > 0
    assert torch.equal(chosen[0], chosen[1])
    assert 48 <= int(chosen[0].sum()) <= 80
    assert torch.equal(SelectiveAttention(4, selection="random")(x).abs().amax(-1) > 0, chosen)


def test_repeats_are_found_among_real_positions_and_in_what_was_seen() -> None:
    tokens, real = torch.tensor([[3, 1, 3, 3, 1, 0]]), torch.tensor([[True, False, False, True, True, True]])
    assert repeated(tokens, real)[real].tolist() == [False, True, False, False]
    assert repeated(tokens, real, torch.tensor([[True, False]]))[real].tolist() == [False, True, False, True]


def test_operations_fall_with_the_selected_positions() -> None:
    x = torch.randn(1, 1024, 16)
    every, some = SelectiveAttention(16, selection="all"), SelectiveAttention(16, selection="random")
    assert count_flops(some, x) < 0.15 * count_flops(every, x)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"selection": "some"}, "learned, programmatic, random, all, got 'some'"),
        ({"budget": 0.0}, "got 0.0 and 0.001"),
        ({"penalty": -1.0}, "got 1.0 and -1.0"),
        ({"heads": 3}, "heads must divide width 8, got 3"),
    ],
)
def test_bad_options_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SelectiveAttention(8, **options)


def test_missing_tokens_are_asked_for() -> None:
    with pytest.raises(ValueError, match=r"needs tokens= of shape \(2, 5\), got none"):
        SelectiveAttention(8, selection="programmatic")(torch.zeros(2, 5, 8))
