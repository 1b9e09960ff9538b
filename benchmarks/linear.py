"""Linear maps of many rows against `torch.nn.functional.linear`, and what a training step of a network gains.

    python benchmarks/linear.py

One thread, float32, processor time, medians; the rivals take turns. Where PyTorch's own products use all of the processor's vectors both
are the same code, and the ratios are 1.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from assay.contracts import NextTokens, Signature, Tokens
from assay.measure import medians
from assay.models import build
from assay.nn import Linear
from assay.ops.affine import affine

SHAPES = ((8192, 96, 384), (8192, 192, 768), (4096, 64, 256), (2048, 512, 512))
MIXERS = ("attention", "lstm", "retention", "hyena", "gated-delta")
BATCH, LENGTH, VOCABULARY = 32, 128, 100


def product(rows: int, inputs: int, outputs: int) -> None:
    """Forward, and with all gradients."""
    given = [torch.randn(size, requires_grad=True) for size in ((rows, inputs), (outputs, inputs), (outputs,))]
    flow = torch.randn(rows, outputs)
    with torch.no_grad():
        forward = medians({"ours": lambda: affine(*given), "theirs": lambda: F.linear(*given)}, 9)
    both = medians(
        {
            "ours": lambda: torch.autograd.grad(affine(*given), given, flow),
            "theirs": lambda: torch.autograd.grad(F.linear(*given), given, flow),
        },
        9,
    )
    ratios = [taken["theirs"] / taken["ours"] for taken in (forward, both)]
    print(f"{rows} rows, {inputs} to {outputs}: {ratios[0]:.2f} × as fast forward, {ratios[1]:.2f} × with backward", flush=True)


def training_step(name: str) -> None:
    """A network of 200,000 parameters with either product."""
    tokens = torch.randint(VOCABULARY, (BATCH, LENGTH))
    model, ours = build(name, Signature(Tokens(VOCABULARY, LENGTH), NextTokens(VOCABULARY))), Linear.forward

    def step(forward: Any) -> None:
        Linear.forward = forward
        model({"tokens": tokens}).prediction.square().mean().backward()

    taken = medians({"ours": lambda: step(ours), "theirs": lambda: step(nn.Linear.forward)}, 7)
    Linear.forward = ours
    print(f"a training step of {name}: {taken['theirs'] / taken['ours']:.2f} × as fast", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for shape in SHAPES:
        product(*shape)
    for mixer in MIXERS:
        training_step(mixer)
