"""The Triton kernels on a graphics processor, against cuDNN's layers, PyTorch's fused attention and the closed forms.

Every figure is a ratio of medians from this one run; above 1 the kernel is faster. Times are of the device's own clock, which
``triton.testing.do_bench`` reads between two events.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

from assay.ops.poly_norm import poly_norm
from assay.ops.recurrent_cells import CELLS
from assay.ops.recurrent_scan import recurrent_scan
from assay.ops.sigmoid_attention import sigmoid_attention

HEADS = ((16, 512, 12, 64), (16, 512, 48, 16))
"""(batch, length, heads, size): 768 units in all."""
LAYERS = ((16, 512, 64), (64, 256, 64), (1, 1024, 64))
"""(batch, length, size), one head."""
Form = tuple[Callable[[], Tensor], Sequence[Tensor]]
"""A call, and what its gradient is asked for."""


def median(call: Callable[[], Any]) -> float:
    """Milliseconds."""
    from triton.testing import do_bench  # pyright: ignore[reportMissingImports]

    return do_bench(call, warmup=10, rep=60, return_mode="median")


def both_passes(form: Form) -> Any:
    forward, leaves = form
    return torch.autograd.grad(forward().sum(), leaves)


def line(title: str, peer: str, ours: Form, theirs: Form) -> None:
    with torch.no_grad():
        forward = [median(form[0]) for form in (ours, theirs)]
    whole = [median(partial(both_passes, form)) for form in (ours, theirs)]
    ratios = f"forward {forward[1] / forward[0]:6.2f}   with backward {whole[1] / whole[0]:6.2f}"
    print(f"{title:<56} against {peer:<28} {ratios}   ({forward[0]:.3f} and {whole[0]:.3f} ms)", flush=True)


def random(*sizes: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> Tensor:
    return (scale * torch.randn(*sizes, device="cuda", dtype=dtype)).requires_grad_()


def scan(inputs: Tensor, weights: Tensor, bias: Tensor, function: str, backend: Any) -> Tensor:
    return recurrent_scan(inputs, weights, bias, None, function, backend)[0]


def layer_of_ours(x: Tensor, gates: Tensor, weights: Tensor, bias: Tensor, function: str) -> Tensor:
    return scan(linear(x, gates).view(*x.shape[:2], -1, 1, x.shape[2]), weights, bias, function, "triton")


def scans() -> None:
    for function, cell in CELLS.items():
        for batch, length, heads, size in HEADS:
            weights = random(cell.recurrent, heads, size, size, scale=size**-0.5)
            leaves = [random(batch, length, cell.inputs, heads, size), weights, random(cell.biases, heads, size)]
            forms = [(partial(scan, *leaves, function, name), leaves) for name in ("triton", "closed")]
            line(f"{function}, batch {batch}, {length} steps, {heads} heads of {size}", "a product a step", *forms)
    for function, layer in (("lstm", nn.LSTM), ("gru", nn.GRU)):
        cell = CELLS[function]
        for batch, length, size in LAYERS:
            x, gates = random(batch, length, size), random(cell.inputs * size, size, scale=size**-0.5)
            leaves = [x, gates, random(cell.recurrent, 1, size, size, scale=size**-0.5), random(cell.biases, 1, size)]
            peer = layer(size, size, batch_first=True).cuda()
            theirs = (lambda x=x, peer=peer: peer(x)[0]), [x, *peer.parameters()]
            title = f"{function} with its inputs, batch {batch}, {length} steps, size {size}"
            line(title, f"cuDNN's {layer.__name__}", (partial(layer_of_ours, *leaves, function), leaves), theirs)


def attention() -> None:
    for length in (2048, 8192):
        for causal in (False, True):
            leaves = [random(2, 16, length, 64, dtype=torch.bfloat16) for _ in range(3)]
            ours = partial(sigmoid_attention, *leaves, causal=causal, implementation="triton")
            theirs = partial(scaled_dot_product_attention, *leaves, is_causal=causal)
            title = f"sigmoid attention, bfloat16, {length} positions{', causal' if causal else ''}"
            line(title, "scaled_dot_product_attention", (ours, leaves), (theirs, leaves))


def activation() -> None:
    for width in (2816, 11_008):
        leaves = [random(8192, width, dtype=torch.bfloat16), random(3), random(1)]
        forms = {name: (partial(poly_norm, *leaves, implementation=name), leaves) for name in ("triton", "closed", "compiled")}
        for peer in ("closed", "compiled"):
            line(f"PolyNorm, bfloat16, 8,192 rows of {width:,}", f"the {peer} form", forms["triton"], forms[peer])


def main() -> None:
    parts = {"scans": scans, "attention": attention, "activation": activation}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=parts, action="append")
    chosen = parser.parse_args().only or parts
    if not torch.cuda.is_available():
        raise SystemExit("The Triton kernels run on a graphics processor, and there is none here.")
    print(torch.cuda.get_device_name())
    for name in chosen:
        parts[name]()


if __name__ == "__main__":
    main()
