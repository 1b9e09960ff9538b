"""`catalog`: the field's ideas, or every registered thing with its first sentence, searched by words and kept to what fits data."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from assay import registry
from assay.catalogue.ideas import find
from assay.errors import MissingExtra, UserError

if TYPE_CHECKING:  # a search for words is to answer before PyTorch and pandas would be loaded
    import pandas as pd

    from assay.contracts import Signature

KINDS = ("mixer", "activation", "model", "estimator", "part", "method", "compressor", "probe", "exporter", "task", "paper")


def catalog(words: str = "", *, kind: str | None = None, signature: Signature | None = None, **filters: Any) -> pd.DataFrame:
    """Find ideas by words; or, with ``kind``, what is registered of that kind.

    Args:
        words: all must occur (in any order, any case); empty lists everything.
        kind: a kind of registered thing (`KINDS`), or ``all`` of them; by default ideas are searched.
        signature: only what accepts it.
        filters: of ideas: family, pattern, status, streams, max_state; see `assay.catalogue.ideas.find`.

    Returns:
        Of ideas: columns id, name, family, status, summary, parts. Of registered things: kind, name, summary (first sentence of the
        docstring), source (the citation in it, if any), where (module:attribute).

    Raises:
        UserError: an unknown value of a filter, or a filter of ideas together with ``kind``.
    """
    import pandas as pd

    if kind is None:
        rows = [
            {name: getattr(idea, name) for name in ("id", "name", "family", "status", "summary")} | {"parts": ", ".join(idea.parts)}
            for idea in find(words, signature=signature, **filters)
        ]
        return pd.DataFrame(rows, columns=["id", "name", "family", "status", "summary", "parts"])
    if any(filters.values()):
        raise UserError(f"{', '.join(filters)} are filters of ideas: leave out --kind, or them.")
    return _registered(words, KINDS if kind == "all" else (kind,), signature)


def _registered(words: str, kinds: Sequence[str], signature: Signature | None) -> pd.DataFrame:
    import pandas as pd

    wanted = words.lower().split()
    rows = []
    for each in kinds:
        for name in registry.names(each):
            row = _entry(each, name)
            text = f"{each} {name} {row['summary']} {row['source']}".lower()
            if all(word in text for word in wanted) and fits(each, name, signature):
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


def fits(kind: str, name: str, signature: Signature | None) -> bool:
    """Whether a registered mixer, model or estimator accepts a signature; other kinds accept none."""
    if signature is None:
        return True
    if kind not in ("mixer", "model", "estimator"):
        return False
    if kind == "estimator":
        return registry.resolve(kind, name)().accepts(signature) is None
    from assay.models import family

    return family(name).accepts(signature) is None
