"""Teacher and student: what one kernel learns of another's fields, in the cases that are known."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from assay.theory.hierarchical_kernels import hierarchical_kernel
from assay.theory.learning_curves import fit_learning_curve
from assay.theory.teacher_student import teacher_student_errors

SIZES = (32, 64, 128, 256)


def errors(teacher: list[int], student: list[int], **options: float) -> np.ndarray:
    kernels = (partial(hierarchical_kernel, filters=filters) for filters in (teacher, student))
    return teacher_student_errors(*kernels, 4, 2, SIZES, 300, 0, **{"fields": 10, **options})


def test_matched_kernels_learn_as_fast_as_their_dimension_says() -> None:
    """β = 1 / d_eff: 1 for single patches, ½ for two together; finite n adds up to a tenth or two."""
    slopes = [fit_learning_curve(SIZES, errors(filters, filters), offset=False, draws=1).slope for filters in ([2], [2, 2])]
    assert slopes[0] == pytest.approx(1.0, abs=0.2)
    assert slopes[1] == pytest.approx(0.55, abs=0.12)


def test_a_student_of_single_patches_does_not_learn_what_joins_them() -> None:
    """Of a field with the deep kernel a share lies in functions of two patches, which no sum over patches can tell."""
    blind, seeing = errors([2, 2], [2], ridge=0.1), errors([2, 2], [2, 2], ridge=0.1)
    assert blind[-1] > 2 * seeing[-1]
    assert blind[-1] > 0.8 * blind[-2]


def test_errors_are_shares_of_the_target() -> None:
    """A ridge beyond all bounds predicts 0: all of the target is left."""
    np.testing.assert_allclose(errors([2], [2], ridge=1e12), 1, atol=1e-6)


def test_no_sizes_are_refused() -> None:
    kernel = partial(hierarchical_kernel, filters=[2])
    with pytest.raises(ValueError, match=r"at least 1, got \[0\] and 10"):
        teacher_student_errors(kernel, kernel, 4, 2, [0], 10, 0)
