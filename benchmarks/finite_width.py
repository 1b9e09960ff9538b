"""Finite-width profiles against Monte-Carlo at equal error: sampled layers, and networks with weights that are differentiated twice.

    python benchmarks/finite_width.py

One thread. Every figure is a ratio of medians from this run; the rivals take turns, and processor time is taken. Monte-Carlo's time is that
of as many networks as its error, which falls with their square root, needs to come down to the profile's: the first-order formula's for
ReLU, whose exact kurtosis is known; 1 % where it is not.
"""

from __future__ import annotations

import torch

from assay.measure import medians
from assay.theory.ensembles import empirical_moments, sampled_kurtosis
from assay.theory.finite_width import propagate, scale_invariant_kurtosis

NETWORKS = 2_000
CASES = ((4, 64), (8, 256))
MOMENTS = ("vertex", "diagonal", "first_change", "second_change")


def kurtosis(depth: int, width: int) -> None:
    """Of ReLU networks."""
    exact = scale_invariant_kurtosis(torch.relu, depth, width) - 1
    sampled = sampled_kurtosis(torch.relu, depth, width, 2.0, networks=NETWORKS)[-1]
    profile_error = abs(float(propagate(torch.relu, depth).fluctuation(width)[-1]) / exact - 1)
    taken = medians(
        {
            "profile": lambda: propagate(torch.relu, depth),
            "sampled": lambda: sampled_kurtosis(torch.relu, depth, width, 2.0, networks=NETWORKS),
        },
        repeats=5,
    )
    needed = (sampled.error / exact / profile_error) ** 2
    print(
        f"  kurtosis, L = {depth}, n = {width}: the profile is {taken['sampled'] * needed / taken['profile']:.3g} × as fast as sampled "
        f"layers at its error of {100 * profile_error:.2g} % ({taken['profile']:.3g} ms; {NETWORKS:,} networks {taken['sampled']:.3g} ms, "
        f"{100 * sampled.error / exact:.2g} %)",
        flush=True,
    )


def tangent_statistics(depth: int, width: int, networks: int = 200) -> None:
    """Of tanh networks."""
    settings = {"weight_variance": 1.3, "bias_variance": 0.1, "weight_rate": 1.0, "bias_rate": 0.5, "input_square": 1.2}
    found = empirical_moments(torch.tanh, depth, width, networks=networks, **settings)
    expected = propagate(torch.tanh, depth, **settings)
    taken = medians(
        {
            "profile": lambda: propagate(torch.tanh, depth, **settings),
            "networks": lambda: empirical_moments(torch.tanh, depth, width, networks=networks, **settings),
        },
        repeats=3,
    )
    for name in MOMENTS:
        value = abs(float(getattr(expected, name)[-1]))
        needed = (found[name].error / value / 0.01) ** 2
        ratio = taken["networks"] * needed / taken["profile"]
        print(
            f"  {name}, L = {depth}, n = {width}: the profile is {ratio:.3g} × as fast as networks with weights at 1 %   "
            f"({taken['profile']:.3g} ms; {networks} networks {taken['networks']:.3g} ms, {100 * found[name].error / value:.2g} %)",
            flush=True,
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    for case in CASES:
        kurtosis(*case)
    tangent_statistics(4, 32)
