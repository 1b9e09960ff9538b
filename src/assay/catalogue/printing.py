"""How ideas are shown: a table, a card with a line that runs it, JSON, Markdown, a graph in DOT."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from assay import registry
from assay.catalogue.ideas import Idea, graph, nearest, to_json
from assay.catalogue.measured import Figure
from assay.catalogue.search import first_sentence
from assay.errors import MissingExtra, UserError

if TYPE_CHECKING:
    import pandas as pd

FORMATS = ("text", "json", "markdown", "graph")


def show(found: Sequence[Idea], words: str, format: str, measured: Mapping[str, Figure] | None = None) -> str:
    """The ideas found for some words, in one of `FORMATS`; an id alone, or a search with one result, shows its card.

    ``measured``, by id, stands beside the ideas as text and in JSON.
    """
    exact = [idea for idea in found if idea.id == words]
    if format == "text" and not found:
        return f"No idea holds {words!r}; the nearest are {', '.join(nearest(words))}."
    if format == "text" and (exact or len(found) == 1):
        return card((exact or list(found))[0], measured)
    if format in ("text", "json"):
        return (table if format == "text" else as_json)(found, measured)
    shown: dict[str, Callable[[Sequence[Idea]], str]] = {"markdown": markdown, "graph": dot}
    return shown[format](found)


def table(found: Sequence[Idea], measured: Mapping[str, Figure] | None = None) -> str:
    """A line an idea: id, status, what stands for it here, and its sentence or what was measured of it."""
    if measured:
        return "\n".join(f"{idea.id:<31} {measured.get(idea.id, '–')}" for idea in found)
    return "\n".join(f"{idea.id:<31} {idea.status:<8} {', '.join(idea.parts) or '–':<28.28} {idea.summary}" for idea in found)


def card(idea: Idea, measured: Mapping[str, Figure] | None = None) -> str:
    """Everything about one idea."""
    rows = [
        ("family", idea.family),
        ("patterns", ", ".join(idea.patterns)),
        ("status", f"{idea.status} ({idea.year})"),
        ("equation", idea.equation),
        ("cost", ", ".join(f"{name} {growth}" for name, growth in idea.cost.items())),
        ("streams", {True: "yes", False: "no", None: ""}[idea.streams]),
        ("papers", "; ".join(f"{paper['authors']} ({paper['year']}), {paper['title']}" for paper in idea.papers)),
        ("reproduce", ", ".join(idea.slugs)),
        ("libraries", ", ".join(idea.peers)),
        ("related", ", ".join(idea.related)),
        ("instead", ", ".join(idea.instead)),
        ("measured", str((measured or {}).get(idea.id, ""))),
        ("note", idea.why),
        ("not here", idea.gap),
        ("try", idea.command() or ""),
    ]
    lines = [idea.name, idea.summary, "", *(f"{name:<10} {value}" for name, value in rows if value)]
    for name, kind in idea.kinds().items():
        lines.append(f"{kind:<10} {name}: {_summary(kind, name)}")
    return "\n".join(lines)


def registered(found: pd.DataFrame, format: str) -> str:
    """What is registered, a line a thing, or as JSON.

    Raises:
        UserError: a format that only ideas have.
    """
    if format not in ("text", "json"):
        raise UserError(f"--format {format} shows ideas: leave out --kind, or say text or json.")
    if format == "json":
        return found.to_json(orient="records", indent=1) or ""
    return "\n".join(f"{row['kind']:<10} {row['name']:<24} {row['summary']}" for row in found.to_dict("records"))


def as_json(found: Sequence[Idea], measured: Mapping[str, Figure] | None = None) -> str:
    """The ideas as JSON, as `assay.catalogue.ideas.SCHEMA_JSON` describes them."""
    values = to_json(found)
    for entry in values["ideas"]:
        if figure := (measured or {}).get(entry["id"]):
            entry["measured"] = asdict(figure)
    return json.dumps(values, ensure_ascii=False, indent=1)


def markdown(found: Sequence[Idea]) -> str:
    """A section a family, a table row an idea."""
    lines = []
    for family in dict.fromkeys(idea.family for idea in found):
        lines += [
            f"## {family.replace('-', ' ').capitalize()}",
            "",
            "| idea | status | in one sentence | here | patterns |",
            "|---|---|---|---|---|",
        ]
        for idea in found:
            if idea.family == family:
                here = ", ".join(f"`{name}`" for name in idea.parts) or f"– {idea.gap}"
                cells = (f"**{idea.name}** ({idea.year})", idea.status, idea.summary, here, ", ".join(idea.patterns))
                lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def dot(found: Sequence[Idea]) -> str:
    """The graph of ideas, patterns, parts and papers around those found, in DOT."""
    whole, chosen = graph(), {idea.id for idea in found}
    shapes = {"idea": "box", "pattern": "ellipse", "part": "component", "paper": "note"}
    edges = [(a, b) for a, b in whole.edges if a in chosen and (b in chosen or whole.nodes[b]["kind"] != "idea")]
    nodes = dict.fromkeys([*chosen, *(b for _, b in edges)])
    lines = [f'  "{name}" [shape={shapes[whole.nodes[name]["kind"]]}];' for name in nodes]
    return "\n".join(["digraph ideas {", *lines, *(f'  "{a}" -> "{b}";' for a, b in edges), "}"])


def _summary(kind: str, name: str) -> str:
    try:
        return first_sentence(inspect.getdoc(registry.resolve(kind, name)) or "")
    except MissingExtra as missing:
        return str(missing)
