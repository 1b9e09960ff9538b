"""Eigenvalues of hierarchical kernels, and how fast a kernel of this kind learns a target of that kind.

An eigenfunction on the multisphere is a product of spherical harmonics of the first patches' directions, with a degree k for each. Its
*sector* l is the layer of the smallest patch that contains every first patch with a degree above 0. With ν = ½ for the tangent kernel and
3/2 for random features, eigenvalues of sector l fall as ``‖k‖^{−2ν − d(l)}``, where ``d(1) = s_1 − 1`` and
``d(l) = (s_1 − 1) s_2 ⋯ s_l`` count the free numbers of such a patch; sorted by size, all fall as ``ρ^{−1 − 2ν / d(L)}``.

Source: Cagnetta, Favero, Wyart (2023), What Can Be Learnt With Wide Convolutional Neural Networks?
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import scipy.fft
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from assay.theory.hierarchical_kernels import KINDS, check_filters, hierarchical_kernel
from assay.theory.kernel_regression import cholesky

Kind: TypeAlias = Literal["ntk", "rfk"]
Array: TypeAlias = NDArray[np.float64]
SMOOTHNESS = {"ntk": 0.5, "rfk": 1.5}
"""ν of each kernel."""
LARGEST_GRID = 2**25
"""Points of the grid whose kernel `torus_spectrum` takes: 256 MiB of them."""
_CHUNK = 2**16


def effective_dimension(filters: Sequence[int], level: int | None = None, *, channels: int = 1, axes: int = 1) -> int:
    """``d(1) = s_1 − 1``, ``d(l) = (s_1 − 1) s_2 ⋯ s_l``: free numbers of a patch of layer l; by default of the last.

    Args:
        filters: s_1 … s_L.
        level: l, from 1.
        channels: a first patch has ``channels · s_1^axes`` numbers in place of s_1.
        axes: 1 for series, 2 for images.

    Raises:
        ValueError: bad filters, or no such level.
    """
    numbers = channels * filters[0] ** axes if len(filters) else None
    kept = check_filters(filters, numbers)
    level = len(kept) if level is None else level
    if not 1 <= level <= len(kept):
        raise ValueError(f"level must be between 1 and {len(kept)}, got {level}")
    return (channels * kept[0] ** axes - 1) * math.prod(kept[1:level]) ** axes


def eigenvalue_exponent(filters: Sequence[int], level: int, kind: Kind = "ntk") -> float:
    """``2ν + d(l)``: eigenvalues of sector l fall with the degree to minus this power.

    Raises:
        ValueError: as `effective_dimension`, or an unknown kind.
    """
    return 2 * _smoothness(kind) + effective_dimension(filters, level)


def rank_exponent(filters: Sequence[int], kind: Kind = "ntk") -> float:
    """``1 + 2ν / d(L)``: all eigenvalues, sorted, fall with their rank to minus this power; α of the capacity condition."""
    return 1 + 2 * _smoothness(kind) / effective_dimension(filters)


def learning_exponent(teacher: Sequence[int], student: Sequence[int], kinds: tuple[Kind, Kind] = ("ntk", "ntk")) -> float:
    """β of ``error ∼ n^{−β}`` without a ridge, for a Gaussian field with the teacher's kernel learnt by the student's.

    ``β = 2ν_T / (2ν_S + d(L_T)) · (2ν_S + d(L_S)) / d(L_S)``, at most ``2 (1 + 2ν_S / d(L_S))``: of the target what lies in eigenvalues
    below the n-th of the student is not learnt yet.

    Args:
        teacher: filters of the target's kernel: the first ones of the student's.
        student: filters of the kernel that learns.
        kinds: of teacher and student.

    Raises:
        ValueError: the student's filters do not begin with the teacher's.
    """
    if tuple(student[: len(teacher)]) != tuple(teacher):
        raise ValueError(f"a student's filters must begin with the teacher's, got {list(student)} and {list(teacher)}")
    teachers, students = (2 * _smoothness(kind) for kind in kinds)
    local, whole = effective_dimension(student, len(teacher)), effective_dimension(student)
    return min(teachers / (students + local) * (students + whole) / whole, 2 * (1 + students / whole))


def source_exponent(filters: Sequence[int], level: int, derivatives: float, kind: Kind = "ntk") -> float:
    """``α r / (α r + 1)``: the bound on the error's exponent with the best ridge, ``λ ∼ n^{−α / (α r + 1)}``.

    The target lies in sector l and has so many derivatives in L2: ``r = 2m / (2ν + d(l))``; ``α = 1 + 2ν / d(L)``.

    Raises:
        ValueError: as `effective_dimension`, or derivatives that are not above 0.

    Source: Caponnetto, De Vito (2007), Optimal Rates for the Regularized Least-Squares Algorithm, for the form of the bound.
    """
    if not derivatives > 0:
        raise ValueError(f"derivatives must be above 0, got {derivatives}")
    product = rank_exponent(filters, kind) * 2 * derivatives / eigenvalue_exponent(filters, level, kind)
    return product / (product + 1)


# ------------------------------------------------------------------------------------------------ spectra


def torus_spectrum(filters: Sequence[int], grid: int | Sequence[int], kind: Kind = "ntk") -> Array:
    """Every eigenvalue on a product of circles (s_1 = 2), by its degrees: ``found[k_1, …, k_m]``, each from 0 to half of its grid.

    The kernel of one top position depends on the m = s_2 ⋯ s_L differences of angles alone and is even in each, so its eigenvalues are
    its Fourier coefficients: a cosine transform of its values at half of a grid of the torus. Eigenfunctions are the products of
    ``e^{± i k θ}``. With several top positions an eigenvalue is divided by their number.

    Args:
        filters: s_1 = 2, …, s_L.
        grid: points of every circle, or of each, even; eigenvalues of degrees near half of them are those of more degrees together.
        kind: ``ntk`` or ``rfk``.

    Raises:
        ValueError: s_1 is not 2, a grid that is odd or below 2 or not one a circle, or of more than `LARGEST_GRID` points by halves.
    """
    kept = check_filters(filters)
    if kept[0] != 2:
        raise ValueError(f"first patches are circles only for a first filter of 2, got {list(kept)}: use gram_spectrum")
    _smoothness(kind)
    circles = math.prod(kept[1:])
    points = np.array([grid] * circles if isinstance(grid, int) else grid)
    if points.shape != (circles,) or (points < 2).any() or (points % 2).any():
        raise ValueError(f"grid must be even and at least 2 for each of {circles} circles, got {grid}")
    shape = tuple(int(half) + 1 for half in points // 2)
    if math.prod(shape) > LARGEST_GRID:
        raise ValueError(f"half of a grid of {grid} on {circles} circles has {math.prod(shape):,} points, of at most {LARGEST_GRID:,}")
    origin = np.tile([1.0, 0.0], circles)[None]
    values = np.empty(math.prod(shape))
    for start in range(0, len(values), _CHUNK):
        index = np.arange(start, min(start + _CHUNK, len(values)))
        angles = np.stack(np.unravel_index(index, shape), 1) * (2 * math.pi / points)
        inputs = np.stack([np.cos(angles), np.sin(angles)], -1).reshape(len(index), -1)
        values[index] = hierarchical_kernel(origin, inputs, filters=kept, kind=kind)[0]
    found = scipy.fft.dctn(values.reshape(shape), type=1, overwrite_x=True)
    return np.asarray(found) / math.prod(points.tolist())


def sector(degrees: Sequence[int], filters: Sequence[int]) -> int:
    """The layer of the smallest patch that contains every first patch with a degree above 0; 0 for the constant.

    Args:
        degrees: of the first patches of one top position, s_2 ⋯ s_L of them.
        filters: s_1 … s_L.

    Raises:
        ValueError: another number of degrees, or a negative one.
    """
    kept = check_filters(filters)
    if len(degrees) != math.prod(kept[1:]) or min(degrees) < 0:
        raise ValueError(f"filters {list(kept)} have {math.prod(kept[1:])} degrees of at least 0, got {list(degrees)}")
    places = np.flatnonzero(degrees)
    if not len(places):
        return 0
    for level, size in enumerate(kept[1:], 1):
        if len(np.unique(places)) == 1:
            return level
        places = places // size
    return len(kept)


def sector_slope(spectrum: ArrayLike, filters: Sequence[int], level: int, low: int, high: int) -> float:
    """The slope of log eigenvalue over log degree in a sector, by least squares: −2ν − d(l) as degrees grow.

    Looked at are the eigenvalues with one and the same even degree, low … high, on every first patch of the first patch of that layer, and
    0 elsewhere. Odd ones on a single circle are left out: one layer has none, they come from the layers behind it and are smaller.

    Raises:
        ValueError: degrees that the spectrum does not have, fewer than two even ones, or eigenvalues that are not above 0.
    """
    values = np.asarray(spectrum)
    kept = check_filters(filters)
    if values.ndim != math.prod(kept[1:]):
        raise ValueError(f"a spectrum of filters {list(kept)} has {math.prod(kept[1:])} degrees, not {values.ndim}")
    if not 1 <= level <= len(kept):
        raise ValueError(f"level must be between 1 and {len(kept)}, got {level}")
    inside = math.prod(kept[1:level])
    degree = np.arange(low + low % 2, high + 1, 2)
    if low < 1 or len(degree) < 2 or high >= min(values.shape[:inside]):
        raise ValueError(f"degrees must be two even ones or more from 1 to {min(values.shape[:inside]) - 1}, got {low} to {high}")
    found = values[tuple(degree if place < inside else 0 for place in range(values.ndim))]
    if not (found > 0).all():
        raise ValueError(f"the eigenvalue of degree {degree[np.argmin(found)]} is {found.min():g}: no logarithm")
    return float(np.polyfit(np.log(degree), np.log(found), 1)[0])


def gram_spectrum(gram: ArrayLike) -> Array:
    """The eigenvalues of a kernel matrix (n, n) divided by n, from the largest: estimates of the kernel's own under the inputs' measure.

    Raises:
        ValueError: it is not a symmetric matrix of finite numbers.
    """
    matrix = np.asarray(gram, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ValueError(f"a kernel matrix must be square, got {matrix.shape}")
    if not np.isfinite(matrix).all() or not np.allclose(matrix, matrix.T, rtol=1e-10, atol=1e-12):
        raise ValueError("a kernel matrix must be symmetric and finite")
    return np.asarray(scipy.linalg.eigvalsh(matrix))[::-1] / len(matrix)


# ------------------------------------------------------------------------------------------------ inputs and targets


def sample_multisphere(count: int, dimension: int, patch: int, generator: np.random.Generator) -> Array:
    """Inputs (count, dimension) whose patches are directions drawn evenly, each patch by itself.

    Raises:
        ValueError: a count below 1, a patch below 2, or one that does not divide the dimension.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    check_filters((patch,))
    if dimension < patch or dimension % patch:
        raise ValueError(f"patches of {patch} do not divide an input of {dimension}")
    drawn = generator.standard_normal((count, dimension // patch, patch))
    return (drawn / np.linalg.norm(drawn, axis=-1, keepdims=True)).reshape(count, dimension)


def gaussian_field_targets(covariance: ArrayLike, generator: np.random.Generator, fields: int = 1) -> Array:
    """Draws of Gaussian fields (n, fields) with mean zero and a covariance (n, n): ``chol(C + ε 1) z``, ε the least that factors.

    Raises:
        ValueError: a matrix that is not positive semidefinite; fewer than one field.
    """
    if fields < 1:
        raise ValueError(f"fields must be at least 1, got {fields}")
    factor = cholesky(covariance).factor
    return factor @ generator.standard_normal((len(factor), fields))


def _smoothness(kind: str) -> float:
    if kind not in KINDS:
        raise ValueError(f"kind must be ntk or rfk, got {kind!r}")
    return SMOOTHNESS[kind]
