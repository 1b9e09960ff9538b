"""Advice says what the theory's numbers say, and warns where they end."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from assay.theory.advice import advise_depth


def test_a_wide_shallow_network_needs_nothing() -> None:
    advice = advise_depth(torch.relu, 2, 512, outputs=10)
    assert (advice.weight_variance, advice.bias_variance, advice.residual) == (pytest.approx(2.0), 0.0, 0.0)
    assert advice.best_ratio == pytest.approx(4 / (50 * 5))
    assert advice.validity == "perturbative"
    assert advice.warnings == ()


def test_a_narrow_deep_network_is_warned_of() -> None:
    advice = advise_depth(F.gelu, 20, 40, outputs=10, input_square=0.5)
    assert advice.fluctuation == pytest.approx(4.904 * 0.5, rel=1e-3)
    assert advice.validity == "outside"
    assert advice.residual is not None
    assert 0.9 < advice.residual < 1
    assert advice.first_weight_variance == pytest.approx((3.56155281 - 0.17292239) / 0.5, rel=1e-6)
    assert any("wider, shallower or residual" in warning for warning in advice.warnings)
    assert any("attracts from above" in warning for warning in advice.warnings)


def test_what_has_no_critical_point_gets_no_numbers_of_shape() -> None:
    advice = advise_depth(torch.sigmoid, 5, 100)
    assert (advice.best_ratio, advice.fluctuation, advice.residual, advice.validity) == (None, None, None, None)
    assert "only the nearest" in advice.warnings[0]


@pytest.mark.parametrize(
    ("arguments", "words"), [((0, 10), "got 0, 1 and 10"), ((3, 1), "got 3, 1 and 1"), ((3, 10, 1, 0.0), "input_square must be above 0")]
)
def test_bad_arguments_are_refused(arguments, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        advise_depth(torch.tanh, *arguments)
