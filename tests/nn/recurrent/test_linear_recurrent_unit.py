"""The linear recurrent unit against a loop and its closed impulse response; its eigenvalues."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from assay.measure import count_flops, state_bytes
from assay.nn.recurrent import linear_recurrent_unit as module
from assay.nn.recurrent.linear_recurrent_unit import LinearRecurrentUnit
from assay.testing import check_mixer

VARIANTS = {
    "plain": LinearRecurrentUnit,
    "small, in a ring": partial(LinearRecurrentUnit, state=5, smallest=0.9, largest=0.99, largest_phase=0.3),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_option_keeps_the_contract(name: str) -> None:
    check_mixer(VARIANTS[name])


def matrices(layer: LinearRecurrentUnit) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    eigenvalues = torch.exp(-layer.log_rate.exp() + 1j * layer.log_phase.exp())
    real, imaginary = layer.input_projection.weight.chunk(2)
    left, right = layer.output_projection.weight.chunk(2, 1)
    return eigenvalues, torch.complex(real, imaginary) * layer.log_gain.exp()[:, None], torch.complex(left, -right)


def test_outputs_are_those_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 64)
    torch.manual_seed(0)
    layer, x = LinearRecurrentUnit(6, 4).double(), torch.randn(2, 150, 6, dtype=torch.float64)
    eigenvalues, entering, leaving = matrices(layer)
    h, outputs = torch.zeros(2, 4, dtype=torch.complex128), []
    for x_t in x.unbind(1):
        h = eigenvalues * h + x_t.to(h.dtype) @ entering.T
        outputs.append((h @ leaving.T).real + layer.skip * x_t)
    torch.testing.assert_close(layer(x), torch.stack(outputs, 1), atol=1e-12, rtol=0)


def test_impulse_response_is_a_sum_of_powers() -> None:
    torch.manual_seed(0)
    layer = LinearRecurrentUnit(3, 4).double()
    eigenvalues, entering, leaving = matrices(layer)
    powers = eigenvalues ** torch.arange(60)[:, None]
    expected = torch.einsum("on,tn,ni->tio", leaving, powers, entering).real
    expected[0] += layer.skip.diag()
    impulses = torch.eye(3, dtype=torch.float64)[:, None] * torch.eye(60, 1, dtype=torch.float64)
    torch.testing.assert_close(layer(impulses).transpose(0, 1), expected, atol=1e-12, rtol=0)


def test_eigenvalues_start_in_the_ring_and_stay_in_the_disc() -> None:
    torch.manual_seed(0)
    layer = LinearRecurrentUnit(4, 2000, smallest=0.8, largest=0.95, largest_phase=1.0)
    size, phase = layer.eigenvalues().abs(), layer.eigenvalues().angle()
    assert 0.799 < size.min() < 0.81 < 0.94 < size.max() < 0.951
    assert phase.min() >= 0
    assert phase.max() <= 1
    # uniform in area: half of it lies outside the radius whose square is in the middle
    assert abs(float((size > ((0.8**2 + 0.95**2) / 2) ** 0.5).float().mean()) - 0.5) < 0.05
    torch.testing.assert_close(layer.log_gain.exp().square() + size.square(), torch.ones(2000))
    with torch.no_grad():
        layer.log_rate.fill_(-30.0)
    assert (layer.eigenvalues().abs() <= 1).all()


def test_state_and_operations() -> None:
    layer = LinearRecurrentUnit(8, 5)
    assert state_bytes(layer.initial_state(1)) == 8 * 5
    assert count_flops(layer, torch.zeros(2, 5, 8)) == 2 * 5 * (2 * 2 * 8 * 10 + 10 * 5 + 2 * 8)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"state": 0}, "got 8 and 0"),
        ({"smallest": 0.9, "largest": 0.5}, "ordered, at least 0 and below 1, got 0.9 and 0.5"),
        ({"largest": 1.0}, "got 0.0 and 1.0"),
        ({"largest_phase": 0.0}, "largest_phase must be above 0, got 0.0"),
    ],
)
def test_bad_options_are_refused(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LinearRecurrentUnit(8, **options)


def test_the_form_for_export_is_the_same() -> None:
    """In real numbers, a position at a time: from a state, and over padding."""
    torch.manual_seed(0)
    layer = LinearRecurrentUnit(6, 5).double()
    x, mask = torch.randn(3, 40, 6, dtype=torch.float64), torch.rand(3, 40) < 0.8
    state = torch.randn_like(layer.initial_state(3))
    for ours, theirs in zip(layer._in_pairs(x, state, mask), layer.scan(x, state, mask), strict=True):
        torch.testing.assert_close(ours, theirs)
