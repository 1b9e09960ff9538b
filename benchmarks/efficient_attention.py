"""Ten kinds of attention over longer and longer sequences, beside fused attention and beside the packages that have the same kind.

A layer of width 256 with 4 heads of 64, not causal, batch 1, float32, one thread, forward without gradient. The rivals take turns, and
processor time is taken: with one thread it is the time a call needs, whatever else the machine does. The exponent is the slope of
log time over log length from 2,048 positions on; strided attention has blocks of √length, so √length is its best.

    python benchmarks/efficient_attention.py [longest, by default 8192]
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from assay import registry
from assay.measure import medians

WIDTH, HEADS = 256, 4
LENGTHS = (1024, 2048, 4096, 8192, 16_384)
WINDOW, RANK, FEATURES = 128, 64, 128


def kinds(length: int) -> dict[str, dict[str, Any]]:
    """Options of every kind at a length."""
    root = math.isqrt(length)
    return {
        "attention": {"causal": False},
        "block-sparse-attention": {"block": 64},
        "linear-attention": {"causal": False},
        "low-rank-attention": {"length": length, "rank": RANK},
        "local-attention": {"causal": False, "block": WINDOW},
        "sliding-window-attention": {"causal": False, "window": WINDOW},
        "random-feature-attention": {"causal": False, "features": FEATURES},
        "sinkhorn-attention": {"length": length, "block": WINDOW},
        "strided-sparse-attention": {"causal": False, "pattern": "strided", "block": root},
        "synthesizer": {"length": length, "mode": "factorized_random"},
    }


def layers(length: int) -> dict[str, nn.Module]:
    """Every kind that is registered."""
    made = {}
    for name, options in kinds(length).items():
        if registry.known("mixer", name):
            made[name] = registry.resolve("mixer", name)(WIDTH, HEADS, **options).eval()
    return made


def peers(length: int) -> dict[str, tuple[str, Callable[[torch.Tensor], Any]]]:
    """By package and class: the kind of ours that does the same, and a call on x (1, length, width)."""
    found: dict[str, tuple[str, Callable[[torch.Tensor], Any]]] = {}
    for name, make in {
        "local-attention": _local,
        "linformer": _linformer,
        "performer-pytorch": _performer,
        "transformers' BigBird": _big_bird,
        "sinkhorn-transformer": _sinkhorn,
    }.items():
        try:
            found[name] = make(length)
        except ImportError as missing:
            print(f"  {name} is skipped: {missing}")
    return found


def _local(length: int) -> tuple[str, Callable[[torch.Tensor], Any]]:
    from local_attention import LocalAttention

    attention = LocalAttention(dim=64, window_size=WINDOW, causal=False, look_backward=0, look_forward=0, use_rotary_pos_emb=False)
    return "local-attention", _projected(attention)


def _sinkhorn(length: int) -> tuple[str, Callable[[torch.Tensor], Any]]:
    """Only its time compares: it sorts the keys and takes them for the values too (0.11.4), and picks one block instead of mixing all."""
    from sinkhorn_transformer.sinkhorn_transformer import SinkhornAttention

    attention = SinkhornAttention(WINDOW, WIDTH, WIDTH // HEADS, HEADS, length, use_simple_sort_net=True).eval()
    return "sinkhorn-attention", _projected(attention)


def _projected(attention: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Between the projections that a package's attention over queries, keys and values leaves out."""
    inward, outward = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def call(x: torch.Tensor) -> torch.Tensor:
        parts = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in inward(x).chunk(3, -1))
        return outward(attention(*parts).transpose(1, 2).flatten(2))

    return call


def _linformer(length: int) -> tuple[str, Callable[[torch.Tensor], Any]]:
    from linformer import LinformerSelfAttention

    return "low-rank-attention", LinformerSelfAttention(WIDTH, length, k=RANK, heads=HEADS, share_kv=False).eval()


def _performer(length: int) -> tuple[str, Callable[[torch.Tensor], Any]]:
    from performer_pytorch import SelfAttention

    return "random-feature-attention", SelfAttention(dim=WIDTH, heads=HEADS, dim_head=64, nb_features=FEATURES, causal=False).eval()


def _big_bird(length: int) -> tuple[str, Callable[[torch.Tensor], Any]]:
    from transformers import BigBirdConfig
    from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention, BigBirdModel

    config = BigBirdConfig(hidden_size=WIDTH, num_attention_heads=HEADS, block_size=64, num_random_blocks=3, max_position_embeddings=length)
    attention, outward = BigBirdBlockSparseAttention(config, seed=0).eval(), nn.Linear(WIDTH, WIDTH)
    blocked, band, rows, columns = BigBirdModel.create_masks_for_block_sparse_attn(torch.ones(1, length), 64)
    return "block-sparse-attention", lambda x: outward(
        attention(x, band_mask=band, from_mask=rows, to_mask=columns, from_blocked_mask=blocked, to_blocked_mask=blocked)[0]
    )


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    longest = int(sys.argv[1]) if len(sys.argv) > 1 else 8192
    lengths = [length for length in LENGTHS if length <= longest]
    taken: dict[str, dict[int, float]] = {}
    print("milliseconds a call, and how many times fused attention's speed")
    with torch.no_grad():
        for length in lengths:
            x = torch.randn(1, length, WIDTH)
            rivals = {name: lambda layer=layer, x=x: layer(x) for name, layer in layers(length).items()}
            times = medians(rivals, repeats=5 if length <= 2048 else 3)
            for name, milliseconds in times.items():
                taken.setdefault(name, {})[length] = milliseconds
            print(f"  {length:>6}: " + ", ".join(f"{n} {t:.0f} ({times['attention'] / t:.1f} ×)" for n, t in times.items()), flush=True)
        for name, times in taken.items():
            long = [length for length in lengths if length >= 2048]
            if len(long) > 1:
                slope = np.polyfit(np.log(long), np.log([times[length] for length in long]), 1)[0]
                print(f"  exponent of {name}: {slope:.2f}")
        for name in kinds(1):
            if name not in taken:
                print(f"  {name} is skipped: it is not registered")
        length = min(4096, longest)
        print(f"packages of the same kind at {length} positions, times ours")
        x, ours = torch.randn(1, length, WIDTH), layers(length)
        for name, (kind, call) in peers(length).items():
            if kind in ours:
                pair = medians({"ours": lambda kind=kind: ours[kind](x), "theirs": lambda call=call: call(x)}, repeats=5)
                print(f"  {name}: {pair['theirs'] / pair['ours']:.2f} × the time of {kind}", flush=True)


if __name__ == "__main__":
    main()
