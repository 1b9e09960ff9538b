"""The sequence model's plumbing: options, patterns of mixers, tokens, lengths, positions, losses."""

from __future__ import annotations

import pytest
import torch

from assay import models
from assay.contracts import Class, Image, NextTokens, Pair, Series, Signature, Tokens, Values
from assay.errors import UserError
from assay.models.sequence import SequenceFamily, sequence_length
from assay.nn.attention.aaren import Aaren
from assay.nn.attention.softmax import SoftmaxAttention
from assay.nn.recurrent.reference import LSTM
from assay.testing import check_model
from assay.testing.examples import SIGNATURES, random_batch

LANGUAGE = Signature(Tokens(11, 12), NextTokens(11))
SERIES = Signature(Series(2, 12), Class(3))

MINE = '''
import torch
from torch import nn
from assay.nn import StreamingMixer


class SeenBefore(StreamingMixer):
    """Weighs each position by how often its token came before."""

    inputs = ("tokens",)

    def __init__(self, width, scale=1.0):
        super().__init__()
        self.linear, self.scale = nn.Linear(width, width), scale

    def initial_state(self, batch_size):
        return self.linear.weight.new_zeros(batch_size, 32)

    def scan(self, x, state, mask=None, *, tokens):
        ones = nn.functional.one_hot(tokens, 32).to(x.dtype)
        ones = ones if mask is None else ones * mask[..., None]
        counts = state[:, None] + ones.cumsum(1)
        seen = (counts * nn.functional.one_hot(tokens, 32)).sum(-1, keepdim=True)
        return self.scale * self.linear(x) * seen, (counts[:, -1] if x.shape[1] else state)

    def forward(self, x, mask=None, *, tokens):
        return self.scan(x, self.initial_state(len(x)), mask, tokens=tokens)[0]

    def step(self, x_t, state, *, tokens):
        y, state = self.scan(x_t[:, None], state, tokens=tokens[:, None])
        return y[:, 0], state


class Bound(nn.Module):
    """Learns a weight for every position, so it must know how many there are."""

    causal = False

    def __init__(self, width, length=1024):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(length))

    def forward(self, x, mask=None):
        return x * self.weight[: x.shape[1], None]


class WithoutPositions(Bound):
    positional = False


class Related(Bound):
    inputs = ("relation",)
'''


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    return f"{tmp_path}/mine.py"


def names(model) -> list[str]:
    return [type(block.mixer).__name__ for block in model.blocks]


# ------------------------------------------------------------------------------------------------ width, depth, heads


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_total_heads_are_shared_out_and_the_budget_is_met(depth: int) -> None:
    model = models.build("attention", LANGUAGE, 200_000, depth=depth, total_heads=16, head_width=16)
    assert [block.mixer.heads for block in model.blocks] == [16 // depth] * depth
    assert not models.off_budget(model, 200_000)


def test_attention_has_the_same_parameters_at_any_depth_of_the_same_heads() -> None:
    # wide attention's rule: with total heads, head width and width fixed only the rest of a block counts with depth
    def count(depth: int) -> int:
        model = models.build("attention", LANGUAGE, width=32, hidden=64, depth=depth, total_heads=12, head_width=8)
        weights = (block.mixer.input_projection.weight.numel() + block.mixer.output_projection.weight.numel() for block in model.blocks)
        return sum(weights)

    assert count(1) == count(3) == count(12) == 12 * 8 * 4 * 32


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"total_heads": 16, "depth": 3}, "total_heads=16 and depth=3"),
        ({"total_heads": 16, "heads": 2}, "total_heads=16 and heads=2"),
        ({"positions": "sideways"}, "got 'sideways'"),
        ({"activation": "gelu", "wings": 2}, "SoftmaxAttention has no option 'wings'"),
        ({"hybrid_norm": "sideways"}, "'sideways'"),
    ],
)
def test_bad_options_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        models.build("attention", LANGUAGE, 20_000, **options)


def test_heads_that_do_not_divide_eight_still_meet_the_budget() -> None:
    model = models.build("attention", LANGUAGE, 100_000, heads=5)
    assert model.width % 5 == 0
    assert not models.off_budget(model, 100_000)


@pytest.mark.parametrize("none", [0, "none"])
def test_without_channel_mixing_the_width_alone_meets_the_budget(none) -> None:
    model = models.build("aaren", LANGUAGE, 200_000, hidden=none)
    assert all(block.feed_forward is None for block in model.blocks)
    assert not models.off_budget(model, 200_000)


def test_a_fixed_width_leaves_the_budget_to_the_feed_forward_nets() -> None:
    model = models.build("aaren", LANGUAGE, 200_000, width=48)
    assert model.width == 48
    assert not models.off_budget(model, 200_000)


@pytest.mark.parametrize("activation", ["relu", "swiglu", "squared-relu"])
def test_an_exchanged_activation_keeps_the_budget(activation: str) -> None:
    model = models.build("aaren", LANGUAGE, 50_000, activation=activation, norm="rms", layer_scale=0.1, hybrid_norm="output")
    assert not models.off_budget(model, 50_000)
    assert model(random_batch(LANGUAGE)).prediction.shape == (4, 12, 11)


# ------------------------------------------------------------------------------------------------ patterns


def test_a_pattern_repeats_over_the_blocks() -> None:
    model = models.build("lstm*2~aaren", LANGUAGE, 50_000, depth=5)
    assert names(model) == ["LSTM", "LSTM", "Aaren", "LSTM", "LSTM"]
    assert names(models.build("lstm*2~aaren", LANGUAGE, 50_000)) == ["LSTM", "LSTM", "Aaren"]
    assert model.causal


def test_a_pattern_may_name_files_and_reloads(mine, tmp_path) -> None:
    model = models.build(f"aaren~{mine}:SeenBefore*2", LANGUAGE, 20_000, scale=0.5).eval()
    assert names(model) == ["Aaren", "SeenBefore", "SeenBefore"]
    models.save(model, tmp_path / "run")
    batch = random_batch(LANGUAGE)
    assert torch.equal(models.load(tmp_path / "run")(batch).prediction, model(batch).prediction)


def test_each_option_goes_to_the_mixers_that_take_it() -> None:
    model = models.build("lstm~aaren", LANGUAGE, 50_000, queries=3)
    assert model.blocks[1].mixer.queries == 3
    with pytest.raises(ValueError, match="LSTM and Aaren has no option 'rank'"):
        models.build("lstm~aaren", LANGUAGE, 50_000, rank=3)


def test_a_pattern_streams() -> None:
    check_model("lstm~attention", {"tokens → next token": LANGUAGE, "series → class": SERIES})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("aaren~no-such", "no-such"),
        ("aaren~mlp", "mlp is a whole model"),
        ("aaren*0~lstm", "aaren\\*0"),
        ("aaren*x", "aaren\\*x"),
        ("aaren~", "no model or mixer named ''"),
    ],
)
def test_unusable_patterns_say_why(name: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        models.build(name, LANGUAGE, 20_000)


def test_a_depth_that_cannot_hold_the_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 to hold one of each mixer of the pattern, got 2"):
        models.build("lstm*2~aaren", LANGUAGE, 20_000, depth=2)


def test_one_mixer_that_is_not_causal_stops_a_pattern_from_predicting_the_next_token(mine) -> None:
    with pytest.raises(UserError, match="Bound is not causal"):
        models.build(f"aaren~{mine}:Bound", LANGUAGE, 20_000)


# ------------------------------------------------------------------------------------------------ tokens, lengths, positions


def test_tokens_reach_the_mixers_that_name_them(mine) -> None:
    torch.manual_seed(0)
    model = models.build(f"{mine}:SeenBefore", LANGUAGE, 20_000).double().eval()
    tokens = torch.randint(11, (3, 12))
    expected = model({"tokens": tokens}).prediction
    state, parts = model.initial_state(3), []
    for chunk in (tokens[:, :5], tokens[:, 5:5], tokens[:, 5:11]):
        y, state = model.scan(chunk, state)
        parts.append(y)
    y, state = model.step(tokens[:, 11], state)
    torch.testing.assert_close(torch.cat([*parts, y[:, None]], 1), expected, atol=1e-10, rtol=0)
    blocks = model.blocks  # the count of the token, and not its embedding, makes the difference here
    h = torch.zeros(1, 2, model.width, dtype=torch.float64)
    again, fresh = (blocks[0].mixer(h + 1, tokens=torch.tensor([pair]))[0, 1] for pair in ([4, 4], [5, 4]))
    torch.testing.assert_close(again, 2 * fresh)


def test_both_texts_of_a_pair_have_their_own_tokens(mine) -> None:
    signature = SIGNATURES["two texts → class"]
    model, batch = models.build(f"{mine}:SeenBefore", signature, 20_000).eval(), random_batch(signature)
    changed = {**batch, "second_tokens": batch["second_tokens"].flip(0)}
    assert not torch.equal(model(changed).prediction, model(batch).prediction)


def test_data_without_tokens_are_refused_with_the_reason(mine) -> None:
    with pytest.raises(UserError, match="SeenBefore needs tokens, and Series has none"):
        models.build(f"{mine}:SeenBefore", SERIES, 20_000)
    with pytest.raises(UserError, match="Related needs relation, and Tokens has none"):
        models.build(f"{mine}:Related", Signature(Tokens(5, 5), Class(2)), 20_000)
    with pytest.raises(ValueError, match="ngrams need tokens, and Series has none"):
        models.build("aaren", SERIES, 20_000, ngrams=2)


@pytest.mark.parametrize(
    ("signature", "length"),
    [
        (Signature(Series(2, 12), Class(3)), 12),
        (Signature(Image(1, 9, 5), Class(3)), 9),
        (Signature(Pair(Tokens(5, 4), Tokens(5, 7)), Class(3)), 7),
    ],
)
def test_a_length_bound_mixer_is_told_the_length(mine, signature: Signature, length: int) -> None:
    assert sequence_length(signature) == length
    model = models.build(f"{mine}:Bound", signature, 20_000)
    assert {len(block.mixer.weight) for block in model.blocks} == {length}
    assert len(models.build(f"{mine}:Bound", signature, 20_000, length=99).blocks[0].mixer.weight) == 99


def test_positions_of_every_kind(mine) -> None:
    batch = random_batch(SERIES)
    for positions in ("none", "sinusoidal", "learned"):
        torch.manual_seed(0)
        model = models.build(f"{mine}:Bound", SERIES, 20_000, positions=positions).eval()
        moved = {**batch, "series": batch["series"].flip(1)}  # without positions this mixer knows no order
        same = torch.allclose(model(moved).prediction, model(batch).prediction, atol=1e-6)
        assert same == (positions == "none")
    assert models.build(f"{mine}:Bound", SERIES, 20_000).positions == "sinusoidal"
    assert models.build(f"{mine}:WithoutPositions", SERIES, 20_000).positions == "none"
    assert models.build(f"{mine}:WithoutPositions~aaren", SERIES, 20_000).positions == "sinusoidal"


def test_positions_that_a_mixer_has_itself_are_the_mixers() -> None:
    model = models.build("attention", LANGUAGE, 20_000, positions="rotary")
    assert (model.positions, model.blocks[0].mixer.positions) == ("none", "rotary")
    with pytest.raises(ValueError, match="Aaren has no option 'positions'"):
        models.build("aaren", LANGUAGE, 20_000, positions="rotary")


def test_learned_positions_stream_and_end_with_the_length() -> None:
    model = models.build("aaren", LANGUAGE, 20_000, positions="learned").double().eval()
    tokens = torch.randint(11, (2, 12))
    state, parts = model.initial_state(2), []
    for token in tokens.unbind(1):
        y, state = model.step(token, state)
        parts.append(y)
    torch.testing.assert_close(torch.stack(parts, 1), model({"tokens": tokens}).prediction, atol=1e-10, rtol=0)
    with pytest.raises(ValueError, match="learned positions reach 12, the sequence has 13"):
        model.step(tokens[:, 0], state)
    with pytest.raises(ValueError, match="learned positions reach 12, the sequence has 24"):
        model({"tokens": tokens.repeat(1, 2)})


# ------------------------------------------------------------------------------------------------ losses


def test_losses_of_the_parts_are_the_outputs_in_training_alone() -> None:
    model = models.build("aaren", LANGUAGE, 50_000, experts=4, active=2)
    batch = random_batch(LANGUAGE)
    assert set(model.train()(batch).losses) == {"balance", "router-z"}
    assert model.eval()(batch).losses == {}
    check_model(model)


def test_a_pairs_losses_count_both_texts() -> None:
    signature = SIGNATURES["two texts → class"]
    model, batch = models.build("aaren", signature, 50_000, experts=4, active=4).train(), random_batch(signature)
    with torch.no_grad():
        for block in model.blocks:
            block.feed_forward.router.weight.zero_()
    losses = model(batch).losses
    assert losses["balance"].item() == pytest.approx(0.01 * 2 * len(model.blocks))  # even routers: 1 · 0.01 for each block and text


def test_a_forecast_family_takes_classes_directly() -> None:
    # what papers use: a family made of classes that are in no registry
    family = SequenceFamily(LSTM, Aaren, SoftmaxAttention)
    model = family.network(Signature(Series(1, 8), Values(1), horizon=2), 1, 0)
    assert names(model) == ["LSTM", "Aaren", "SoftmaxAttention"]


# ------------------------------------------------------------------------------------------------ n-gram layers


@pytest.mark.parametrize(("depth", "expected"), [(1, [0, 1, 1]), (2, [0, 0, 1, 1]), (3, [0, 0, 1, 1, 0])])
def test_ngram_layers_follow_the_second_block(depth: int, expected: list[int]) -> None:
    model = models.build("aaren", LANGUAGE, 50_000, depth=depth, ngrams=2)
    assert [type(block.mixer).__name__ == "NGramAttention" for block in model.blocks] == expected
    added = [block for block in model.blocks if type(block.mixer).__name__ == "NGramAttention"]
    assert [block.mixer.order for block in added] == [1, 2]
    assert all(block.feed_forward is None for block in added)


def test_ngram_layers_stream() -> None:
    model = models.build("aaren", LANGUAGE, 50_000, ngrams=2).double().eval()
    tokens = torch.randint(3, (2, 12))
    scanned, _ = model.scan(tokens, model.initial_state(2))
    torch.testing.assert_close(scanned, model({"tokens": tokens}).prediction, atol=1e-10, rtol=0)
    state, parts = model.initial_state(2), []
    for token in tokens.unbind(1):
        y, state = model.step(token, state)
        parts.append(y)
    torch.testing.assert_close(torch.stack(parts, 1), scanned, atol=1e-10, rtol=0)
