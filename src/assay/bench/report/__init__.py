"""One self-contained page from a study's folder, and what a study keeps for it."""

from assay.bench.report.page import write_report
from assay.bench.report.samples import collect

__all__ = ["collect", "write_report"]
