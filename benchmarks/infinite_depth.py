"""Infinitely deep and infinitely wide networks: the vote against the deep recursion and nearest neighbours, the kernel against its rivals.

    python benchmarks/infinite_depth.py

One thread. Every figure is a ratio of medians from this run; the rivals take turns, and processor time is taken.
"""

from __future__ import annotations

import numpy as np
from sklearn.kernel_ridge import KernelRidge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from assay.measure import medians
from assay.models.infinite_depth import HilbertClassifier, InfiniteDepthClassifier
from assay.models.kernel import NTKClassifier
from assay.tasks.synthetic.dirichlet import SETTINGS, dirichlet_points
from assay.theory.dual_activation import DualActivation
from assay.theory.infinite_depth import KoenigsTable, koenigs, optimal_activation
from assay.theory.kernels import WideNetwork

DIMENSION, DEPTH = 4, 100
SIZES = (500, 1_500)
TESTED = 500
FEATURES = 64


def depth(size: int) -> None:
    """Fit and predict."""
    x, y, _ = dirichlet_points(*SETTINGS[DIMENSION], size)
    held_out, _, _ = dirichlet_points(*SETTINGS[DIMENSION], TESTED, seed=1)
    models = {
        "vote": InfiniteDepthClassifier(DIMENSION, mapping="sphere"),
        "deep": InfiniteDepthClassifier(DIMENSION, kernel="nngp", depth=DEPTH, mapping="sphere"),
        "Hilbert": HilbertClassifier(DIMENSION),
        "5 neighbours, brute force": KNeighborsClassifier(5, algorithm="brute"),
        "5 neighbours, tree": KNeighborsClassifier(5, algorithm="kd_tree"),
    }
    agreement = float((models["vote"].fit(x, y).predict(held_out) == models["deep"].fit(x, y).predict(held_out)).mean())
    taken = medians({name: lambda model=model: model.fit(x, y).predict(held_out) for name, model in models.items()}, 3)
    ratios = ", ".join(f"{taken['vote'] / taken[name]:.1f} × {name}" for name in list(models)[2:])
    print(
        f"  {size:>6} examples: the vote is {taken['deep'] / taken['vote']:5.0f} × faster than depth {DEPTH}, which answers the same on "
        f"{100 * agreement:.1f} %; it takes {ratios}   ({taken['vote']:.0f} ms)",
        flush=True,
    )


def table() -> None:
    """ψ of a million pairs."""
    dual, gap = optimal_activation(DIMENSION), np.random.default_rng(0).random(1_000_000)
    made = KoenigsTable(dual)
    taken = medians({"table": lambda: made(1 - gap, gap), "sum": lambda: koenigs(dual, 1 - gap, gap)}, 3)
    print(f"  ψ of 1,000,000 pairs: {taken['sum'] / taken['table']:.0f} × faster by the table   ({taken['table']:.0f} ms)", flush=True)


def width(size: int) -> None:
    """The kernel of three layers in blocks, against whole matrices; and the classifier against scikit-learn's kernel methods."""
    random = np.random.default_rng(0)
    x = random.standard_normal((size, FEATURES)) / FEATURES**0.5
    y = (x[:, 0] * x[:, 1] > 0).astype(int)
    network = WideNetwork(DualActivation.closed_form("relu").normalised(), 3, bias_variance=0.1)
    over = network.variances(np.square(x).sum(1))
    rivals = {
        "blocks": lambda: network.kernel(x),
        "whole": lambda: network.propagate(x @ x.T, over, over),
        "NTK": lambda: NTKClassifier().fit(x, y),
        "kernel ridge": lambda: KernelRidge(alpha=1e-3, kernel="rbf").fit(x, y),
        "SVM": lambda: SVC(C=10).fit(x, y),
    }
    taken = medians(rivals, 3)
    print(
        f"  {size:>6} rows: tangent kernel of depth 3 {taken['whole'] / taken['blocks']:.1f} × faster by blocks of half the matrix; "
        f"fitting takes {taken['NTK'] / taken['kernel ridge']:.1f} × kernel ridge's time, {taken['NTK'] / taken['SVM']:.1f} × an SVM's   "
        f"({taken['NTK']:.0f} ms)",
        flush=True,
    )


def main() -> None:
    with threadpool_limits(1):
        for size in SIZES:
            depth(size)
        table()
        for size in SIZES:
            width(size)


if __name__ == "__main__":
    main()
