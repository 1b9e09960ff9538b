"""Whole networks and estimators, built for a task's signature at the width that meets a parameter budget."""

from assay.measure import parameter_count
from assay.models.build import build, build_network, family, load, load_predictor, off_budget, read_config, save

__all__ = ["build", "build_network", "family", "load", "load_predictor", "off_budget", "parameter_count", "read_config", "save"]
