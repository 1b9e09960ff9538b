"""Learning curves of kernels on targets of a known kind: a Gaussian field with the teacher's kernel, learnt by the student's.

The field is drawn once for all inputs; training sets are nested, and without a ridge by default.

Source: Spigler, Geiger, Wyart (2020), Asymptotic Learning Curves of Kernel Methods: Empirical Data versus Teacher-Student Paradigm;
Cagnetta, Favero, Wyart (2023), What Can Be Learnt With Wide Convolutional Neural Networks?
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.theory.kernel_regression import nested_predictions
from assay.theory.spectrum import gaussian_field_targets, sample_multisphere

Array = NDArray[np.float64]
Kernel = Callable[..., Any]
"""``kernel(x, y)``, or ``kernel(x)`` for x with itself: (n, m)."""


def teacher_student_errors(
    teacher: Kernel,
    student: Kernel,
    dimension: int,
    patch: int,
    sizes: Sequence[int],
    tests: int,
    seed: int,
    *,
    fields: int = 1,
    ridge: float = 0.0,
) -> Array:
    """The student's squared error on new inputs of the multisphere, as a share of the target's own mean square, for each size: (sizes,).

    Args:
        teacher: whose Gaussian field is the target.
        student: that learns it.
        dimension: numbers of an input.
        patch: numbers of a first patch, each of norm 1.
        sizes: of the nested training sets.
        tests: new inputs.
        seed: of inputs and fields.
        fields: drawn for the same inputs; the mean of their errors is given.
        ridge: added to the student's diagonal.

    Raises:
        ValueError: no sizes, sizes or tests below 1, or a kernel that is not positive semidefinite.
    """
    if not len(sizes) or min(sizes) < 1 or tests < 1:
        raise ValueError(f"sizes and tests must be at least 1, got {list(sizes)} and {tests}")
    generator = np.random.default_rng(seed)
    train = max(sizes)
    x = sample_multisphere(train + tests, dimension, patch, generator)
    y = gaussian_field_targets(teacher(x), generator, fields)
    predictions = nested_predictions(student(x[:train]), student(x[train:], x[:train]), y[:train], sizes, ridge)
    scale = np.square(y[train:]).mean(0)
    return np.array([(np.square(found - y[train:]).mean(0) / scale).mean() for found in predictions])
