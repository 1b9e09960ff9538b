"""Persistent tokens: always seen, wherever the stream stands, and nothing else that is far."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from assay.nn.attention.persistent import PersistentAttention
from assay.nn.attention.softmax import SoftmaxAttention
from assay.testing import check_mixer

torch.set_num_threads(1)
VARIANTS = {
    "window": partial(PersistentAttention, window=5, positions="alibi"),
    "segment": partial(PersistentAttention, segment=6, positions="relative"),
    "no tokens": partial(PersistentAttention, tokens=0, segment=6),
    "everything": partial(PersistentAttention, heads=4, key_value_heads=2, query_key_norm=True),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_option_keeps_the_contract(name: str) -> None:
    check_mixer(VARIANTS[name])


@pytest.mark.parametrize("near", [{"window": 3}, {"segment": 3}])
def test_outputs_are_those_of_a_loop(near: dict) -> None:
    torch.manual_seed(0)
    layer, x = PersistentAttention(4, 1, tokens=2, **near).double(), torch.randn(1, 8, 4, dtype=torch.float64)
    with torch.no_grad():
        query, key, value = layer.input_projection(x[0]).chunk(3, -1)
        _, own_key, own_value = layer.input_projection(layer.persistent).chunk(3, -1)
        expected = []
        for t in range(8):
            start = max(0, t - 2) if "window" in near else t // 3 * 3
            keys, values = torch.cat([own_key, key[start : t + 1]]), torch.cat([own_value, value[start : t + 1]])
            expected.append(layer.output_projection((query[t] @ keys.T / math.sqrt(4)).softmax(-1) @ values))
        torch.testing.assert_close(layer(x)[0], torch.stack(expected), atol=1e-12, rtol=0)


def test_without_tokens_it_is_softmax_attention() -> None:
    torch.manual_seed(0)
    layer, plain = PersistentAttention(8, tokens=0, positions="alibi"), SoftmaxAttention(8, positions="alibi")
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 9, 8)
    torch.testing.assert_close(layer(x), plain(x), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"tokens": -1}, "got -1"), ({"segment": 4, "window": 4}, "without a window, got 4 and 4"), ({"segment": 0}, "got 0")],
)
def test_bad_options_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PersistentAttention(8, **options)
