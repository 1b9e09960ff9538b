"""Training: one loop, and the methods that change how it goes."""

from assay.training.fit import History, fit, predictor

__all__ = ["History", "fit", "predictor"]
