"""The selective state space against a loop over its equations; its starting values, count and operations."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F

from assay.measure import count_flops, state_bytes
from assay.nn.state_space import selective as module
from assay.nn.state_space.selective import SelectiveStateSpace
from assay.testing import check_mixer

VARIANTS = {"plain": SelectiveStateSpace, "small": partial(SelectiveStateSpace, state=3, expand=1, kernel_size=2, rank=5, bias=True)}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_option_keeps_the_contract(name: str) -> None:
    check_mixer(VARIANTS[name])


def loop(layer: SelectiveStateSpace, x: torch.Tensor) -> torch.Tensor:
    driven, gate = layer.input_projection(x).chunk(2, -1)
    driven = F.silu(layer.convolution(driven))
    low, entering, leaving = layer.selection_projection(driven).split([layer.rank, layer.size, layer.size], -1)
    step, rate = F.softplus(layer.step_projection(low)), -layer.log_rate.exp()
    h, outputs = torch.zeros(len(x), layer.inner, layer.size, dtype=x.dtype), []
    for t in range(x.shape[1]):
        h = (step[:, t, :, None] * rate).exp() * h + step[:, t, :, None] * entering[:, t, None] * driven[:, t, :, None]
        outputs.append((h * leaving[:, t, None]).sum(-1) + layer.skip * driven[:, t])
    return layer.output_projection(torch.stack(outputs, 1) * F.silu(gate))


@pytest.mark.parametrize("name", VARIANTS)
def test_outputs_and_gradients_are_those_of_a_loop(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 40)
    torch.manual_seed(0)
    layer, x = VARIANTS[name](6).double(), torch.randn(2, 100, 6, dtype=torch.float64)
    parameters, outputs = list(layer.parameters()), (layer(x), loop(layer, x))
    gradients = [(y, *torch.autograd.grad(y.square().sum(), parameters)) for y in outputs]
    for mine, theirs in zip(*gradients, strict=True):
        assert (mine - theirs).abs().max() <= 1e-11 * max(1.0, float(theirs.detach().abs().max()))


def test_states_are_not_all_kept_for_the_gradient() -> None:
    layer, kept = SelectiveStateSpace(4), []
    for length in (2048, 4096):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x):
            layer(torch.randn(1, length, 4))
        kept.append(sum(sizes))
    assert (kept[1] - kept[0]) / 2048 < 2 * layer.inner * layer.size  # one state a position, and its decay, would be as many


def test_starting_values_are_the_published_ones() -> None:
    torch.manual_seed(0)
    layer = SelectiveStateSpace(32)
    torch.testing.assert_close(layer.log_rate.exp(), torch.arange(1.0, 17).repeat(64, 1))
    step = F.softplus(layer.step_projection.bias)
    assert step.min() >= 1e-3 * 0.999
    assert step.max() <= 1e-1 * 1.001
    assert layer.rank == 2
    assert sum(parameter.numel() for parameter in layer.parameters()) == 9920  # transformers' MambaMixer of this size


def test_state_and_operations() -> None:
    layer = SelectiveStateSpace(8)
    assert state_bytes(layer.initial_state(1)) == 4 * 16 * (16 + 3)
    maps = 2 * (8 * 32 + 16 * 33 + 1 * 16 + 16 * 8)
    assert count_flops(layer, torch.zeros(2, 5, 8)) == 2 * 5 * (maps + 16 * (8 * 16 + 2 * 4 + 4))


@pytest.mark.parametrize("options", [{"state": 0}, {"expand": 0}, {"rank": 0}, {"kernel_size": 0}])
def test_bad_options_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match=r"at least 1, got .*0"):
        SelectiveStateSpace(8, **options)
