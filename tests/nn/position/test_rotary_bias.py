"""The rotary bias: the sum of cosines it stands for, and its dependence on offsets alone."""

from __future__ import annotations

import pytest
import torch

from assay.nn.position.rotary_bias import RotaryBias


def test_it_depends_on_the_offset_alone() -> None:
    torch.manual_seed(0)
    bias, places = RotaryBias(6, deviation=1.0).double(), torch.arange(9)[None]
    here, shifted = bias(places, places), bias(places + 1000, places + 1000)
    assert here.shape == (1, 1, 9, 9)
    torch.testing.assert_close(shifted, here, atol=1e-10, rtol=0)
    torch.testing.assert_close(here[..., 1:, 1:], here[..., :-1, :-1], atol=1e-12, rtol=0)


def test_it_is_a_sum_of_turned_products() -> None:
    # ⟨R_i a, R_j b⟩ = Σ_k (a₁b₁ + a₂b₂) cos(θ_k (j − i)) + (a₂b₁ − a₁b₂) sin(θ_k (j − i)), with (a₁, a₂) the two halves
    torch.manual_seed(0)
    bias = RotaryBias(8, deviation=1.0).double()
    (a1, a2), (b1, b2) = bias.query_vector.chunk(2), bias.key_vector.chunk(2)
    angle = 10_000.0 ** (-torch.arange(4, dtype=torch.float64) / 4) * (7 - 3)
    expected = ((a1 * b1 + a2 * b2) * angle.cos() + (a2 * b1 - a1 * b2) * angle.sin()).sum()
    torch.testing.assert_close(bias(torch.tensor([[3]]), torch.tensor([[7]]))[0, 0, 0, 0], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("width", [0, 3])
def test_an_odd_width_is_refused(width: int) -> None:
    with pytest.raises(ValueError, match=f"even width of at least 2, got {width}"):
        RotaryBias(width)
