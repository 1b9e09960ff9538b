"""Intrinsic dimension of a cloud of points, from the distances to its two nearest neighbours alone.

Where the density hardly changes within the second neighbour's distance, ``μ = r_2 / r_1`` of a point has the law
``P(μ ≤ m) = 1 − m^{−d}``, whatever the density; so d is one over the mean of ln μ.

Source: Facco, d'Errico, Rodriguez, Laio (2017), Estimating the Intrinsic Dimension of Datasets by a Minimal Neighborhood Information.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from sklearn.neighbors import NearestNeighbors

FEWEST = 20
SAMPLE = 2000


def intrinsic_dimension(x: ArrayLike, discarded: float = 0.1, seed: int = 0) -> float:
    """``d̂ = (kept − 1) / Σ ln μ_i``, the largest μ put at the cut: those of outliers say nothing.

    With M of the N sorted ratios kept, the likelihood of a sample censored from above gives
    ``(M − 1) / (Σ_{i ≤ M} ln μ_i + (N − M) ln μ_M)``.

    Args:
        x: (n, features); of equal rows one is kept, and at most 2,000 points are asked for their neighbours.
        discarded: share of the largest ratios that are censored, in [0, 1).
        seed: of the choice of those 2,000.

    Returns:
        d̂, not a whole number; its standard error is about ``d̂ / √M``.

    Raises:
        ValueError: fewer than 20 different rows, numbers that are not finite, or a share outside [0, 1).
    """
    if not 0 <= discarded < 1:
        raise ValueError(f"discarded must be in [0, 1), got {discarded}")
    points = np.asarray(x, dtype=np.float64)
    if points.ndim != 2 or not np.isfinite(points).all():
        raise ValueError(f"x must be (rows, features) of finite numbers, got shape {points.shape}")
    points = np.unique(points, axis=0)
    if len(points) < FEWEST:
        raise ValueError(f"the dimension of fewer than {FEWEST} different points cannot be told, got {len(points)}")
    asked = points
    if len(points) > SAMPLE:
        asked = points[np.random.default_rng(seed).choice(len(points), SAMPLE, replace=False)]
    distances = NearestNeighbors(n_neighbors=3).fit(points).kneighbors(asked)[0][:, 1:]
    apart = distances[distances[:, 0] > 0]
    ratios = np.sort(np.log(apart[:, 1] / apart[:, 0]))
    kept = max(2, round((1 - discarded) * len(ratios)))
    total = float(ratios[:kept].sum() + (len(ratios) - kept) * ratios[kept - 1])
    if total <= 0:
        raise ValueError("every point is as far from its second neighbour as from its first (a grid?): the dimension cannot be told")
    return (kept - 1) / total
