"""K hops with adaptive scores: Assay's stack-free sum against the published loop, torch_geometric, torch.sparse and a dense matrix.

Forward and backward in one thread, float32, random graphs of mean degree 4, 7 columns. Each row of the table is a ratio from this run:
the time (or the bytes kept for backward) of the other way divided by Assay's.

    python benchmarks/dagnn.py
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import scipy.sparse
import torch
from scipy.sparse.csgraph import reverse_cuthill_mckee
from torch import Tensor
from torch_geometric.nn import APPNP, SGConv
from torch_geometric.nn.conv.gcn_conv import gcn_norm

from assay.measure import medians
from assay.nn import AdaptivePropagation, FixedPropagation
from assay.ops.propagation import dense_operator, normalised_operator, propagate

HOPS, WIDTH, REPEATS = 10, 7, 7


def random_graph(nodes: int) -> Tensor:
    half = torch.randint(0, nodes, (2, 2 * nodes), generator=torch.Generator().manual_seed(0))
    half = half[:, half[0] != half[1]]
    return torch.cat([half, half.flip(0)], dim=1).unique(dim=1)


def trained(ways: dict[str, Callable[[], Tensor]], x: Tensor) -> dict[str, float]:
    """Milliseconds of forward and backward."""

    def step(way: Callable[[], Tensor]) -> None:
        x.grad = None
        way().square().sum().backward()

    return medians({name: partial(step, way) for name, way in ways.items()}, REPEATS)


def kept_bytes(way: Callable[[], Tensor]) -> int:
    """Bytes of distinct tensors that autograd keeps for backward."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.layout == torch.strided:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        way()
    return sum(kept.values())


def stacked(hops: list[Tensor], score: torch.nn.Linear) -> Tensor:
    """The published way: all hops in one tensor, then scores, then their product."""
    stack = torch.stack(hops, dim=1)
    return (torch.sigmoid(score(stack)).transpose(1, 2) @ stack).squeeze(1)


def message_passing(x: Tensor, edges: Tensor, score: torch.nn.Linear) -> Tensor:
    """The published loop: normalise at every call, gather and scatter at every hop."""
    index, weight = gcn_norm(edges, None, len(x))
    hops = [x]
    for _ in range(HOPS):
        message = weight[:, None] * hops[-1][index[0]]
        hops.append(torch.zeros_like(x).index_add(0, index[1], message))
    return stacked(hops, score)


def products(x: Tensor, matrix: Tensor, score: torch.nn.Linear) -> Tensor:
    """The stack over a ready matrix, sparse or dense."""
    hops = [x]
    for _ in range(HOPS):
        hops.append(matrix @ hops[-1])
    return stacked(hops, score)


def adaptive(nodes: int) -> None:
    edges = random_graph(nodes)
    x = torch.randn(nodes, WIDTH, requires_grad=True)
    part = AdaptivePropagation(WIDTH, HOPS)
    operator = normalised_operator(edges, nodes)
    ways = {
        "assay": lambda: part(x, edges),
        "message-passing loop": lambda: message_passing(x, edges, part.score),
        "torch.sparse, stacked": lambda: products(x, operator.matrix, part.score),
    }
    if nodes <= 2_000:
        dense = dense_operator(edges, nodes)
        ways["dense matrix, stacked"] = lambda: products(x, dense, part.score)
    for way in ways.values():
        torch.testing.assert_close(way(), ways["assay"](), rtol=1e-3, atol=1e-4)
    report(f"adaptive sum, {nodes:,} nodes, {HOPS} hops", trained(ways, x), {name: kept_bytes(way) for name, way in ways.items()})


def fixed(nodes: int) -> None:
    edges = random_graph(nodes)
    x = torch.randn(nodes, WIDTH, requires_grad=True)
    part, appnp = FixedPropagation(HOPS), APPNP(HOPS, 0.0)
    sgc = SGConv(WIDTH, WIDTH, K=HOPS)
    sgc.lin = torch.nn.Identity()
    ways = {
        "assay": lambda: part(x, edges),
        "torch_geometric APPNP, alpha 0": lambda: appnp(x, edges),
        "torch_geometric SGConv": lambda: sgc(x, edges),
    }
    for way in ways.values():
        torch.testing.assert_close(way(), ways["assay"](), rtol=1e-3, atol=1e-4)
    report(f"fixed, {nodes:,} nodes, {HOPS} hops", trained(ways, x))  # ours keeps nothing for backward, so there is no ratio of memory


def normalising(nodes: int) -> None:
    """What the cache saves: building the operator against finding it."""
    edges = random_graph(nodes)
    weight = torch.ones(edges.shape[1])
    normalised_operator(edges, nodes, weight)
    ways = {"ours": lambda: normalised_operator(edges, nodes, weight), "theirs": lambda: gcn_norm(edges, None, nodes)}
    taken = medians(ways, REPEATS)
    ratio = taken["theirs"] / taken["ours"]
    print(f"\nnormalising, {nodes:,} nodes: torch_geometric's gcn_norm at every call takes {ratio:,.0f}× a remembered operator")


def reordering(nodes: int) -> None:
    """Reverse Cuthill-McKee numbering against the numbering as it came."""
    edges = random_graph(nodes)
    ones = np.ones(edges.shape[1])
    order = reverse_cuthill_mckee(scipy.sparse.csr_matrix((ones, edges.numpy()), shape=(nodes, nodes)), symmetric_mode=True)
    place = torch.from_numpy(np.argsort(order).copy())
    plain, renumbered = normalised_operator(edges, nodes), normalised_operator(place[edges], nodes)
    x = torch.randn(nodes, WIDTH)
    taken = medians({"plain": lambda: propagate(x, plain, HOPS), "renumbered": lambda: propagate(x, renumbered, HOPS)}, REPEATS)
    ratio = taken["plain"] / taken["renumbered"]
    print(f"\nreverse Cuthill-McKee, {nodes:,} nodes: products as the nodes came take {ratio:.2f}× those of renumbered nodes")


def report(title: str, times: dict[str, float], kept: dict[str, int] | None = None) -> None:
    keeps = f", keeps {kept['assay'] / 1e6:.2f} MB" if kept else ""
    print(f"\n{title} (assay: {times['assay']:.2f} ms{keeps})")
    for name, milliseconds in times.items():
        if name != "assay":
            memory = f"   memory {kept[name] / kept['assay']:6.2f}×" if kept else ""
            print(f"  {name:32} time {milliseconds / times['assay']:6.2f}×{memory}")


def main() -> None:
    torch.set_num_threads(1)
    for nodes in (1_000, 20_000):
        adaptive(nodes)
        fixed(nodes)
    normalising(20_000)
    reordering(20_000)


if __name__ == "__main__":
    main()
