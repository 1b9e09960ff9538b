"""Kernels of hierarchical convolutional networks: golden values, those of neural-tangents, symmetries, exact diagonals, the C++ form."""

from __future__ import annotations

import math

import numpy as np
import pytest

from assay.ops import hierarchical_kernel as compiled
from assay.theory.arc_cosine import arc_cosine
from assay.theory.hierarchical_kernels import (
    check_memory,
    hierarchical_diagonal,
    hierarchical_kernel,
    on_multisphere,
    patch_tree,
)
from assay.theory.spectrum import sample_multisphere

FORMS = ["reference", pytest.param("compiled", marks=pytest.mark.skipif(not compiled.available(), reason="there is no C++ compiler"))]
ANGLES = 0.7 * np.arange(1, 13).reshape(3, 4)
CIRCLES = np.stack([np.cos(ANGLES), np.sin(ANGLES)], -1).reshape(3, 8)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("filters", "ntk", "rfk"),
    [
        ([2], [-0.0982699997, 1.4147538636], [0.0041800201, 0.8078461376]),
        ([2, 2], [0.2711369245, 1.9642824056], [0.3204026771, 0.8333751377]),
        ([2, 2, 2], [0.6587114338, 2.4520913490], [0.4949940198, 0.8539618390]),
    ],
)
def test_golden_values_of_the_multisphere(form: str, filters: list[int], ntk: list[float], rfk: list[float]) -> None:
    found = hierarchical_kernel(CIRCLES, filters=filters, kind="both", multisphere=True, implementation=form)
    np.testing.assert_allclose(found.ntk[0, 1:], ntk, atol=1e-10)
    np.testing.assert_allclose(found.rfk[0, 1:], rfk, atol=1e-10)
    np.testing.assert_allclose(np.diag(found.ntk), len(filters) + 1, rtol=1e-15)
    np.testing.assert_allclose(np.diag(found.rfk), 1, rtol=1e-15)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("shape", "filters", "rfk", "ntk"),
    [
        ((1, 12), [3, 2], [0.855049562309, 1.534264886481], [1.512417953674, 2.442856984483]),
        ((2, 8), [2, 2], [1.153180747317, 2.063295095703], [1.966239541969, 3.206756239949]),
        ((2, 4, 8), [2, 2], [2.050600625509, 4.295407587805], [3.093025336058, 6.824987229388]),
    ],
)
def test_values_of_neural_tangents_for_any_norms_channels_and_images(form: str, shape, filters: list[int], rfk, ntk) -> None:
    """Of neural-tangents 0.6.5 in float64, times the numbers of a first patch, by which its first layer divides."""
    size = math.prod(shape)
    x = np.sin(1.3 * np.arange(2 * size) + 0.2).reshape(2, *shape)
    x[1] *= 2
    y = np.cos(0.7 * np.arange(size)).reshape(1, *shape)
    found = hierarchical_kernel(x, y, filters=filters, kind="both", implementation=form)
    np.testing.assert_allclose(found.rfk[:, 0], rfk, atol=1e-11)
    np.testing.assert_allclose(found.ntk[:, 0], ntk, atol=1e-11)


def test_one_patch_of_one_layer_is_the_fully_connected_network() -> None:
    x = np.random.default_rng(0).standard_normal((5, 6))
    norm = np.linalg.norm(x, axis=1)
    cosine = (x / norm[:, None]) @ (x / norm[:, None]).T
    rfk = norm[:, None] * norm * arc_cosine(1, cosine)
    found = hierarchical_kernel(x, filters=[6], kind="both")
    np.testing.assert_allclose(found.rfk, rfk, atol=1e-7)  # a cosine of 1 loses half of its digits, the complement does not
    np.testing.assert_allclose(found.ntk, rfk + (x @ x.T) * arc_cosine(0, cosine), atol=1e-7)


@pytest.mark.skipif(not compiled.available(), reason="there is no C++ compiler")
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (65, 70), (70, None), (3, 0)])
@pytest.mark.parametrize("filters", [[2], [1, 2], [2, 2, 1, 2]])
def test_compiled_form_is_the_reference(rows: int, columns: int | None, filters: list[int]) -> None:
    generator = np.random.default_rng(1)
    x = generator.standard_normal((rows, 3, 16, 8))
    x[0, :, :4, :4] = 0  # patches without a direction
    y = None if columns is None else generator.standard_normal((columns, 3, 16, 8))
    reference = hierarchical_kernel(x, y, filters=filters, kind="both", block=40, implementation="reference")
    fast = hierarchical_kernel(x, y, filters=filters, kind="both", implementation="compiled")
    np.testing.assert_allclose(fast.ntk, reference.ntk, atol=1e-12)
    np.testing.assert_allclose(fast.rfk, reference.rfk, atol=1e-12)
    np.testing.assert_allclose(hierarchical_kernel(x, y, filters=filters, kind="rfk"), reference.rfk, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_near_and_equal_inputs_keep_their_digits(form: str) -> None:
    """For one circle, K(θ) = κ_1 + cos θ κ_0 is 2 − θ/π + O(θ²): at θ = 1e-9 the cosine is 1 and would give 2 exactly."""
    angle = 1e-9
    x, y = np.array([[1.0, 0.0]]), np.array([[math.cos(angle), math.sin(angle)]])
    missing = 2 - hierarchical_kernel(x, y, filters=[2], implementation=form)[0, 0]
    assert missing == pytest.approx(angle / math.pi, rel=1e-6)
    same = np.random.default_rng(0).standard_normal((4, 16))
    across = hierarchical_kernel(same, same.copy(), filters=[2, 2, 2], implementation=form)
    np.testing.assert_allclose(np.diag(across), hierarchical_diagonal(same, filters=[2, 2, 2]), rtol=1e-14)


def test_symmetries_of_the_tree() -> None:
    """Children of a patch may change places, and a first patch may be turned in both inputs; patches of different parents may not."""
    x = sample_multisphere(6, 16, 2, np.random.default_rng(0))
    patches = x.reshape(6, 8, 2)
    kernel = hierarchical_kernel(x, filters=[2, 4])
    same = patches[:, [2, 0, 3, 1, 4, 5, 6, 7]].reshape(6, 16)
    np.testing.assert_allclose(hierarchical_kernel(same, filters=[2, 4]), kernel, atol=1e-13)
    turned = patches.copy()
    turned[:, 3] = turned[:, 3] @ np.array([[0.6, -0.8], [0.8, 0.6]])
    np.testing.assert_allclose(hierarchical_kernel(turned.reshape(6, 16), filters=[2, 4]), kernel, atol=1e-13)
    other = patches[:, [4, 1, 2, 3, 0, 5, 6, 7]].reshape(6, 16)
    assert np.abs(hierarchical_kernel(other, filters=[2, 4]) - kernel).max() > 0.01


def test_kernels_are_positive_and_scale_with_the_inputs() -> None:
    x = np.random.default_rng(2).standard_normal((40, 1, 8, 8))
    for kind in ("ntk", "rfk"):
        kernel = hierarchical_kernel(x, filters=[2, 2], kind=kind)
        assert np.linalg.eigvalsh(kernel).min() > 0
        np.testing.assert_allclose(hierarchical_kernel(3 * x, x, filters=[2, 2], kind=kind), 3 * kernel, rtol=1e-12)
        np.testing.assert_allclose(np.diag(kernel), hierarchical_diagonal(x, filters=[2, 2], kind=kind), rtol=1e-12)


def test_images_are_cut_into_squares() -> None:
    """The first patch of an image is its upper left square, the children of the next one the four squares of the upper left corner."""
    image = np.arange(1.0, 17).reshape(1, 1, 4, 4)
    tree = patch_tree(np.concatenate([image, np.ones_like(image)]), [2, 2])
    squares = np.array([[1, 2, 5, 6], [3, 4, 7, 8], [9, 10, 13, 14], [11, 12, 15, 16]])
    lengths = np.linalg.norm(squares, axis=1)
    np.testing.assert_allclose(tree.directions[:, :, 0] * lengths[:, None], squares)
    assert tree.branching == (4, 1)
    np.testing.assert_allclose(tree.weights[0][:, 1], 0.5)


def test_the_multisphere_is_made_and_asked_for() -> None:
    x = np.random.default_rng(0).standard_normal((3, 2, 6, 4))
    on = on_multisphere(x, 2)
    assert hierarchical_kernel(on, filters=[2], multisphere=True)[1, 1] == pytest.approx(2)
    np.testing.assert_allclose(np.square(on[1, :, 2:4, 0:2]).sum(), 1)
    on[1, 0, 0, 0] += 0.5
    with pytest.raises(ValueError, match=r"patch 0 of input 1 has norm .* on the multisphere every norm is 1"):
        hierarchical_kernel(on, filters=[2], multisphere=True)
    x[2, :, 2:4, 2:4] = 0
    with pytest.raises(ValueError, match="patch 3 of input 2 is zero"):
        on_multisphere(x, 2)


def test_a_zero_patch_adds_nothing() -> None:
    x, y = np.random.default_rng(0).standard_normal((2, 1, 4))
    half = x.copy()
    half[0, 2:] = 0
    np.testing.assert_allclose(
        hierarchical_kernel(half, y, filters=[2]), 0.5 * hierarchical_kernel(x[:, :2], y[:, :2], filters=[2]), rtol=1e-13
    )
    assert hierarchical_kernel(np.zeros((1, 4)), y, filters=[2, 2])[0, 0] == 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: hierarchical_kernel(x, filters=[3]), "take patches of 3, which does not divide an input of 8"),
        (lambda x: hierarchical_kernel(x, filters=[2, 0]), r"at least 1, got \[2, 0\]"),
        (lambda x: hierarchical_kernel(x, filters=[]), "at least 1"),
        (lambda x: hierarchical_kernel(x, filters=[1, 2]), "a first patch of one number"),
        (lambda x: hierarchical_kernel(x, filters=[2], kind="nngp"), "got 'nngp'"),
        (lambda x: hierarchical_kernel(x, filters=[2], implementation="jit"), "got 'jit'"),
        (lambda x: hierarchical_kernel(x, filters=[2], block=0), "block must be at least 1, got 0"),
        (lambda x: hierarchical_kernel(x, x[:, :4], filters=[2]), r"one shape, got \(8,\) and \(4,\)"),
        (lambda x: hierarchical_kernel(np.where(x > 5, np.nan, x), filters=[2]), "input 0 holds a value that is not finite"),
        (lambda x: hierarchical_kernel(x[0], filters=[2]), r"got \(8,\)"),
        (lambda x: hierarchical_kernel(x.reshape(1, 1, 2, 4), filters=[2, 2]), "patches of 4, which does not divide an input of 2"),
        (lambda x: hierarchical_diagonal(x, filters=[2], kind="both"), "got 'both'"),
        (lambda x: check_memory(10**7, 10**7), r"takes 745,?058.1 GiB"),
    ],
)
def test_bad_arguments_are_refused(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call(np.arange(8.0)[None])


def test_opposite_patches_of_any_norm_are_finite_and_as_the_reference_says():
    """Their cosine is −1 but for rounding, which passes it for about half of them; the angle then has the root of the rounding, 1e-8."""
    x = np.random.default_rng(0).normal(size=(200, 8))
    found = [hierarchical_kernel(x, -x, filters=[2, 2], implementation=way) for way in ("reference", "compiled")]
    assert np.isfinite(found[1]).all()
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=1e-7)
