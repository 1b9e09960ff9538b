"""A mixture of experts against transformers' Mixtral block and st-moe-pytorch with the same weights, and against computing every expert.

    python benchmarks/experts.py

One thread, float32. Every figure is a ratio of medians from this run; the rivals take turns, and processor time is taken.
"""

from __future__ import annotations

import copy
import importlib
from functools import partial

import torch
from linear_recurrence import Pair, against_packages, copied

from assay.measure import medians
from assay.nn.channel.experts import MixtureOfExperts
from assay.nn.channel.feed_forward import FeedForward

WIDTH, HIDDEN, ACTIVE = 256, 1024, 2
LENGTH, EXPERTS = 1024, (8, 32)


def mixture(experts: int) -> MixtureOfExperts:
    """Gated experts without biases, as the packages have them."""
    layer = MixtureOfExperts(WIDTH, lambda: FeedForward(WIDTH, HIDDEN, activation="swiglu"), experts, ACTIVE)
    copied([(part.bias, torch.zeros_like(part.bias)) for expert in layer.experts for part in (expert.expand, expert.contract)])
    return layer


def _mixtral(experts: int) -> Pair:
    package = importlib.import_module("transformers.models.mixtral.modeling_mixtral")
    config, layer = importlib.import_module("transformers").MixtralConfig, mixture(experts)
    inner = layer.experts[0].contract.in_features
    options = {"hidden_size": WIDTH, "intermediate_size": inner, "num_local_experts": experts, "num_experts_per_tok": ACTIVE}
    peer = package.MixtralSparseMoeBlock(config(**options))
    copied([(peer.gate.weight, layer.router.weight)])
    for number, expert in enumerate(layer.experts):
        value, gate = expert.expand.weight.chunk(2)
        copied([(peer.experts.gate_up_proj[number], torch.cat([gate, value])), (peer.experts.down_proj[number], expert.contract.weight)])
    return layer, peer, peer


def _st_moe(experts: int) -> Pair:
    """With room for four times an even share, no threshold and no straight-through gradient, so that it computes the same."""
    package, layer = importlib.import_module("st_moe_pytorch"), mixture(experts)
    room = {"capacity_factor_train": 4.0 * ACTIVE, "capacity_factor_eval": 4.0 * ACTIVE, "threshold_train": 0.0, "threshold_eval": 0.0}
    copies = copy.deepcopy(layer.experts)
    peer = package.MoE(WIDTH, num_experts=experts, gating_top_n=ACTIVE, experts=copies, straight_through_dispatch_tensor=False, **room)
    copied([(peer.gate.to_gates.weight, layer.router.weight)])
    return layer, peer, lambda x: peer(x).outputs


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for experts in EXPERTS:
        print(f"{experts} experts of {WIDTH} and {HIDDEN} numbers, {ACTIVE} of them active, {LENGTH} positions", flush=True)
        layer, x = mixture(experts), torch.randn(1, LENGTH, WIDTH)
        with torch.no_grad():
            taken = medians({"sparse": lambda layer=layer, x=x: layer(x), "dense": lambda layer=layer, x=x: layer.dense(x)}, 3)
        print(f"  computing every expert takes {taken['dense'] / taken['sparse']:.2f} × the time", flush=True)
        against_packages({"transformers' Mixtral": partial(_mixtral, experts), "st-moe-pytorch": partial(_st_moe, experts)}, x)


if __name__ == "__main__":
    main()
