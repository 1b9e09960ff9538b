"""`reproduce`: run a paper's claims at a scale, one after the other, and keep each result as soon as it is there."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from assay import registry
from assay.contracts import Claim, Measured, Paper, Scale
from assay.errors import UserError, described
from assay.measure import machine

SCALES = ("smoke", "laptop", "paper")


@dataclass
class ClaimResult:
    """One row of a claims table: what the paper says beside what was measured here, by which code and on which machine."""

    slug: str
    claim: str
    text: str
    source: str
    paper: str
    measured: dict[str, float]
    spread: dict[str, float]
    verdict: str
    reason: str
    scale: str
    seeds: int
    seconds: float
    code: str
    machine: str


def reproduce(
    paper: str,
    *,
    scale: Scale = "laptop",
    claims: list[str] | None = None,
    output: str | Path | None = None,
    again: bool = False,
    on_result: Callable[[ClaimResult], None] | None = None,
) -> pd.DataFrame:
    """Run the claims of one paper, or of ``all``; claims that this very code has finished in an interrupted call are not run again.

    Args:
        paper: a paper's slug, or ``all``.
        scale: ``smoke`` (seconds), ``laptop`` (minutes) or ``paper`` (as published).
        claims: only these, by name.
        output: where each result is kept, by default ``assay-results/reproduce``.
        again: run claims that have a result, too.
        on_result: called with each result.

    Returns:
        One row a claim, with the columns of `ClaimResult`.

    Raises:
        UserError: an unknown paper, claim or scale.
    """
    if scale not in SCALES:
        raise UserError(f"--scale must be one of {', '.join(SCALES)}, not {scale!r}.")
    folder = Path(output or "assay-results/reproduce")
    results = []
    for slug in registry.names("paper") if paper == "all" else [paper]:
        found: Paper = registry.resolve("paper", slug)
        for claim in _chosen(found, claims if paper != "all" else None):
            result = _kept(folder / scale / slug / f"{claim.name}.json", found, claim, scale, again)
            results.append(result)
            if on_result:
                on_result(result)
    return pd.DataFrame([asdict(result) for result in results])


def write_json(results: pd.DataFrame, file: str | Path) -> None:
    """Write results as a JSON list, complete or not at all."""
    path = Path(file)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(results.to_dict("records"), indent=1, default=float))
    partial.replace(path)


def _chosen(paper: Paper, claims: list[str] | None) -> list[Claim]:
    known = {claim.name: claim for claim in paper.claims}
    for name in claims or []:
        if name not in known:
            raise UserError(f"{paper.slug} has no claim {name!r}: it has {', '.join(known)}.")
    return [known[name] for name in claims] if claims else list(paper.claims)


def _kept(file: Path, paper: Paper, claim: Claim, scale: Scale, again: bool) -> ClaimResult:
    if file.exists() and not again and (found := json.loads(file.read_text())).get("code") == _code():
        return ClaimResult(**found)
    started = time.perf_counter()
    try:
        measured = claim.experiment(scale)
    except UserError as error:  # something the experiment needs is not here: said, not hidden
        measured = Measured({}, "not-run", str(error), seeds=0)
    except Exception as error:
        measured = Measured({}, "undecided", f"the experiment raised {described(error)}", seeds=0)
    result = ClaimResult(
        slug=paper.slug,
        claim=claim.name,
        text=claim.text,
        source=claim.source,
        paper=claim.paper,
        measured=measured.values,
        spread=measured.spread,
        verdict=measured.verdict,
        reason=measured.reason,
        scale=scale,
        seeds=measured.seeds,
        seconds=round(time.perf_counter() - started, 1),
        code=_code(),
        machine=machine(),
    )
    if measured.verdict in ("holds", "fails") or result.seconds > 1:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(result), default=float))
        partial.replace(file)
    return result


@cache
def _code() -> str:
    """The package's version with a digest of its files: a result of other code is not this code's."""
    package, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(path for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    return f"{version('assay')}+{digest.hexdigest()[:12]}"
