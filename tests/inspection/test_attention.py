"""What an answer looks at: pooled weights and rollout against hand-made layers, and the probe on a task where the key is known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from assay.contracts import Class, Pair, Signature, Tokens
from assay.errors import UserError
from assay.inspection.attention import AttentionView, attention_calls, attention_rollout, pooled_attention
from assay.models import build
from assay.nn.attention.softmax import SoftmaxAttention
from assay.tasks.base import ArrayTask
from assay.tasks.synthetic.planted_key import planted_key


class Fixed(nn.Module):
    """A layer whose weights are given."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.given = weights

    def weights(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.given

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x


class Two(nn.Module):
    """Two layers in a row, on ``batch["x"]``."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, batch: Any) -> Tensor:
        x = batch["x"]
        for layer in self.layers:
            x = layer(x, mask=batch.get("mask"))
        return x


def test_pooled_weights_are_means_over_real_rows() -> None:
    weights = torch.rand(1, 2, 3, 3).softmax(-1)
    batch = {"x": torch.zeros(1, 3, 4), "mask": torch.tensor([[True, True, False]])}
    first, second = pooled_attention(Two(Fixed(weights), Fixed(weights)), batch)
    torch.testing.assert_close(first, weights[:, :, :2].mean(2))
    assert torch.equal(first, second)


def test_rollout_is_the_product_of_half_residual_layers() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 1, 2, 5, 5).softmax(-1)
    expected = torch.zeros(5)
    for i in range(5):  # paths from the output back to the input, step by step
        for j in range(5):
            for k in range(5):
                last, first = (weights.mean(1)[0] / 2 + torch.eye(5) / 2 for weights in (b, a))
                expected[k] += last[i, j] * first[j, k] / 5
    found = attention_rollout(Two(Fixed(a), Fixed(b)), {"x": torch.zeros(1, 5, 4)})
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found.sum(-1), torch.ones(1))


def test_layers_are_found_in_order_with_what_they_read() -> None:
    torch.manual_seed(0)
    layers = [SoftmaxAttention(4, 1, causal=False) for _ in range(2)]
    batch = {"x": torch.randn(1, 6, 4)}
    calls = attention_calls(Two(*layers), batch)
    assert [call[0] for call in calls] == layers
    assert torch.equal(calls[0][1], batch["x"])
    torch.testing.assert_close(calls[1][1], layers[0](batch["x"]))


def test_a_network_without_attention_is_refused() -> None:
    task = planted_key(train=20, test=10)
    with pytest.raises(UserError, match="can show attention weights"):
        AttentionView()(build("gru", task.signature, 5000), task)


def test_two_inputs_are_refused() -> None:
    kind = Tokens(5, 4)
    rows = {"first_tokens": torch.zeros(2, 4).long(), "second_tokens": torch.zeros(2, 4).long(), "target": torch.zeros(2).long()}
    splits: Any = dict.fromkeys(("train", "validation", "test"), rows)
    task = ArrayTask("pair", Signature(Pair(kind, kind), Class(2)), splits)
    with pytest.raises(UserError, match="two: choose another probe"):
        AttentionView()(nn.Identity(), task)


def test_the_probe_names_every_head_and_sums_up() -> None:
    task = planted_key(train=20, test=10, length=12, key=3, letters=12)
    model = build("attention", task.signature, 5000, depth=2, heads=2, causal=False)
    found = AttentionView(examples=3, most=4)(model, task)
    assert len(found.table) == 2 * 3 * 2 + 3  # layers × examples × heads, and a rollout an example
    for row in found.table:
        tokens = task.splits["test"]["tokens"][row["example"]]
        assert row["tokens"] == [int(tokens[position]) for position in row["positions"]]
        assert len(row["positions"]) == 4
        assert 1 <= row["spread"] <= 12 + 1e-4
        assert 4 / 12 - 1e-6 <= row["weight"] <= 1 + 1e-6
    assert "2 layers of 2 heads" in found.sentence
    assert found.figure is not None
    assert len(found.figure["data"][0]["z"]) == 2
    assert math.isclose(sum(found.figure["data"][1]["y"]), 1, rel_tol=1e-5)
    with pytest.raises(ValueError, match="at least 1"):
        AttentionView(examples=0)
