"""The residual block against its formulas, and what it hands on to its mixer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from assay.nn.block import ResidualBlock, own_losses
from assay.nn.mixer import StreamingMixer

WIDTH = 6


class Sum(StreamingMixer):
    """The running sum of a linear map, which leaves a loss behind."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.losses: dict[str, Tensor] = {}

    def initial_state(self, batch_size: int) -> Tensor:
        return self.linear.weight.new_zeros(batch_size, self.linear.in_features)

    def scan(self, x: Tensor, state: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self.losses = {"size": x.square().mean()}
        y = state[:, None] + self.linear(x).cumsum(1)
        return y, y[:, -1]


class Reads(nn.Module):
    """Adds the tokens it is given."""

    causal = False
    inputs = ("tokens",)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, tokens: Tensor) -> Tensor:
        return x + tokens[..., None]


def block(mixer: nn.Module | None = None, **options: Any) -> ResidualBlock:
    torch.manual_seed(0)
    return ResidualBlock(Sum() if mixer is None else mixer, WIDTH, **{"hidden": 12, **options}).double().eval()


X = torch.randn(2, 5, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_pre_norm() -> None:
    made = block()
    h = X + made.mixer(made.mixer_norm(X))
    torch.testing.assert_close(made(X), h + made.feed_forward(made.feed_forward_norm(h)))


def test_without_a_channel_mixer_only_the_mixer_is_left() -> None:
    made = block(hidden=0)
    torch.testing.assert_close(made(X), X + made.mixer(made.mixer_norm(X)))
    assert {name.split(".")[0] for name, _ in made.named_parameters()} == {"mixer", "mixer_norm"}


def test_layer_scale_weighs_both_branches() -> None:
    made = block(layer_scale=0.5)
    h = X + 0.5 * made.mixer(made.mixer_norm(X))
    torch.testing.assert_close(made(X), h + 0.5 * made.feed_forward(made.feed_forward_norm(h)))
    assert sum(p.numel() for p in made.parameters()) - sum(p.numel() for p in block().parameters()) == 2 * WIDTH


def test_hybrid_norm_normalises_what_the_mixer_gives() -> None:
    made = block(hybrid_norm="output", hidden=0)
    y = made.mixer(made.mixer_norm(X))
    torch.testing.assert_close(made(X), X + nn.functional.layer_norm(y, (WIDTH,)))


def test_rms_norm_does_not_centre() -> None:
    made = block(norm="rms", hidden=0)
    normed = X / (X.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(made(X), X + made.mixer(normed))


def test_experts_share_what_one_net_would_have() -> None:
    made = block(experts=8, active=2)
    assert {expert.expand.out_features for expert in made.feed_forward.experts} == {6}
    assert len(made.feed_forward.experts) == 8


@pytest.mark.parametrize("post_norm", [False, True])
def test_every_option_streams(post_norm: bool) -> None:
    made = block(post_norm=post_norm, activation="swiglu", experts=3, active=2, layer_scale=0.3, hybrid_norm="output", norm="rms")
    state, parts = made.initial_state(2), []
    first, state = made.scan(X[:, :3], state)
    for x_t in X[:, 3:].unbind(1):
        y, state = made.step(x_t, state)
        parts.append(y[:, None])
    torch.testing.assert_close(torch.cat([first, *parts], 1), made(X))


def test_a_mixer_is_handed_the_inputs_it_names_and_no_other() -> None:
    tokens = torch.arange(10).view(2, 5)
    made = block(Reads(), hidden=0)
    torch.testing.assert_close(made(X, tokens=tokens, marks=tokens), X + made.mixer_norm(X) + tokens[..., None])
    assert block()(X, tokens=tokens).shape == X.shape
    with pytest.raises(ValueError, match="Reads needs tokens"):
        made(X)


def test_losses_are_summed_by_name_and_taken_once() -> None:
    pair = nn.ModuleList([block(), block()])
    for part in pair:
        part(X)
    expected = 2 * pair[0].mixer_norm(X).square().mean()
    torch.testing.assert_close(own_losses(pair), {"size": expected})
    assert own_losses(pair) == {}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"norm": "batch"}, "norm must be one of layer, rms, got 'batch'"),
        ({"hybrid_norm": "input"}, "got 'input'"),
        ({"layer_scale": 0.0}, "layer_scale must be above 0, got 0"),
        ({"experts": 2, "active": 3}, "active must be from 1 to the 2 experts, got 3"),
    ],
)
def test_bad_options_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        block(**options)
