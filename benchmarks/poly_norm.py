"""PolyNorm's own backward pass and its fused form against autograd and the compiler, and a PolyNorm net against SwiGLU; one thread.

Every figure is a ratio of medians from this one run. The rivals take turns, and processor time is taken: with one thread it is the time a
call needs, whatever else the machine does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from assay.measure import medians, parameter_count
from assay.nn.channel.feed_forward import FeedForward
from assay.ops.poly_norm import poly_norm

ROWS, SIZE, WIDTH = 2048, 1024, 384


def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The published formula in eager operators."""
    y, order = bias, len(weight)
    for place, coefficient in enumerate(weight):
        power = x ** (order - place)
        y = y + coefficient * power * (power.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    return y


def saved_bytes(function: Callable[[], Tensor], inputs: Tensor) -> int:
    """Bytes that autograd keeps beside the input, shared storage once."""
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() != inputs.untyped_storage().data_ptr():
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive = function()  # what is kept must live until it is counted, or addresses come twice
    del alive
    return sum(kept.values())


def activations() -> dict[str, Callable[..., Tensor]]:
    return {
        "fused": partial(poly_norm, implementation="compiled"),
        "closed": partial(poly_norm, implementation="closed"),
        "scale-safe, autograd": partial(poly_norm, implementation="reference"),
        "plain, autograd": plain,
        "plain, torch.compile": torch.compile(plain),
    }


def step(function: Callable[..., Tensor], x: Tensor, weight: Tensor, bias: Tensor) -> None:
    torch.autograd.grad(function(x, weight, bias).sum(), [x, weight, bias])


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(ROWS, SIZE, requires_grad=True)
    weight, bias = torch.full((3,), 1 / 3, requires_grad=True), torch.zeros(1, requires_grad=True)
    taken = medians({name: partial(step, function, x, weight, bias) for name, function in activations().items()}, 15, warm=2)
    print(f"forward and backward of {ROWS} rows of {SIZE}, float32, one thread; fused {taken['fused']:.1f} ms")
    for name in list(taken)[1:]:
        print(f"  {taken[name] / taken['fused']:.2f} × {name}")
    kept = {name: saved_bytes(partial(function, x, weight, bias), x) for name, function in activations().items()}
    share = kept["plain, autograd"] / max(kept["closed"], 1)
    print(f"kept for the backward pass beside x: closed {kept['closed'] / x.nbytes:.3f} × x, {share:.0f} times less than plain autograd")

    nets = {name: FeedForward(WIDTH, 4 * WIDTH, activation=name) for name in ("swiglu", "gelu", "poly-relu", "poly-norm")}
    nets["poly-norm, fused"] = FeedForward(WIDTH, 4 * WIDTH, activation="poly-norm")
    nets["poly-norm, fused"].activation.implementation = "compiled"  # pyright: ignore[reportArgumentType]
    inputs = torch.randn(ROWS, WIDTH)

    def train(net: nn.Module) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(net(inputs).square().mean(), list(net.parameters()))

    taken = medians({name: train(net) for name, net in nets.items()}, 15, warm=2)
    counts = {parameter_count(net) for net in nets.values()}
    print(f"a feed-forward net of width {WIDTH}, {min(counts):,} to {max(counts):,} parameters, forward and backward against SwiGLU's:")
    for name in list(taken)[1:]:
        print(f"  {taken[name] / taken['swiglu']:.2f} × {name}")


if __name__ == "__main__":
    main()
