"""Data with splits, a signature, a loss and an evaluation: a person's own files, built-in real data, synthetic problems."""

from assay.tasks.base import ArrayTask
from assay.tasks.opening import open

__all__ = ["ArrayTask", "open"]
