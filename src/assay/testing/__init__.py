"""Public contract checks for parts, the house's own and yours; `assay check mine.py:MyMixer` runs them.

Each ``check_*`` returns a `Report` with one result a rule, or raises `CheckFailed` naming the broken rules and by how much.
"""

from assay.testing.compressor import check_compressor
from assay.testing.method import check_method
from assay.testing.mixer import check_mixer
from assay.testing.model import check_model
from assay.testing.recognition import check, registered
from assay.testing.rules import CheckFailed, Report, RuleResult
from assay.testing.task import check_task

__all__ = [
    "CheckFailed",
    "Report",
    "RuleResult",
    "check",
    "check_compressor",
    "check_method",
    "check_mixer",
    "check_model",
    "check_task",
    "registered",
]
