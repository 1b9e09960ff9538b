"""The kinds of attention over some pairs: their patterns written out, their limit to plain attention, masks anywhere, bounded states."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.measure import count_flops, state_bytes
from assay.nn.attention.block_sparse import BlockSparseAttention
from assay.nn.attention.local import LocalAttention
from assay.nn.attention.sliding_window import SlidingWindowAttention
from assay.nn.attention.softmax import SoftmaxAttention
from assay.nn.attention.strided_sparse import StridedSparseAttention
from assay.ops.masked_attention import block_groups, masked_attention, visible_pairs
from assay.testing import check_mixer

VARIANTS: dict[str, Any] = {
    "local": partial(LocalAttention, block=5),
    "local, all, rotary": partial(LocalAttention, block=7, causal=False, positions="rotary"),
    "window": partial(SlidingWindowAttention, window=5, key_value_heads=2),
    "window, all, alibi": partial(SlidingWindowAttention, window=6, causal=False, positions="alibi"),
    "window, global": partial(SlidingWindowAttention, window=6, causal=False, global_tokens=2, key_value_heads=2, positions="relative"),
    "fixed": partial(StridedSparseAttention, block=4, summary=1),
    "fixed, all": partial(StridedSparseAttention, block=4, summary=1, causal=False),
    "fixed, all are summaries": partial(StridedSparseAttention, block=4, summary=4, causal=False),
    "strided": partial(StridedSparseAttention, pattern="strided", block=6, positions="alibi"),
    "strided, all": partial(StridedSparseAttention, pattern="strided", block=6, causal=False, positions="offset"),
    "blocks": partial(BlockSparseAttention, block=2, random_blocks=1),
    "blocks, no global ones": partial(BlockSparseAttention, block=1, random_blocks=2, global_blocks=0, window_blocks=1),
    "blocks, biased, grouped": partial(BlockSparseAttention, block=2, random_blocks=1, positions="relative", key_value_heads=1),
}
DEFAULTS = (LocalAttention, SlidingWindowAttention, StridedSparseAttention, BlockSparseAttention)


@pytest.mark.parametrize("mixer", [*DEFAULTS, *VARIANTS.values()], ids=[*(kind.__name__ for kind in DEFAULTS), *VARIANTS])
def test_every_option_keeps_the_contract(mixer) -> None:
    check_mixer(mixer)


# ------------------------------------------------------------------------------------------------ patterns


def expected_pairs(name: str, length: int) -> Tensor:
    """Each pattern in the words of its paper, pair by pair."""
    i, j = torch.arange(length)[:, None], torch.arange(length)[None]
    summary = (j % 4 == 0) | (j % 4 >= 3)
    every = {
        "local": (i // 5 == j // 5) & (j <= i),
        "local, all, rotary": i // 7 == j // 7,
        "window": (j <= i) & (j > i - 5),
        "window, all, alibi": (j >= i - 3) & (j <= i + 2),
        "window, global": (j >= i - 3) & (j <= i + 2) | (i < 2) | (j < 2),
        "fixed": (j <= i) & ((i // 4 == j // 4) | summary),
        "fixed, all": (i // 4 == j // 4) | summary | summary.T,
        "fixed, all are summaries": torch.ones(length, length, dtype=torch.bool),
        "strided": (j <= i) & ((i - j < 6) | ((i - j) % 6 == 0)),
        "strided, all": ((i - j).abs() < 6) | ((i - j) % 6 == 0),
    }
    return every[name]


@pytest.mark.parametrize("length", [1, 6, 31, 64])
@pytest.mark.parametrize("name", [name for name in VARIANTS if not name.startswith("blocks")])
def test_groups_and_rule_are_the_pattern(name: str, length: int) -> None:
    layer, expected = VARIANTS[name](8), expected_pairs(name, length)
    at = torch.arange(length)
    rule = layer.sees(at, at)
    assert torch.equal(rule & (at[None] <= at[:, None]) if layer.causal else rule, expected)
    assert torch.equal(visible_pairs(layer.groups(length), length, length), expected.long())  # each pair once


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "window, global"])  # whose values have a test of their own
def test_forward_is_softmax_over_the_weights_of_the_dense_form(name: str) -> None:
    torch.manual_seed(0)
    layer, x = VARIANTS[name](8).double(), torch.randn(2, 50, 8, dtype=torch.float64)
    values = layer.projected(x, torch.arange(50)[None])[2].repeat_interleave(layer.heads // layer.key_value_heads, 1)
    weights = layer.weights(x)
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    torch.testing.assert_close(layer(x), layer.joined(weights @ values), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", VARIANTS)
def test_the_form_for_exporters_is_the_same_function(name: str, monkeypatch) -> None:
    torch.manual_seed(0)
    layer, x = VARIANTS[name](8).double(), torch.randn(2, 33, 8, dtype=torch.float64)
    mask = torch.arange(33)[None] < torch.tensor([[33], [14]])
    expected = [layer(x), layer(x, mask)[mask]]
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close([layer(x), layer(x, mask)[mask]], expected, atol=1e-12, rtol=0)


def test_blocks_see_neighbours_ends_and_random_others() -> None:
    torch.manual_seed(0)
    layer = BlockSparseAttention(8, block=4, window_blocks=3, global_blocks=1, random_blocks=2)
    table = visible_pairs(layer.groups(80), 80, 80)
    assert int(table.max()) == 1
    blocks = table.view(20, 4, 20, 4)[:, 0, :, 0].bool()
    assert torch.equal(table, blocks.long().repeat_interleave(4, 0).repeat_interleave(4, 1))
    near = (torch.arange(20)[:, None] - torch.arange(20)[None]).abs() <= 1
    assert bool(blocks[near].all() and blocks[[0, 19]].all() and blocks[:, [0, 19]].all())
    others = blocks & ~near
    others[:, [0, 19]] = False
    assert others[1:19].sum(1).tolist() == [2] * 18


def test_random_blocks_are_drawn_fairly_kept_with_the_weights_and_another_in_each_layer() -> None:
    torch.manual_seed(0)
    count = torch.zeros(12)
    for _ in range(400):
        layer = BlockSparseAttention(4, block=1, window_blocks=1, global_blocks=1, random_blocks=2)
        count += visible_pairs(layer.groups(12), 12, 12)[5]
    # block 5 sees 0, 5 and 11 always, and each of the other nine in two ninths of the layers
    assert count[[0, 5, 11]].tolist() == [400] * 3
    assert float((count[[1, 2, 3, 4, 6, 7, 8, 9, 10]] / 400 - 2 / 9).abs().max()) < 0.07
    twin = BlockSparseAttention(4, block=1, window_blocks=1, global_blocks=1, random_blocks=2)
    assert not torch.equal(visible_pairs(twin.groups(60), 60, 60), visible_pairs(layer.groups(60), 60, 60))
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(visible_pairs(twin.groups(60), 60, 60), visible_pairs(layer.groups(60), 60, 60))


# ------------------------------------------------------------------------------------------------ limits


@pytest.mark.parametrize(
    "make",
    [
        partial(LocalAttention, block=40),
        partial(LocalAttention, block=40, causal=False),
        partial(SlidingWindowAttention, window=40),
        partial(SlidingWindowAttention, window=79, causal=False),
        partial(StridedSparseAttention, block=40),
        partial(StridedSparseAttention, block=40, pattern="strided", causal=False),
        partial(StridedSparseAttention, block=4, summary=4),
        partial(StridedSparseAttention, block=1, summary=0, pattern="strided"),
        partial(BlockSparseAttention, block=5, global_blocks=4),
        partial(BlockSparseAttention, block=5),  # eight blocks: 3 + 2 + 3 cover everything
    ],
)
def test_a_pattern_that_covers_everything_is_plain_attention(make) -> None:
    torch.manual_seed(0)
    layer, x = make(8).double(), torch.randn(2, 40, 8, dtype=torch.float64)
    plain = SoftmaxAttention(8, causal=layer.causal).double()
    plain.load_state_dict({name: value for name, value in layer.state_dict().items() if name != "draw"})
    mask = torch.arange(40)[None] < torch.tensor([[40], [23]])
    torch.testing.assert_close(layer(x), plain(x), atol=1e-12, rtol=0)
    torch.testing.assert_close(layer(x, mask)[mask], plain(x, mask)[mask], atol=1e-12, rtol=0)


# ------------------------------------------------------------------------------------------------ masks, states, cost


@pytest.mark.parametrize("name", VARIANTS)
def test_masked_positions_may_stand_anywhere(name: str) -> None:
    torch.manual_seed(0)
    layer, x = VARIANTS[name](8).double(), torch.randn(3, 45, 8, dtype=torch.float64)
    mask = torch.rand(3, 45) < 0.6
    mask[1, :20] = False
    mask[2] = False
    found = layer(x, mask)
    for row in range(3):
        alone = layer(x[row : row + 1, mask[row]])[0]
        torch.testing.assert_close(found[row, mask[row]], alone, atol=1e-12, rtol=0)
    weights = layer.weights(x, mask)
    assert bool((weights.sum(-1)[mask[:, None].expand(-1, layer.heads, -1)] - 1).abs().max() < 1e-12)
    assert not weights.transpose(-1, -2)[~mask[:, None].expand(-1, layer.heads, -1)].any()  # nobody sees a masked position


def test_global_positions_have_projections_of_their_own() -> None:
    torch.manual_seed(0)
    layer, x = SlidingWindowAttention(8, 2, window=4, global_tokens=2, causal=False).double(), torch.randn(1, 30, 8, dtype=torch.float64)
    q, k, v = layer.projected(x, torch.arange(30)[None])
    own = [part.unflatten(-1, (2, 4)).transpose(1, 2) for part in layer.global_projection(x).chunk(3, -1)]
    ahead = torch.arange(30)[None] - torch.arange(30)[:, None]
    allowed = (ahead >= -2) & (ahead <= 1)
    allowed[:, :2] = True
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    expected[:, :, :2] = F.scaled_dot_product_attention(own[0][:, :, :2], own[1], own[2])
    torch.testing.assert_close(layer(x), layer.joined(expected), atol=1e-12, rtol=0)
    torch.testing.assert_close(layer.weights(x)[:, :, :2] @ own[2], expected[:, :, :2], atol=1e-12, rtol=0)


@pytest.mark.parametrize("make", [partial(LocalAttention, block=16), partial(SlidingWindowAttention, window=16)])
def test_the_state_of_a_bounded_pattern_is_bounded(make) -> None:
    layer = make(8, 2)
    state, sizes = layer.initial_state(1), []
    with torch.no_grad():
        for _ in range(300):
            _, state = layer.step(torch.randn(1, 8), state)
            sizes.append(state_bytes(state))
    assert max(sizes[150:]) == max(sizes[:150])


def test_operations_are_those_of_the_pairs_that_are_looked_at() -> None:
    layer = LocalAttention(16, 2, block=8, causal=False).eval()
    projections, pairs = 64 * 16 * (3 * 16 + 16), 64 * 8
    assert count_flops(layer, torch.randn(1, 64, 16)) == 2 * projections + 2 * pairs * (16 + 16)


@pytest.mark.parametrize(
    ("make", "exponent"),
    [
        (lambda length: LocalAttention(8, block=64, causal=False), 1.02),
        (lambda length: SlidingWindowAttention(8, window=128, causal=False, global_tokens=1), 1.02),
        (lambda length: BlockSparseAttention(8, block=64), 1.02),
        (lambda length: StridedSparseAttention(8, pattern="strided", block=math.isqrt(length)), 1.55),
        (lambda length: StridedSparseAttention(8, block=math.isqrt(length), summary=1), 1.55),
    ],
)
def test_pairs_grow_as_promised(make, exponent: float) -> None:
    lengths = (4096, 65_536)
    first, last = (sum(group.pairs() for group in make(length).groups(length)) for length in lengths)
    assert math.log(last / first) / math.log(lengths[1] / lengths[0]) <= exponent


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (partial(LocalAttention, block=0), "block must be at least 1, got 0"),
        (partial(SlidingWindowAttention, window=0), "window must be at least 1, got 0"),
        (partial(SlidingWindowAttention, global_tokens=1), "0 where causal"),
        (partial(StridedSparseAttention, pattern="dilated"), "pattern must be fixed or strided, got 'dilated'"),
        (partial(StridedSparseAttention, block=4, summary=5), "summary must be 0 to 4 positions"),
        (partial(BlockSparseAttention, window_blocks=2), "window_blocks must be odd"),
        (partial(BlockSparseAttention, random_blocks=-1), "at least 0"),
        (partial(BlockSparseAttention, causal=True), "no causal form"),
        (partial(LocalAttention, heads=3), "heads must divide width 8, got 3"),
    ],
)
def test_bad_options_are_refused(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(8)


def test_those_that_see_ahead_have_no_stream() -> None:
    for make in (partial(LocalAttention, causal=False), BlockSparseAttention):
        with pytest.raises(ValueError, match="cannot read a stream"):
            make(8).initial_state(1)


# ------------------------------------------------------------------------------------------------ peers


def test_longformer_of_transformers_with_the_same_weights() -> None:
    peers = pytest.importorskip("transformers.models.longformer.modeling_longformer")
    config: Any = pytest.importorskip("transformers").LongformerConfig(
        hidden_size=8, num_attention_heads=2, attention_window=[8], attention_probs_dropout_prob=0.0
    )
    torch.manual_seed(0)
    # its even windows reach w / 2 on both sides, one more than ours: 9 of ours are 8 of theirs
    layer = SlidingWindowAttention(8, 2, window=9, global_tokens=1, causal=False).double()
    peer = peers.LongformerSelfAttention(config, 0).double().eval()
    parts = ("query", "key", "value")
    with torch.no_grad():
        for suffix, mine in (("", layer.input_projection), ("_global", layer.global_projection)):
            for name, weight, bias in zip(parts, mine.weight.chunk(3), mine.bias.chunk(3), strict=True):
                getattr(peer, name + suffix).weight.copy_(weight)
                getattr(peer, name + suffix).bias.copy_(bias)
    layer.output_projection = nn.Identity()
    x = torch.randn(2, 32, 8, dtype=torch.float64)
    is_global = torch.arange(32)[None].expand(2, -1) < 1
    theirs = peer(
        x,
        attention_mask=torch.where(is_global, 10_000.0, 0.0).double(),
        is_index_masked=torch.zeros(2, 32, dtype=torch.bool),
        is_index_global_attn=is_global,
        is_global_attn=True,
    )[0]
    torch.testing.assert_close(layer(x), theirs, atol=1e-6, rtol=0)  # its softmax is float32


def test_big_bird_of_transformers_with_its_own_random_blocks(monkeypatch) -> None:
    peers = pytest.importorskip("transformers.models.big_bird.modeling_big_bird")
    config: Any = pytest.importorskip("transformers").BigBirdConfig(
        hidden_size=8, num_attention_heads=2, block_size=4, num_random_blocks=2, attention_probs_dropout_prob=0.0
    )
    torch.manual_seed(0)
    peer, drawn = peers.BigBirdBlockSparseAttention(config, seed=3).train().double(), []  # it draws nothing in evaluation
    draw = peer._bigbird_block_rand_mask_with_head
    monkeypatch.setattr(peer, "_bigbird_block_rand_mask_with_head", lambda **sizes: drawn.append(draw(**sizes)) or drawn[-1])
    x, real = torch.randn(2, 64, 8, dtype=torch.float64), torch.ones(2, 64, dtype=torch.float64)
    blocks, band, rows, columns = peers.BigBirdModel.create_masks_for_block_sparse_attn(real, 4)
    theirs = peer(x, band_mask=band, from_mask=rows, to_mask=columns, from_blocked_mask=blocks, to_blocked_mask=blocks)[0]
    parts = [part(x).unflatten(-1, (2, 4)).transpose(1, 2) for part in (peer.query, peer.key, peer.value)]
    fixed = visible_pairs(BlockSparseAttention(8, 2, block=4, random_blocks=0).groups(64), 64, 64)[::4, ::4].bool()
    for head in range(2):  # each of its heads has random blocks of its own
        layout = fixed.clone()
        layout[1:-1].scatter_(1, torch.tensor(drawn[0][head]).long(), True)
        ours = masked_attention(*(part[:, head : head + 1] for part in parts), block_groups(layout, 4), implementation="gathered")
        torch.testing.assert_close(ours[:, 0], theirs.unflatten(-1, (2, 4))[:, :, head], atol=1e-12, rtol=0)


def test_local_attention_of_its_package_with_the_same_queries() -> None:
    peer = pytest.importorskip("local_attention").LocalAttention(
        dim=4, window_size=8, causal=True, look_backward=0, look_forward=0, autopad=True, use_rotary_pos_emb=False, dropout=0.0
    )
    torch.manual_seed(0)
    layer, x = LocalAttention(8, 2, block=8), torch.randn(2, 30, 8)
    expected = layer.joined(peer(*layer.projected(x, torch.arange(30)[None])))
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=0)
