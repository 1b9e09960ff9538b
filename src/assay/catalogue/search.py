"""`catalog`: every registered thing with its first sentence, searched by words, and kept to what fits a person's data."""

from __future__ import annotations

import importlib
import inspect
import re

import pandas as pd

from assay import registry
from assay.contracts import Signature
from assay.errors import MissingExtra

KINDS = ("mixer", "model", "estimator", "part", "method", "compressor", "probe", "exporter", "task", "paper")


def catalog(words: str = "", *, kind: str | None = None, signature: Signature | None = None) -> pd.DataFrame:
    """Find parts, models, methods, tasks and papers by words in their name or description.

    Args:
        words: all must occur (in any order, any case); empty lists everything.
        kind: only this kind.
        signature: only models that accept it.

    Returns:
        Columns kind, name, summary (first sentence of the docstring), source (the citation in it, if any), where (module:attribute).
    """
    wanted = words.lower().split()
    rows = []
    for each in [kind] if kind else KINDS:
        for name in registry.names(each):
            row = _entry(each, name)
            text = f"{each} {name} {row['summary']} {row['source']}".lower()
            if all(word in text for word in wanted) and _fits(each, name, signature):
                rows.append(row)
    return pd.DataFrame(rows, columns=["kind", "name", "summary", "source", "where"])


def _entry(kind: str, name: str) -> dict[str, str]:
    where = registry.TABLE[kind].get(name, "entry point")
    try:
        found = registry.resolve(kind, name)
    except MissingExtra as error:
        return {"kind": kind, "name": name, "summary": str(error), "source": "", "where": where}
    if kind == "paper":
        source = f"{found.authors}, {found.title}, {found.year}"
        return {"kind": kind, "name": name, "summary": found.title, "source": source, "where": where}
    document = inspect.getdoc(found) or ""
    return {"kind": kind, "name": name, "summary": first_sentence(document), "source": _citation(document, where), "where": where}


def first_sentence(document: str) -> str:
    """The first sentence of a docstring, on one line, without markup."""
    paragraph = " ".join(document.split("\n\n")[0].split()).replace("``", "").replace("`", "")
    return re.split(r"(?<=[.;]) (?=[A-Z])", paragraph)[0]


def _citation(document: str, where: str) -> str:
    """The first line of a docstring (or of its module's) that ends in a year, which is how sources are cited here."""
    module = importlib.import_module(where.split(":")[0]).__doc__ if ":" in where else ""
    for text in (document, module or ""):
        for line in text.splitlines():
            if re.search(r"\b(19|20)\d\d\b\)?\.?$", line.strip()):
                return line.strip().rstrip(".")
    return ""


def _fits(kind: str, name: str, signature: Signature | None) -> bool:
    if signature is None:
        return True
    if kind not in ("mixer", "model", "estimator"):
        return False
    if kind == "estimator":
        return registry.resolve(kind, name)().accepts(signature) is None
    from assay.models import family

    return family(name).accepts(signature) is None
