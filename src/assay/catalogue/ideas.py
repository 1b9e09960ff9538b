"""The ideas of the field as data: what each is, which pattern of success it follows, and what of Assay stands for it.

The taxonomy follows Schneider (2024), What comes after transformers? A selective survey connecting ideas in deep learning; the entries and
their judgements are ours, in `ideas.toml`.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import entry_points
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from assay import registry
from assay.errors import UserError, require

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

if TYPE_CHECKING:  # PyTorch takes seconds to load, and a search for words needs none of it
    from assay.contracts import Signature

SCHEMA = 1
FAMILIES = (
    "attention",
    "recurrence",
    "state-space",
    "convolution",
    "memory",
    "graphs",
    "activations",
    "normalisation",
    "optimisation",
    "objectives",
    "efficiency",
    "large-models",
    "far-out",
)
PATTERNS = ("multi-x", "higher-order", "moving-average", "decompose", "weigh", "sparsify", "recur", "normalise")
STATUSES = ("proven", "partial", "far-out")
STATES = ("O(1)", "O(√n)", "O(n)")  # sizes of a stream's state, from small to large
PART_KINDS = ("mixer", "part", "activation", "model", "estimator", "method", "compressor")
_LISTS = ("patterns", "papers", "parts", "slugs", "peers", "related", "instead")


@dataclass(frozen=True)
class Idea:
    """One idea of the field.

    Args:
        id: unique, in lower case with hyphens.
        name: as it is called in print.
        family: one of `FAMILIES`.
        patterns: of `PATTERNS`, the survey's explanation of what works.
        status: ``proven`` (in wide use), ``partial`` (works, with known limits), ``far-out``; a judgement, not a measurement.
        year: of the idea.
        summary: one sentence of at most thirty words.
        why: a note on the judgement or on what stands for the idea here.
        equation: plain text.
        cost: growth with the length n: ``train``, ``step`` and ``state``.
        streams: whether its mixers read a stream; None where the question makes no sense.
        papers: title, authors, year and often an arXiv number.
        parts: names in the registry that stand for the idea.
        slugs: Assay's paper sheets.
        peers: kept libraries that have it.
        related: ids.
        instead: ids of what to try in its place.
        gap: why nothing here stands for it, where nothing does.
    """

    id: str
    name: str
    family: str
    patterns: tuple[str, ...]
    status: str
    year: int
    summary: str
    why: str = ""
    equation: str = ""
    cost: Mapping[str, str] = field(default_factory=dict)
    streams: bool | None = None
    papers: tuple[Mapping[str, Any], ...] = ()
    parts: tuple[str, ...] = ()
    slugs: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    related: tuple[str, ...] = ()
    instead: tuple[str, ...] = ()
    gap: str = ""

    def text(self) -> str:
        """All that words are looked for in, in lower case."""
        papers = " ".join(f"{paper['title']} {paper['authors']}" for paper in self.papers)
        return f"{self.id} {self.name} {self.summary} {papers} {' '.join(self.parts)} {' '.join(self.slugs)}".casefold()

    def kinds(self) -> dict[str, str]:
        """The registry's kind of each part."""
        return {name: next(kind for kind in PART_KINDS if registry.known(kind, name)) for name in self.parts}

    def command(self) -> str | None:
        """A line that runs the idea, where something here stands for it."""
        for name, kind in self.kinds().items():
            if kind in ("mixer", "model", "estimator"):
                return f"assay compare DATA --models {name}"
            if kind == "activation":
                return f"assay compare DATA --models attention --axis activation={name},gelu"
            if kind == "method":
                return f"assay compare DATA --methods {name}"
            if kind == "compressor":
                return f"assay shrink RUN --with {name} --to parameters=0.5"
            if kind == "probe":
                return f"assay inspect RUN --with {name}"
            if kind == "task":
                return f"assay compare {name}"
        return f"assay catalog {self.parts[0]} --kind part" if self.parts else None


@cache
def ideas() -> tuple[Idea, ...]:
    """Every idea, in the file's order; then those of other packages.

    A package that registers parts ships its ideas by an entry point of the group ``assay.idea`` which names a list of mappings, each with
    the keys of a table of ``ideas.toml``.

    Raises:
        UserError: an entry of another package is not an idea, or its id is taken.
    """
    data = tomllib.loads((files("assay.catalogue") / "ideas.toml").read_text(encoding="utf-8"))
    if data["schema"] != SCHEMA:
        raise ValueError(f"ideas.toml has schema {data['schema']}, this reader knows {SCHEMA}")
    own = tuple(from_json(entry) for entry in data["idea"])
    return own + _contributed({idea.id for idea in own})


def _contributed(taken: set[str]) -> tuple[Idea, ...]:
    found: list[Idea] = []
    for point in entry_points(group="assay.idea"):
        for entry in point.load():
            try:
                idea = from_json(entry)
            except TypeError as error:
                raise UserError(f"{point.value} holds an entry that is no idea: {error}.") from error
            if idea.id in taken:
                raise UserError(f"{point.value} holds an idea with the id {idea.id!r}, which is taken.")
            taken.add(idea.id)
            found.append(idea)
    return tuple(found)


def from_json(values: Mapping[str, Any]) -> Idea:
    """An idea from plain values, lists made tuples."""
    plain: dict[str, Any] = {name: tuple(value) if name in _LISTS else value for name, value in values.items()}
    return Idea(**plain)


def find(
    words: str = "",
    *,
    family: str | None = None,
    pattern: str | None = None,
    status: str | None = None,
    streams: bool = False,
    max_state: str | None = None,
    signature: Signature | None = None,
    instead_of: str | None = None,
) -> list[Idea]:
    """The ideas that hold all words and pass all filters; those with more of the words in their names come first.

    Args:
        words: all must occur, in any order and case; empty finds everything.
        family: only of this family.
        pattern: only with this pattern.
        status: only with this status.
        streams: only ideas whose mixers read a stream.
        max_state: only ideas whose state grows no faster, as in ``O(1)``.
        signature: only ideas with a part that accepts it.
        instead_of: an id or the name of a part: only ideas that can stand in its place. Those that the entry names come first, then those
            that name the entry, then related ones, then those of its family that share a pattern with it.

    Raises:
        UserError: a filter has an unknown value; the message lists the known ones.
    """
    for name, value, known in (
        ("family", family, FAMILIES),
        ("pattern", pattern, PATTERNS),
        ("status", status, STATUSES),
        ("max-state", max_state, STATES),
    ):
        if value is not None and value not in known:
            raise UserError(f"--{name} must be one of {', '.join(known)}, not {value!r}.")
    wanted = words.casefold().split()
    replaced = None if instead_of is None else _idea_of(instead_of)
    found = [
        idea
        for idea in ideas()
        if all(word in idea.text() for word in wanted)
        and (family is None or idea.family == family)
        and (pattern is None or pattern in idea.patterns)
        and (status is None or idea.status == status)
        and (not streams or idea.streams)
        and (max_state is None or _state_within(idea, max_state))
        and (signature is None or _fits(idea, signature))
        and (replaced is None or _distance(replaced, idea) < len(_NEAR))
    ]

    def order(idea: Idea) -> tuple[int, int, str]:
        return (
            0 if replaced is None else _distance(replaced, idea),
            -sum(word in f"{idea.id} {idea.name}".casefold() for word in wanted),
            idea.id,
        )

    return sorted(found, key=order)


_NEAR: tuple[Callable[[Idea, Idea], bool], ...] = (
    lambda idea, other: other.id in idea.instead,
    lambda idea, other: idea.id in other.instead,
    lambda idea, other: other.id in idea.related or idea.id in other.related,
    lambda idea, other: other.family == idea.family and bool({*other.patterns} & {*idea.patterns}),
)
"""Ways in which an idea can stand in another's place, the nearest first."""


def _distance(idea: Idea, other: Idea) -> int:
    """Which of `_NEAR` is the first that holds; their number where none does."""
    return next((place for place, near in enumerate(_NEAR) if other != idea and near(idea, other)), len(_NEAR))


def _idea_of(name: str) -> Idea:
    """The idea with this id, or the first that a part of this name stands for."""
    for idea in sorted(ideas(), key=lambda idea: idea.id != name):
        if name == idea.id or name in idea.parts:
            return idea
    raise UserError(f"No idea or part is called {name!r}; the nearest are {', '.join(nearest(name))}.")


def nearest(words: str, count: int = 3) -> list[str]:
    """The ids that look most like some words, for a search that found nothing."""
    known = [idea.id for idea in ideas()]
    close = difflib.get_close_matches("-".join(words.casefold().split()), known, n=count, cutoff=0.0)
    return close or known[:count]


def graph() -> Any:
    """Ideas, patterns, parts and papers as nodes of a `networkx.DiGraph`, an edge from each idea to what it is made of or related to.

    Raises:
        MissingExtra: networkx is not installed.
    """
    networkx = require("networkx", extra="graph", purpose="The graph of ideas")
    found = networkx.DiGraph()
    for idea in ideas():
        found.add_node(idea.id, kind="idea")
        targets = [("pattern", idea.patterns), ("part", idea.parts), ("paper", idea.slugs)]
        for kind, names in targets:
            for name in names:
                found.add_node(f"{kind}:{name}", kind=kind)
                found.add_edge(idea.id, f"{kind}:{name}")
        found.add_edges_from((idea.id, other) for other in idea.related)
    return found


def to_json(found: Iterable[Idea]) -> dict[str, Any]:
    """The ideas as JSON values, as `SCHEMA_JSON` describes them."""
    return {"schema": SCHEMA, "ideas": [asdict(idea) for idea in found]}


_TEXTS = {"type": "array", "items": {"type": "string"}}
SCHEMA_JSON: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "The ideas of `assay catalog --format json`",
    "type": "object",
    "required": ["schema", "ideas"],
    "properties": {
        "schema": {"const": SCHEMA},
        "ideas": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["id", "name", "family", "patterns", "status", "year", "summary", "parts", "gap"],
                "additionalProperties": False,
                "properties": {
                    "id": {"type": "string", "pattern": "^[a-z0-9-]+$"},
                    "family": {"enum": list(FAMILIES)},
                    "patterns": {"type": "array", "minItems": 1, "items": {"enum": list(PATTERNS)}},
                    "status": {"enum": list(STATUSES)},
                    "year": {"type": "integer"},
                    "cost": {"type": "object", "additionalProperties": {"type": "string"}},
                    "streams": {"type": ["boolean", "null"]},
                    "papers": {"type": "array", "items": {"type": "object", "required": ["title", "authors", "year"]}},
                    "measured": {"type": "object", "required": ["model", "metric", "value", "runs"]},
                    **{name: {"type": "string"} for name in ("name", "summary", "why", "equation", "gap")},
                    **dict.fromkeys(("parts", "slugs", "peers", "related", "instead"), _TEXTS),
                },
            },
        },
    },
}
"""JSON Schema of `to_json`."""


def _state_within(idea: Idea, largest: str) -> bool:
    state = idea.cost.get("state")
    return state in STATES and STATES.index(state) <= STATES.index(largest)


def _fits(idea: Idea, signature: Signature) -> bool:
    from assay.catalogue.search import fits

    return any(fits(kind, name, signature) for name, kind in idea.kinds().items())
