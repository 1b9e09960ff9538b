"""Rules, their results and how they are run: the same for every kind of part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from assay.errors import described

Rule: TypeAlias = tuple[str, Callable[[], str]]
"""What must hold, in plain words, and the function that raises `CheckFailed` or returns a detail worth saying ("" for none)."""


class CheckFailed(AssertionError):
    """A contract is broken; the message says by what and by how much."""


@dataclass(frozen=True)
class RuleResult:
    """One rule: whether it was kept, and the detail in plain words."""

    rule: str
    passed: bool
    detail: str = ""


class Report(list[RuleResult]):
    """The results of all rules, in order."""

    @property
    def failed(self) -> list[RuleResult]:
        """The broken rules."""
        return [result for result in self if not result.passed]

    def raise_if_failed(self, subject: str) -> Report:
        """Itself, if every rule was kept.

        Raises:
            CheckFailed: with every broken rule.
        """
        if self.failed:
            lines = [f"{result.rule}: {result.detail}" for result in self.failed]
            raise CheckFailed(f"{subject} breaks {len(lines)} of {len(self)} rules\n  " + "\n  ".join(lines))
        return self


def run_rules(rules: Sequence[Rule], fatal: int = 0) -> Report:
    """Run every rule; an exception of the part is a broken rule too. After one of the first ``fatal`` rules breaks, the rest is moot."""
    report = Report()
    for index, (name, function) in enumerate(rules):
        report.append(_run(name, function))
        if index < fatal and not report[-1].passed:
            break
    return report


def _run(name: str, function: Callable[[], str]) -> RuleResult:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            return RuleResult(name, True, function())
        except CheckFailed as error:
            return RuleResult(name, False, str(error))
        except Exception as error:  # whatever a user's part raises is a finding, not a crash of the checker
            return RuleResult(name, False, f"raised {described(error)}")


def require(condition: bool, message: str) -> None:
    """Raise `CheckFailed` with the message unless the condition holds."""
    if not condition:
        raise CheckFailed(message)


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest absolute difference relative to the largest expected value; infinite if either is not finite or the shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    if expected.numel() == 0:
        return 0.0
    found, expected = found.detach().double(), expected.detach().double()
    if not (bool(torch.isfinite(found).all()) and bool(torch.isfinite(expected).all())):
        return float("inf")
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def require_close(found: Tensor, expected: Tensor, tolerance: float, what: str) -> float:
    """The relative difference of two tensors.

    Raises:
        CheckFailed: it is above the tolerance, or the shapes differ.
    """
    require(found.shape == expected.shape, f"{what}: shape {tuple(found.shape)} where {tuple(expected.shape)} was expected")
    error = difference(found, expected)
    require(error <= tolerance, f"{what}: they differ by {error:.1e} of the largest value, allowed is {tolerance:.0e}")
    return error


def tensors(tree: Any) -> list[Tensor]:
    """All tensors of a pytree, in order."""
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def copied(tree: Any) -> Any:
    """A pytree with every tensor detached and cloned."""
    return pytree.tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, tree)
