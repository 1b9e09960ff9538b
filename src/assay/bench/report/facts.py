"""What was measured and how, as the report says it: pairs of a name and a sentence."""

from __future__ import annotations

import platform
from typing import Any

from assay.bench.report import words
from assay.bench.report.record import Record


def facts(record: Record) -> list[tuple[str, str]]:
    """The study's conditions; what the folder does not tell is left out."""
    first = record.rows[0]
    task = record.samples.get("task") or {}
    plan = record.plan
    found = [("Data", task.get("description") or (plan.recognised if plan else ""))]
    if task.get("sizes"):
        found.append(("Split", ", ".join(f"{words.count(size)} {name}" for name, size in task["sizes"].items())))
    if plan:
        size = f"{words.count(plan.parameters)} parameters a network (within 2\u202f%, else marked)"
        found.append(("Budget", f"{size}, {plan.budget} a run, batches of {plan.batch_size}"))
        rates = ", ".join(f"{rate:g}" for rate in plan.rates)
        tried = f"; tried for every network with seed {plan.seeds[0]}, chosen on validation" if len(plan.rates) > 1 else ""
        found.append(("Learning rates", rates + tried))
        found.append(("Seeds", ", ".join(map(str, plan.seeds))))
        found += [
            ("Advised", f"{model}: {', '.join(f'{k} {_shown(v)}' for k, v in advice.items())}") for model, advice in plan.advice.items()
        ]
        found += [(f"Axis {name}", ", ".join(map(str, values))) for name, values in plan.axis.items()]
    found += [("Advice", sentence) for sentence in record.advice]
    ranks = "rank = 1 + the number of models significantly better (Holm)"
    found.append(("Intervals", f"95\u202f%, paired bootstrap over test examples and seeds; {ranks}"))
    found.append(("Latency, memory", "measured after all training, one model at a time, in a fresh process with fixed threads"))
    found.append(("Machine", "; ".join(filter(None, (*_distinct(record, "machine"), *_distinct(record, "device"), _threads(first))))))
    found.append(("Versions", _versions(first)))
    return [(name, text) for name, text in found if text]


def _distinct(record: Record, field: str) -> list[str]:
    """What the rows say of it, each once; a cluster's runs may be on several machines."""
    return list(dict.fromkeys(str(row[field]) for row in record.rows if row.get(field)))


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _threads(row: dict[str, Any]) -> str:
    threads = row.get("threads")
    return f"{threads} thread{'' if threads == 1 else 's'} a run" if threads else ""


def _versions(row: dict[str, Any]) -> str:
    versions = row.get("versions")
    if not isinstance(versions, dict):
        return f"Python {platform.python_version()}"
    return ", ".join(f"{name} {version}" for name, version in versions.items())
