"""Linear recurrences in chunks against a loop over positions and against packages; every mixer's time by length.

    python benchmarks/linear_recurrence.py

One thread, float32. Every figure is a ratio of medians from this run; the rivals take turns, and processor time is taken.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from assay.measure import medians
from assay.nn.attention.linear import LinearAttention
from assay.nn.attention.random_feature import RandomFeatureAttention
from assay.nn.attention.taylor import TaylorAttention
from assay.nn.recurrent.gated_delta import GatedDelta
from assay.nn.recurrent.gated_linear_attention import GatedLinearAttention
from assay.nn.recurrent.linear_recurrent_unit import LinearRecurrentUnit
from assay.nn.recurrent.min_gru import MinGRU, MinLSTM
from assay.nn.recurrent.retention import Retention
from assay.nn.recurrent.rwkv4 import RWKV4TimeMix
from assay.nn.state_space.h3 import H3
from assay.nn.state_space.s4d import S4D
from assay.nn.state_space.selective import SelectiveStateSpace
from assay.ops.delta_rule import delta_rule
from assay.ops.linear_attention import linear_attention
from assay.ops.linear_recurrence import linear_recurrence

Pair = tuple[nn.Module, nn.Module, Callable[[Tensor], Tensor]]
"""A layer of ours, a package's with the same weights, and how the latter is called."""
LENGTH, HEADS, HEAD_WIDTH, WIDTH = 2048, 4, 32, 64
LENGTHS = (1024, 2048, 4096, 8192, 16_384)
MIXERS: dict[str, Callable[[int], nn.Module]] = {
    "LinearAttention": LinearAttention,
    "RandomFeatureAttention": RandomFeatureAttention,
    "TaylorAttention": TaylorAttention,
    "Retention": Retention,
    "GatedLinearAttention": GatedLinearAttention,
    "GatedDelta": GatedDelta,
    "RWKV4TimeMix": RWKV4TimeMix,
    "S4D": S4D,
    "SelectiveStateSpace": SelectiveStateSpace,
    "H3": H3,
    "MinGRU": MinGRU,
    "MinLSTM": MinLSTM,
    "LinearRecurrentUnit": LinearRecurrentUnit,
}


def trained(function: Callable[[], Tensor], leaves: list[Tensor]) -> Callable[[], Any]:
    """Forward and backward."""
    return lambda: torch.autograd.grad(function().square().sum(), leaves)


def forms() -> dict[str, tuple[Callable[[str], Tensor], list[Tensor], str]]:
    """Each form of the core: the function of an implementation, its leaves, and the name of the fast implementation."""
    draw = torch.randn
    shape = (1, HEADS, LENGTH, HEAD_WIDTH)
    queries, keys, values = (draw(shape).requires_grad_() for _ in "qkv")
    unit = F.normalize(draw(shape), dim=-1).requires_grad_()
    head, channel = ((-0.1 * torch.rand(size)).requires_grad_() for size in (shape[:3], shape))
    strong, strength = ((-10 * torch.rand(shape)).requires_grad_(), torch.rand(shape[:3]).requires_grad_())
    decay, inputs = (torch.rand(1, LENGTH, 256).requires_grad_() for _ in "ab")
    turning = torch.polar(decay.detach(), draw(1, LENGTH, 256)).requires_grad_()
    driven = torch.complex(*draw(2, 1, LENGTH, 256)).requires_grad_()

    def matrix(log_decay: Tensor | None) -> tuple[Callable[[str], Tensor], list[Tensor], str]:
        leaves = [queries, keys, values] + ([] if log_decay is None else [log_decay])
        return lambda way: linear_attention(queries, keys, values, log_decay, implementation=way)[0], leaves, "chunked"

    def delta(log_decay: Tensor | None) -> tuple[Callable[[str], Tensor], list[Tensor], str]:
        leaves = [queries, unit, values, strength] + ([] if log_decay is None else [log_decay])
        return lambda way: delta_rule(queries, unit, values, strength, log_decay, implementation=way)[0], leaves, "chunked"

    return {
        "elementwise, real": (lambda way: linear_recurrence(decay, inputs, implementation=way)[0], [decay, inputs], "blocked"),
        "elementwise, complex": (lambda way: linear_recurrence(turning, driven, implementation=way)[0].real, [turning, driven], "blocked"),
        "matrix, no decay": matrix(None),
        "matrix, decay a head": matrix(head),
        "matrix, decay a channel": matrix(channel),
        "matrix, strong decay a channel": matrix(strong),
        "delta rule": delta(None),
        "delta rule, gated": delta(head),
    }


def against_loops() -> None:
    print(f"{LENGTH} positions, 256 numbers or {HEADS} heads of {HEAD_WIDTH}: chunks are faster than a loop over positions by", flush=True)
    for name, (function, leaves, fast) in forms().items():
        with torch.no_grad():
            forward = medians({way: partial(function, way) for way in ("recurrent", fast)}, 3)
        both = medians({way: trained(partial(function, way), leaves) for way in ("recurrent", fast)}, 1)
        ratios = [taken["recurrent"] / taken[fast] for taken in (forward, both)]
        print(
            f"  {name:32} {ratios[0]:5.1f} × forward, {ratios[1]:5.1f} × with backward   ({forward[fast]:.1f} and {both[fast]:.1f} ms)",
            flush=True,
        )


def against_flash_linear_attention() -> None:
    """Its plain PyTorch functions; they need Triton to be installed even where none is used."""
    try:
        retention = importlib.import_module("fla.ops.retention.naive").naive_retention
        gated = importlib.import_module("fla.ops.gla.naive").naive_recurrent_gla
        delta = importlib.import_module("fla.ops.delta_rule.naive").delta_rule_chunkwise
    except ImportError as missing:
        print(f"SKIPPED: flash-linear-attention's plain functions ({missing})", flush=True)
        return
    queries, keys, values = (torch.randn(1, HEADS, LENGTH, HEAD_WIDTH) for _ in "qkv")
    keys, strength = F.normalize(keys, dim=-1), torch.rand(1, HEADS, LENGTH)
    log_decay, channels = torch.full((1, HEADS, LENGTH), math.log(31 / 32)), -0.1 * torch.rand_like(keys)
    swapped = [x.transpose(1, 2) for x in (queries, keys, values, channels)]
    pairs: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "retention": (lambda: linear_attention(queries, keys, values, log_decay), lambda: retention(queries, keys, values)),
        "gated linear attention": (lambda: linear_attention(queries, keys, values, channels), lambda: gated(*swapped)),
        "delta rule": (lambda: delta_rule(queries, keys, values, strength), lambda: delta(queries, keys, values, strength)),
    }
    with torch.no_grad():
        for name, (mine, theirs) in pairs.items():
            taken = medians({"mine": mine, "theirs": theirs}, 3)
            print(f"  {name:32} {taken['theirs'] / taken['mine']:5.1f} × flash-linear-attention's plain function, forward", flush=True)


def against_packages(packages: Mapping[str, Callable[[], Pair]], x: Tensor) -> None:
    """Each package's layer with the weights of ours: the time, and how far its results and their gradients at x are from ours."""
    for name, make in packages.items():
        try:
            layer, peer, call = make()
        except ImportError as missing:
            print(f"SKIPPED: {name} ({missing})", flush=True)
            continue
        given = x.clone().requires_grad_()
        run: dict[str, Callable[[], Tensor]] = {"mine": partial(layer, given), "theirs": partial(call, given)}
        train = {side: trained(run[side], [given, *part.parameters()]) for side, part in (("mine", layer), ("theirs", peer))}
        with torch.no_grad():
            forward, values = medians(run, 3), difference(run["theirs"](), run["mine"]())
        both, gradients = medians(train, 1), difference(train["theirs"]()[0], train["mine"]()[0])
        ratios = [taken["theirs"] / taken["mine"] for taken in (forward, both)]
        print(
            f"  {name:40} {ratios[0]:6.2f} × our time forward, {ratios[1]:6.2f} × with backward; "
            f"results differ by {values:.0e} of the largest, gradients by {gradients:.0e}",
            flush=True,
        )


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference over the largest expected value."""
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


def copied(pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Write the second of each pair into the first."""
    with torch.no_grad():
        for to, value in pairs:
            to.copy_(value.view_as(to))


def _mamba_weights(layer: SelectiveStateSpace, peer: Any) -> None:
    """Into a peer's layer; both packages call its parts as the published code does."""
    named = {"in_proj": layer.input_projection, "x_proj": layer.selection_projection, "out_proj": layer.output_projection}
    copied([(getattr(peer, name).weight, part.weight) for name, part in named.items()])
    copied([(peer.dt_proj.weight, layer.step_projection.weight), (peer.dt_proj.bias, layer.step_projection.bias)])
    copied([(peer.conv1d.weight, layer.convolution.weight.T.contiguous()), (peer.A_log, layer.log_rate), (peer.D, layer.skip)])
    if layer.convolution.bias is not None:
        copied([(peer.conv1d.bias, layer.convolution.bias)])


def _mambapy() -> Pair:
    package = importlib.import_module("mambapy.mamba")
    layer, peer = SelectiveStateSpace(WIDTH), package.MambaBlock(package.MambaConfig(d_model=WIDTH, n_layers=1))
    _mamba_weights(layer, peer)
    return layer, peer, peer


def _transformers_mamba() -> Pair:
    package, config = (
        importlib.import_module("transformers.models.mamba.modeling_mamba"),
        importlib.import_module("transformers").MambaConfig,
    )
    layer, peer = SelectiveStateSpace(WIDTH), package.MambaMixer(config(hidden_size=WIDTH), 0)
    _mamba_weights(layer, peer)
    return layer, peer, peer


def _transformers_rwkv() -> Pair:
    package = importlib.import_module("transformers.models.rwkv.modeling_rwkv")
    config = importlib.import_module("transformers").RwkvConfig
    layer, peer = RWKV4TimeMix(WIDTH), package.RwkvSelfAttention(config(hidden_size=WIDTH))
    for name, share in zip(("receptance", "key", "value"), layer.shift, strict=True):
        copied([(getattr(peer, f"time_mix_{name}"), share), (getattr(peer, name).weight, getattr(layer, f"{name}_projection").weight)])
    copied([(peer.time_decay, layer.log_decay_rate), (peer.time_first, layer.bonus), (peer.output.weight, layer.output_projection.weight)])
    return layer, peer, lambda x: peer(x)[0]


def _lru_pytorch() -> Pair:
    layer, peer = LinearRecurrentUnit(WIDTH), importlib.import_module("LRU_pytorch").LRU(WIDTH, WIDTH, WIDTH)
    real, imaginary = layer.input_projection.weight.chunk(2)
    left, right = layer.output_projection.weight.chunk(2, 1)
    copied([(peer.nu_log, layer.log_rate), (peer.theta_log, layer.log_phase), (peer.gamma_log, layer.log_gain)])
    copied([(peer.B, torch.complex(real, imaginary)), (peer.C, torch.complex(left, -right)), (peer.D, layer.skip.diag())])
    return layer, peer, peer


def _min_gru_pytorch(name: str, projection: str, make: Callable[[int], MinGRU | MinLSTM]) -> Pair:
    """Its candidates are x + ½ where x ≥ 0, so that a bias of ½ and positive weights make the layers equal on positive inputs."""
    layer, peer = make(WIDTH), getattr(importlib.import_module(f"minGRU_pytorch.{name}"), name)(WIDTH)
    with torch.no_grad():
        layer.input_projection.weight[-WIDTH:].abs_()
        layer.input_projection.bias.zero_()[-WIDTH:] = 0.5
    copied([(getattr(peer, projection).weight, layer.input_projection.weight.roll(WIDTH, 0))])  # it has the candidate first
    return layer, peer, peer


PACKAGES: dict[str, Callable[[], Pair]] = {
    "mambapy's Mamba": _mambapy,
    "transformers' Mamba": _transformers_mamba,
    "transformers' RWKV-4": _transformers_rwkv,
    "lru-pytorch's linear recurrent unit": _lru_pytorch,
    "minGRU-pytorch's minGRU": partial(_min_gru_pytorch, "minGRU", "to_hidden_and_gate", MinGRU),
    "minGRU-pytorch's minLSTM": partial(_min_gru_pytorch, "minLSTM", "to_hidden_and_f_i_gate", MinLSTM),
}


def slopes() -> None:
    print(f"exponent e of time ~ length^e over {LENGTHS[0]} … {LENGTHS[-1]} positions, width {WIDTH}: forward, with backward", flush=True)
    for name, make in MIXERS.items():
        mixer = make(WIDTH)
        parameters, line = list(mixer.parameters()), []
        for backward in (False, True):
            rivals: dict[str, Callable[[], Any]] = {}
            for length in LENGTHS:
                x = torch.randn(1, length, WIDTH)
                run = partial(mixer, x)
                rivals[str(length)] = trained(run, parameters) if backward else torch.no_grad()(run)
            taken = medians(rivals, 3)
            line.append(slope(LENGTHS, [taken[str(length)] for length in LENGTHS]))
        print(f"  {name:24} {line[0]:.2f}, {line[1]:.2f}", flush=True)


def slope(lengths: tuple[int, ...], times: list[float]) -> float:
    x, y = torch.tensor(lengths).double().log(), torch.tensor(times).double().log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    against_loops()
    against_flash_linear_attention()
    print(f"packages' layers with the same weights, {LENGTH} positions, width {WIDTH}", flush=True)
    against_packages(PACKAGES, torch.rand(1, LENGTH, WIDTH))
    slopes()


if __name__ == "__main__":
    main()
