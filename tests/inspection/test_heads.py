"""Head scores on heads whose weights are known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from assay.contracts import NextTokens, Output, Signature, Tokens
from assay.errors import UserError
from assay.inspection.heads import head_scores
from assay.models import build
from assay.ops.suffix_matches import successor_weights


class Shown(nn.Module):
    """An attention layer that shows the weights it was given."""

    def __init__(self, weights):
        super().__init__()
        self.shown = weights

    def forward(self, x, mask=None):
        return x

    def weights(self, x, mask=None):
        return self.shown


class Network(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, batch):
        x = batch["tokens"][..., None].float()
        for layer in self.layers:
            x = layer(x, batch.get("mask"))
        return Output(x)


TOKENS = torch.randint(4, (5, 60), generator=torch.Generator().manual_seed(0))
EQUAL = torch.ones(60, 60).tril()
EQUAL = (EQUAL / EQUAL.sum(1, keepdim=True)).expand(5, 60, 60)
BEFORE = torch.eye(60).roll(-1, 1).tril().expand(5, 60, 60)


def test_known_heads_score_what_they_do():
    first = Shown(torch.stack([BEFORE, EQUAL], 1))
    second = Shown(torch.stack([successor_weights(TOKENS, n) for n in (1, 2, 3)], 1))
    previous, equal, one, two, three = head_scores(Network(first, second), [{"tokens": TOKENS}])
    assert (previous.layer, previous.head, two.layer, two.head) == (1, 1, 2, 2)
    assert previous.previous == 1
    assert one.previous < 0.5
    for order in (1, 2, 3):
        assert equal.ngram[order] == pytest.approx(equal.chance[order], rel=1e-6)
        assert equal.lift(order) == pytest.approx(1, rel=1e-6)
        assert three.ngram[order] <= 1
    assert one.ngram[1] == pytest.approx(1, abs=1e-6)
    assert two.ngram[2] == pytest.approx(1, abs=1e-6)
    assert three.ngram[3] == pytest.approx(1, abs=1e-6)
    assert one.ngram[2] < 0.6  # an induction head reads matches of one token, most of them no longer ones


def test_batches_weigh_by_their_positions():
    weights = torch.stack([successor_weights(TOKENS, 1)], 1)
    weights[0] = 0
    (whole,) = head_scores(Network(Shown(weights)), [{"tokens": TOKENS}])
    rows = [int((successor_weights(TOKENS[row : row + 1], 1) > 0).any(2).sum()) for row in range(5)]
    assert whole.ngram[1] == pytest.approx(1 - rows[0] / sum(rows), abs=1e-6)


def test_only_scored_positions_count():
    weights = torch.stack([torch.zeros(5, 60, 60)], 1)
    weights[:, 0, 30:] = successor_weights(TOKENS, 1)[:, 30:]
    target_mask = (torch.arange(60) >= 30).expand(5, 60)
    (score,) = head_scores(Network(Shown(weights)), [{"tokens": TOKENS, "target_mask": target_mask}])
    assert score.ngram[1] == pytest.approx(1, abs=1e-6)


def test_a_real_network_is_left_as_it_was_and_others_are_refused():
    torch.manual_seed(0)
    signature = Signature(Tokens(4, 60), NextTokens(4))
    model = build("attention", signature, 6_000).train()
    scores = head_scores(model, [{"tokens": TOKENS}])
    assert model.training
    assert {score.layer for score in scores} == {1, 2}
    assert all(0 <= score.ngram[n] <= 1 for score in scores for n in (1, 2, 3))
    with pytest.raises(UserError, match="can show attention weights"):
        head_scores(build("lstm", signature, 6_000), [{"tokens": TOKENS}])
    with pytest.raises(UserError, match="have none"):
        head_scores(model, [{"table": TOKENS}])
