"""The C++ form of `assay.theory.hierarchical_kernels`: trees of patches of two sets of inputs, pair by pair."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from assay.ops import extension

SOURCE = Path(__file__).parent / "kernels" / "hierarchical_kernel.cpp"
_SIZES = ("levels", "leaves", "patch", "rows", "columns", "stride_x", "stride_y", "symmetric", "tangent", "threads")
_ARRAYS = ("branching", "x", "y", "u", "v", "feature_kernel", "tangent_kernel")
_LANES = 8  # rows are filled up to whole vectors of any processor


class PatchTree(NamedTuple):
    """The patches of n inputs in the order in which a walk of the tree, depth first, meets them.

    Args:
        directions: (leaves, numbers of a patch, n), each patch at length 1, a zero one at 0.
        weights: for each level (nodes, n): a node's share ``√(q / Σ_siblings q)`` of its parent, q its mean square norm; at the top
            ``√(q / nodes)``.
        branching: for each level how many nodes share a parent; for the last all nodes.
    """

    directions: NDArray[np.float64]
    weights: tuple[NDArray[np.float64], ...]
    branching: tuple[int, ...]


class _Problem(ctypes.Structure):
    """The ``Problem`` of the C++ source."""

    _fields_ = [*((name, ctypes.c_int64) for name in _SIZES), *((name, ctypes.c_void_p) for name in _ARRAYS)]


def available() -> bool:
    """Whether the compiled function can be had."""
    return extension.compiled(SOURCE) is not None


def tree_kernels(x: PatchTree, y: PatchTree | None, tangent: bool) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """The random-feature kernel (n, m), and the tangent kernel where it is wanted; y None: of x with itself, half of it computed.

    Raises:
        RuntimeError: there is no compiler.
        ValueError: the two trees differ in shape.
    """
    library = extension.compiled(SOURCE)
    if library is None:
        raise RuntimeError("the compiled hierarchical kernel needs a C++ compiler, and this machine has none that works")
    other = x if y is None else y
    if (x.branching, x.directions.shape[:2]) != (other.branching, other.directions.shape[:2]):
        raise ValueError(f"the trees differ: {x.branching}, {x.directions.shape[:2]} and {other.branching}, {other.directions.shape[:2]}")
    rows, columns = x.directions.shape[2], other.directions.shape[2]
    feature = np.empty((rows, columns))
    tangents = np.empty((rows, columns)) if tangent else None
    left = _filled(x)
    right = left if y is None else _filled(y)
    arrays = (np.array(x.branching, dtype=np.int64), left[0], right[0], left[1], right[1], feature, tangents)
    leaves, patch = x.directions.shape[:2]
    sizes = (len(x.branching), leaves, patch, rows, columns, left[0].shape[2], right[0].shape[2])
    addresses = [None if array is None else array.ctypes.data for array in arrays]
    if rows and columns:
        switches = (int(y is None), int(tangent), torch.get_num_threads())
        library.hierarchical_kernel(ctypes.byref(_Problem(*sizes, *switches, *addresses)))
    return feature, tangents


def _filled(tree: PatchTree) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Directions and all weights, with zeros behind the last input up to a whole vector."""
    return _padded(tree.directions), _padded(np.concatenate(tree.weights))


def _padded(array: NDArray[np.float64]) -> NDArray[np.float64]:
    more = -array.shape[-1] % _LANES
    return np.ascontiguousarray(np.pad(array, [*[(0, 0)] * (array.ndim - 1), (0, more)]))


def branching_of(filters: Sequence[int], axes: int, positions: int) -> tuple[int, ...]:
    """How many nodes of each level share a parent: ``s_2^axes, …, s_L^axes`` and the top's positions."""
    return (*(size**axes for size in filters[1:]), positions)
