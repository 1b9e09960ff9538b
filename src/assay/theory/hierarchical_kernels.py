"""Kernels of infinitely wide convolutional networks whose patches do not overlap: the hierarchical kernels.

The network has L hidden layers of filters s_1 … s_L, each as far apart as it is long, rectifiers, and a linear read-out over the positions
that remain; no biases. Because patches do not overlap, weights shared over positions or not give the same kernels. With the arc-cosine
functions κ_0, κ_1, for two inputs x and y:

- a patch i of the first layer, with the cosine ``t_i`` between x_i and y_i, has ``R¹ = ‖x_i‖‖y_i‖ κ_1(t_i)`` and
  ``N¹ = R¹ + x_i·y_i κ_0(t_i)``;
- a patch of layer l has children: with R, N, ``q_x``, ``q_y`` their means (q: the mean square norm) and ``t = R / √(q_x q_y)``:
  ``R^l = √(q_x q_y) κ_1(t)`` and ``N^l = R^l + N κ_0(t)``;
- the kernels are means over the top positions: ``R^L``, of random features (rfk; also NNGP), and ``N^L``, tangent (ntk).

On the multisphere, where every first patch has norm 1, K(x, x) is 1 (rfk) and L + 1 (ntk).

All is computed with complements ``1 − t``, the mean over children taken so that nothing cancels: with ``u_c = √(q_x,c / Σ q_x)``, v alike,
``1 − t = Σ_c ½ (u_c − v_c)² + u_c v_c (1 − κ_1(t_c))``. So pairs of near inputs keep their digits, and the diagonal is exact.

Source: Cagnetta, Favero, Wyart (2023), What Can Be Learnt With Wide Convolutional Neural Networks?; the norms off the multisphere are
those of Cho, Saul (2009), Kernel Methods for Deep Learning.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from assay.ops import hierarchical_kernel as compiled
from assay.ops.hierarchical_kernel import PatchTree, branching_of
from assay.theory.arc_cosine import arc_cosine, one_minus_arc_cosine

Kind: TypeAlias = Literal["ntk", "rfk", "both"]
Implementation: TypeAlias = Literal["auto", "reference", "compiled"]
Array: TypeAlias = NDArray[np.float64]
KINDS = ("ntk", "rfk")
UNIT = 1e-6
"""How far from 1 the norm of a patch on the multisphere may be: the rounding of float32."""
BLOCK = 128
GIB = 2**30


class HierarchicalKernels(NamedTuple):
    """Both kernels of the same pairs, (n, m)."""

    ntk: Array
    rfk: Array


def hierarchical_kernel(
    x: ArrayLike,
    y: ArrayLike | None = None,
    *,
    filters: Sequence[int],
    kind: Kind = "ntk",
    multisphere: bool = False,
    block: int = BLOCK,
    implementation: Implementation = "auto",
) -> Any:
    """The kernel K(x_i, y_j) of the infinitely wide network, float64; formulas in the module's head.

    Beside the result, memory grows with the inputs alone: leaves are walked one after the other, for a block of rows at a time. A patch
    that is zero has no direction and adds nothing.

    Args:
        x: (n, length), (n, channels, length) or (n, channels, height, width).
        y: inputs of the same shape; None: x itself, of which half the pairs are computed.
        filters: s_1 … s_L, of each axis.
        kind: ``ntk``, ``rfk`` or ``both``.
        multisphere: refuse inputs with a first patch whose norm is not 1.
        block: rows at a time of the reference.
        implementation: ``compiled`` is the same in C++; ``auto`` takes it where there is a compiler.

    Returns:
        (n, m), or `HierarchicalKernels` for ``both``.

    Raises:
        ValueError: filters that do not divide the inputs, below 1, or a first patch of one number; inputs of another shape or not finite;
            a patch off the multisphere where it is asked for; a kernel larger than this machine's memory.
    """
    if kind not in (*KINDS, "both"):
        raise ValueError(f"kind must be ntk, rfk or both, got {kind!r}")
    if implementation not in ("auto", "reference", "compiled"):
        raise ValueError(f"implementation must be auto, reference or compiled, got {implementation!r}")
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    left = patch_tree(x, filters, multisphere)
    right = None
    if y is not None:
        if np.shape(x)[1:] != np.shape(y)[1:]:
            raise ValueError(f"x and y must have examples of one shape, got {np.shape(x)[1:]} and {np.shape(y)[1:]}")
        right = patch_tree(y, filters, multisphere)
    check_memory(left.directions.shape[2], (right or left).directions.shape[2], kind)
    if implementation == "compiled" or (implementation == "auto" and compiled.available()):
        rfk, ntk = compiled.tree_kernels(left, right, kind != "rfk")
    else:
        rfk, ntk = _by_blocks(left, right or left, block, kind != "rfk")
    if kind == "rfk":
        return rfk
    assert ntk is not None  # it was asked for
    return ntk if kind == "ntk" else HierarchicalKernels(ntk, rfk)


def hierarchical_diagonal(x: ArrayLike, *, filters: Sequence[int], kind: Literal["ntk", "rfk"] = "ntk") -> Array:
    """K(x_i, x_i), (n,): the mean square norm of the first patches, times L + 1 for the tangent kernel.

    Raises:
        ValueError: as `hierarchical_kernel`.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be ntk or rfk, got {kind!r}")
    return (len(filters) + 1 if kind == "ntk" else 1) * np.square(_patches(x, filters)).sum(1).mean(0)


def on_multisphere(x: ArrayLike, filter: int) -> Array:
    """Inputs with every first patch divided by its norm, shapes as `hierarchical_kernel`'s.

    Raises:
        ValueError: a patch is zero, with its place; a filter that does not divide the inputs.
    """
    array = _examples(x)
    axes = 1 if array.ndim == 3 else 2
    patches = _patches(array, (filter,))
    norms = np.linalg.norm(patches, axis=1)
    if not norms.all():
        patch, example = np.argwhere(norms == 0)[0]
        raise ValueError(f"patch {patch} of input {example} is zero and has no direction")
    grid = [size // filter for size in array.shape[2:]]
    scale = norms.T.reshape(len(array), 1, *grid)
    for axis in range(2, 2 + axes):
        scale = scale.repeat(filter, axis)
    return (array / scale).reshape(np.shape(x))


def check_memory(rows: int, columns: int, kind: Kind = "ntk") -> float:
    """The GiB that a kernel of (rows, columns) takes.

    Raises:
        ValueError: it is more than this machine's memory.
    """
    needed = 8 * rows * columns * (2 if kind == "both" else 1) / GIB
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB if hasattr(os, "sysconf") else math.inf
    if needed > there:
        raise ValueError(
            f"a kernel of {rows:,} × {columns:,} numbers takes {needed:.1f} GiB and this machine has {there:.1f}: take fewer inputs"
        )
    return needed


# ------------------------------------------------------------------------------------------------ the tree of patches


def check_filters(filters: Sequence[int], numbers: int | None = None) -> tuple[int, ...]:
    """The filters as they are, checked; ``numbers`` of a first patch, by default the first filter.

    Raises:
        ValueError: none, one that is not a whole number ≥ 1, or a first patch of one number, whose sphere is two points.
    """
    kept = tuple(filters)
    if not kept or any(int(size) != size or size < 1 for size in kept):
        raise ValueError(f"filters must be whole numbers of at least 1, got {list(kept)}")
    if (kept[0] if numbers is None else numbers) < 2:
        raise ValueError(f"a first patch of one number has no direction but its sign: take a first filter of at least 2, got {list(kept)}")
    return tuple(int(size) for size in kept)


def patch_tree(x: ArrayLike, filters: Sequence[int], multisphere: bool = False) -> PatchTree:
    """The inputs' first patches, and how the layers weigh them; arguments and errors as `hierarchical_kernel`'s."""
    patches = _patches(x, filters)
    axes = 2 if np.ndim(x) == 4 else 1
    square = np.square(patches).sum(1)
    if multisphere and square.size and np.abs(np.sqrt(square) - 1).max() > UNIT:
        patch, example = np.unravel_index(np.abs(square - 1).argmax(), square.shape)
        norm = math.sqrt(square[patch, example])
        raise ValueError(f"patch {patch} of input {example} has norm {norm:g}, but on the multisphere every norm is 1: see on_multisphere")
    positions = len(square) // math.prod(size**axes for size in filters[1:])
    branching = branching_of(filters, axes, positions)
    weights = []
    level = square
    for siblings in branching[:-1]:
        parents = level.reshape(len(level) // siblings, siblings, level.shape[-1])
        share = parents / np.maximum(parents.sum(1, keepdims=True), np.finfo(float).tiny)
        weights.append(np.sqrt(share).reshape(level.shape))
        level = parents.mean(1)
    weights.append(np.sqrt(level / positions))
    directions = patches / np.sqrt(np.where(square == 0, 1.0, square))[:, None]
    return PatchTree(directions, tuple(weights), branching)


def _examples(x: ArrayLike) -> Array:
    """(n, channels, length) or (n, channels, height, width)."""
    array = np.asarray(x, dtype=np.float64)
    if array.ndim not in (2, 3, 4):
        raise ValueError(f"inputs must be (n, length), (n, channels, length) or (n, channels, height, width), got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"input {np.argwhere(~np.isfinite(array))[0][0]} holds a value that is not finite")
    return array[:, None] if array.ndim == 2 else array


def _patches(x: ArrayLike, filters: Sequence[int]) -> Array:
    """The first patches, (leaves, numbers, n), the children of every patch of a later layer next to each other."""
    array = _examples(x)
    channels, sides = array.shape[1], array.shape[2:]
    kept = check_filters(filters, channels * filters[0] ** len(sides) if len(filters) else None)
    span = math.prod(kept)
    for side in sides:
        if side == 0 or side % span:
            raise ValueError(f"filters {list(kept)} take patches of {span}, which does not divide an input of {side}")
    inner = kept[::-1]
    shape = [part for side in sides for part in (side // span, *inner)]
    array = array.reshape(len(array), channels, *shape)
    depth = 1 + len(kept)
    places = [2 + axis * depth + level for level in range(depth) for axis in range(len(sides))]
    numbers = kept[0] ** len(sides)
    ordered = array.transpose(*places[: -len(sides)], 1, *places[-len(sides) :], 0)
    leaves = math.prod(sides) // numbers
    return np.ascontiguousarray(ordered.reshape(leaves, channels * numbers, array.shape[0]))


# ------------------------------------------------------------------------------------------------ reference


class _Pairs(NamedTuple):
    """What a node knows of pairs of inputs, (rows, columns): 1 − cosine, and the tangent kernel before the non-linearity."""

    complement: Array
    tangent: Array


def _by_blocks(x: PatchTree, y: PatchTree, block: int, tangent: bool) -> tuple[Array, Array | None]:
    rows, columns = x.directions.shape[2], y.directions.shape[2]
    rfk = np.zeros((rows, columns))
    ntk = np.zeros((rows, columns)) if tangent else None
    top = len(x.branching) - 1
    for start in range(0, rows, block):
        part = slice(start, start + block)
        for node in range(x.branching[-1]):
            missing, risen = _risen(_pairs(x, y, part, top, node))
            both = x.weights[top][node, part, None] * y.weights[top][node]
            rfk[part] += both * (1 - missing)
            if ntk is not None:
                ntk[part] += both * risen
    return rfk, ntk


def _pairs(x: PatchTree, y: PatchTree, part: slice, level: int, node: int) -> _Pairs:
    """A node's pairs of a block of rows with all columns, from its children's, one after the other."""
    if level == 0:
        complement = np.zeros((len(x.directions[node, 0, part]), y.directions.shape[2]))
        for number, other in zip(x.directions[node], y.directions[node], strict=True):
            complement += 0.5 * np.square(number[part, None] - other)
        return _Pairs(complement, 1 - complement)
    found = _Pairs(*np.zeros((2, len(x.weights[0][0, part]), y.directions.shape[2])))
    siblings = x.branching[level - 1]
    for child in range(node * siblings, (node + 1) * siblings):
        missing, risen = _risen(_pairs(x, y, part, level - 1, child))
        u, v = x.weights[level - 1][child, part, None], y.weights[level - 1][child]
        found.complement[...] += 0.5 * np.square(u - v) + u * v * missing
        found.tangent[...] += u * v * risen
    return found


def _risen(pairs: _Pairs) -> tuple[Array, Array]:
    """``1 − κ_1`` and ``κ_1 + N κ_0``."""
    missing = one_minus_arc_cosine(pairs.complement)
    return missing, 1 - missing + pairs.tangent * arc_cosine(0, 1 - pairs.complement, pairs.complement)
