"""Linformer's attention: its limit to plain attention, masks, and its package's layer with the same weights."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from assay.nn.attention.low_rank import LowRankAttention
from assay.nn.attention.softmax import SoftmaxAttention
from assay.testing import check_mixer


@pytest.mark.parametrize("make", [LowRankAttention, partial(LowRankAttention, length=130, rank=3, heads=2, head_width=3, bias=False)])
def test_every_option_keeps_the_contract(make) -> None:
    check_mixer(make)


def test_with_the_identity_it_is_plain_attention() -> None:
    torch.manual_seed(0)
    layer, plain = LowRankAttention(8, 2, length=20, rank=20).double(), SoftmaxAttention(8, 2, causal=False).double()
    with torch.no_grad():
        layer.length_projection.copy_(torch.eye(20))
    plain.load_state_dict({name: value for name, value in layer.state_dict().items() if name != "length_projection"})
    x = torch.randn(3, 20, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), plain(x), atol=1e-12, rtol=0)


def test_masked_positions_may_stand_anywhere() -> None:
    torch.manual_seed(0)
    layer, x = LowRankAttention(8, rank=4).double(), torch.randn(2, 30, 8, dtype=torch.float64)
    mask = torch.rand(2, 30) < 0.5
    found = layer(x, mask)
    for row in range(2):
        torch.testing.assert_close(found[row, mask[row]], layer(x[row : row + 1, mask[row]])[0], atol=1e-12, rtol=0)


def test_a_sequence_beyond_the_length_is_refused() -> None:
    with pytest.raises(ValueError, match="up to 16 positions, got 17"):
        LowRankAttention(8, length=16)(torch.zeros(1, 17, 8))
    with pytest.raises(ValueError, match="length and rank must be at least 1, got 16 and 0"):
        LowRankAttention(8, length=16, rank=0)


def test_the_layer_of_its_package_with_the_same_weights() -> None:
    peers = pytest.importorskip("linformer")
    torch.manual_seed(0)
    layer = LowRankAttention(8, 2, length=24, rank=5, bias=False)
    peer = peers.LinformerSelfAttention(8, 24, k=5, heads=2, share_kv=True)
    with torch.no_grad():
        queries, keys, values = layer.input_projection.weight.chunk(3)
        values.copy_(keys)  # its sharing makes keys and values one
        peer.to_q.weight.copy_(queries)
        peer.to_k.weight.copy_(keys)
        peer.proj_k.copy_(layer.length_projection)
        peer.to_out.weight.copy_(layer.output_projection.weight)
        peer.to_out.bias.zero_()
    x = torch.randn(2, 24, 8)
    torch.testing.assert_close(layer(x), peer(x), atol=1e-6, rtol=0)
