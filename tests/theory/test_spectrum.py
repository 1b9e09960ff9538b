"""Spectra of hierarchical kernels: known Fourier coefficients, slopes by sector, the sum that is the trace, exponents in closed form."""

from __future__ import annotations

import numpy as np
import pytest

from assay.theory.hierarchical_kernels import hierarchical_kernel
from assay.theory.spectrum import (
    effective_dimension,
    eigenvalue_exponent,
    gaussian_field_targets,
    gram_spectrum,
    learning_exponent,
    rank_exponent,
    sample_multisphere,
    sector,
    sector_slope,
    source_exponent,
    torus_spectrum,
)


def test_effective_dimensions_and_exponents() -> None:
    assert [effective_dimension([3, 2, 4], level) for level in (1, 2, 3)] == [2, 4, 16]
    assert effective_dimension([2, 2, 2]) == 4
    assert effective_dimension([2, 2], channels=3, axes=2) == 44
    assert [eigenvalue_exponent([2, 2], level, kind) for kind in ("ntk", "rfk") for level in (1, 2)] == [2, 3, 4, 5]
    assert rank_exponent([2, 2, 2]) == 1.25


def test_learning_exponents_in_closed_form() -> None:
    assert [learning_exponent(teacher, [2, 2, 2]) for teacher in ([2], [2, 2], [2, 2, 2])] == pytest.approx([0.625, 5 / 12, 0.25])
    assert [learning_exponent(matched, matched) for matched in ([2], [2, 2])] == [1, 0.5]
    assert learning_exponent([2, 2], [2, 2], ("rfk", "ntk")) == pytest.approx(3 / 2)
    assert learning_exponent([2], [2, 2, 2], ("rfk", "ntk")) == pytest.approx(1.875)
    assert learning_exponent([2], [2], ("rfk", "ntk")) == 3  # below the saturation of 2 (1 + 1) = 4
    # r = 2 m / 2, α = 5/4
    assert source_exponent([2, 2, 2], 1, 1.0) == pytest.approx(1.25 / 2.25)


def test_fourier_coefficients_of_a_circle_and_of_a_torus() -> None:
    circle = torus_spectrum([2], 2**15)
    np.testing.assert_allclose(circle[[0, 1, 2, 4, 6]], [0.607927, 0.5, 0.157611, 0.0171122, 0.00645163], atol=1e-6)
    assert circle[0] == pytest.approx(6 / np.pi**2, abs=1e-7)
    assert np.abs(circle[3:100:2]).max() < 1e-12  # one layer has no odd degrees from 3 on
    torus = torus_spectrum([2, 2], 1024)
    np.testing.assert_allclose([torus[0, 0], torus[1, 0], torus[2, 0], torus[1, 1]], [1.000157, 0.279593, 0.0884601, 0.0348182], atol=1e-6)
    np.testing.assert_allclose(torus, torus.T, atol=1e-12)


def test_eigenvalues_add_up_to_the_diagonal() -> None:
    """Each degree above 0 counts twice, with its negative; the last of a grid is its own negative."""
    spectrum = torus_spectrum([2, 2], (64, 32))
    twice = [np.array([1.0, *[2.0] * (half - 1), 1.0]) for half in (32, 16)]
    assert twice[0] @ spectrum @ twice[1] == pytest.approx(3)


@pytest.mark.parametrize("kind", ["ntk", "rfk"])
def test_slopes_follow_the_hierarchy(kind) -> None:
    spectrum = torus_spectrum([2, 2], 512, kind)
    for level in (1, 2):
        assert sector_slope(spectrum, [2, 2], level, 16, 64) == pytest.approx(-eigenvalue_exponent([2, 2], level, kind), abs=0.08)


def test_gram_eigenvalues_approach_the_spectrum() -> None:
    """The constant's and the first pair of each circle, of 600 inputs; 1 / √n = 0.04."""
    x = sample_multisphere(600, 4, 2, np.random.default_rng(0))
    found = gram_spectrum(hierarchical_kernel(x, filters=[2, 2], multisphere=True))
    assert found[0] == pytest.approx(1.000157, rel=0.05)
    assert found[1:5].mean() == pytest.approx(0.279593, rel=0.05)
    assert found.sum() == pytest.approx(3)
    assert (np.diff(found) <= 0).all()


def test_sectors_are_the_smallest_patches_that_hold_all_degrees() -> None:
    assert sector([0, 0, 0, 0], [2, 2, 2]) == 0
    assert [sector(np.eye(4, dtype=int)[place], [2, 2, 2]) for place in range(4)] == [1] * 4
    assert sector([0, 0, 3, 1], [2, 2, 2]) == 2
    assert sector([0, 1, 3, 0], [2, 2, 2]) == 3
    assert sector([0, 1, 2, 0], [2, 4]) == 2


def test_inputs_lie_on_the_multisphere_evenly() -> None:
    x = sample_multisphere(4000, 6, 3, np.random.default_rng(0)).reshape(4000, 2, 3)
    np.testing.assert_allclose(np.linalg.norm(x, axis=-1), 1)
    np.testing.assert_allclose(np.einsum("npi,npj->pij", x, x) / 4000, np.eye(3)[None] / 3 * np.ones((2, 1, 1)), atol=0.02)


def test_fields_have_the_covariance_that_was_asked_for() -> None:
    x = sample_multisphere(5, 4, 2, np.random.default_rng(1))
    covariance = hierarchical_kernel(x, filters=[2, 2])
    drawn = gaussian_field_targets(covariance, np.random.default_rng(0), 40_000)
    np.testing.assert_allclose(drawn @ drawn.T / 40_000, covariance, atol=0.1)  # 3 √2 / √40,000 = 0.02


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: effective_dimension([2, 2], 3), "between 1 and 2, got 3"),
        (lambda: eigenvalue_exponent([2], 1, "nngp"), "got 'nngp'"),
        (lambda: learning_exponent([3], [2, 2]), r"begin with the teacher's, got \[2, 2\] and \[3\]"),
        (lambda: source_exponent([2], 1, 0.0), "above 0, got 0.0"),
        (lambda: torus_spectrum([3], 16), "circles only for a first filter of 2"),
        (lambda: torus_spectrum([2], 15), "even and at least 2 for each of 1 circles, got 15"),
        (lambda: torus_spectrum([2, 2], (16,)), "for each of 2 circles"),
        (lambda: torus_spectrum([2, 2, 2], 512), "points, of at most"),
        (lambda: sector([1, 0], [2]), "have 1 degrees"),
        (lambda: sector_slope(np.ones(9), [2], 1, 4, 20), "two even ones or more from 1 to 8, got 4 to 20"),
        (lambda: sector_slope(np.zeros(9), [2], 1, 2, 8), "no logarithm"),
        (lambda: gram_spectrum(np.triu(np.ones((3, 3)))), "symmetric"),
        (lambda: sample_multisphere(2, 7, 2, np.random.default_rng(0)), "patches of 2 do not divide an input of 7"),
        (lambda: gaussian_field_targets(np.eye(2), np.random.default_rng(0), 0), "at least 1, got 0"),
    ],
)
def test_bad_arguments_are_refused(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
