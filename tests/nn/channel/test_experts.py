"""The mixture of experts against its dense form, its two losses against their formulas, its routing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from assay.nn.channel.experts import MixtureOfExperts
from assay.nn.channel.feed_forward import FeedForward


def mixture(experts: int = 5, active: int = 2, **options: float) -> MixtureOfExperts:
    torch.manual_seed(0)
    return MixtureOfExperts(6, lambda: FeedForward(6, 9), experts, active, **options).double()


@pytest.mark.parametrize("active", [1, 2, 5])
def test_the_sparse_sum_is_the_dense_one_in_value_and_gradient(active: int) -> None:
    layer, x = mixture(active=active), torch.randn(3, 7, 6, dtype=torch.float64, requires_grad=True)
    found = torch.autograd.grad(layer(x).square().sum(), [x, *layer.parameters()])
    expected = torch.autograd.grad(layer.dense(x).square().sum(), [x, *layer.parameters()])
    torch.testing.assert_close(layer(x), layer.dense(x), atol=1e-12, rtol=0)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-11, rtol=1e-11)


def test_all_experts_active_is_the_softmax_mixture() -> None:
    layer, x = mixture(active=5), torch.randn(4, 6, dtype=torch.float64)
    p = layer.router(x).softmax(-1)
    expected = sum(p[:, [e]] * expert(x) for e, expert in enumerate(layer.experts))
    torch.testing.assert_close(layer(x), expected, atol=1e-12, rtol=0)


def test_each_position_goes_to_its_most_probable_expert() -> None:
    layer = MixtureOfExperts(3, lambda: nn.Linear(3, 3), experts=3, active=1)
    with torch.no_grad():
        layer.router.weight.copy_(torch.eye(3))
    x = torch.eye(3)[[2, 0, 1]]
    torch.testing.assert_close(layer(x), torch.stack([layer.experts[e](x[row]) for row, e in enumerate((2, 0, 1))]))


def test_losses_against_their_formulas() -> None:
    layer, x = mixture(balance=0.5, router_z=0.25), torch.randn(40, 6, dtype=torch.float64)
    layer(x)
    logits = layer.router(x)
    p, chosen = logits.softmax(-1), logits.topk(2, -1).indices
    share = torch.stack([(chosen == e).double().mean() for e in range(5)])
    torch.testing.assert_close(layer.losses["balance"], 0.5 * 5 * (share * p.mean(0)).sum())
    torch.testing.assert_close(layer.losses["router-z"], 0.25 * logits.exp().sum(-1).log().square().mean())


def test_an_even_router_has_the_least_balance_and_evaluation_leaves_none() -> None:
    layer, x = mixture(experts=4, balance=1.0), torch.randn(400, 6, dtype=torch.float64)
    with torch.no_grad():
        layer.router.weight.zero_()
    layer(x)
    assert layer.losses["balance"].item() == pytest.approx(1.0)
    layer.losses = {}
    layer.eval()(x)
    assert layer.losses == {}


def test_an_expert_nobody_chose_gets_a_gradient_of_zeros() -> None:
    # processes that train together must agree on which parameters have a gradient
    layer = mixture(experts=5, active=1)
    layer(torch.randn(1, 6, dtype=torch.float64)).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    assert sum(bool(expert.expand.weight.grad.any()) for expert in layer.experts) == 1


def test_the_exported_graph_is_the_dense_form() -> None:
    layer, x = mixture().eval(), torch.randn(4, 6, dtype=torch.float64)
    exported = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(exported(x), layer(x), atol=1e-12, rtol=0)


def test_nothing_in_nothing_out() -> None:
    layer = mixture()
    assert layer(torch.zeros(2, 0, 6, dtype=torch.float64)).shape == (2, 0, 6)


@pytest.mark.parametrize(("options", "words"), [({"active": 6}, "got 6"), ({"active": 0}, "got 0"), ({"balance": -1.0}, "balance -1.0")])
def test_bad_options_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        mixture(**options)
