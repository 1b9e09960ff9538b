"""What is refused, imputed or warned of when graphs are opened: the rows that graphs add to the table of `assay.tasks.rules`."""

from __future__ import annotations

from typing import Any

from assay.errors import UserError
from assay.tasks.rules import Rule

GRAPH_RULES: tuple[Rule, ...] = (
    Rule(
        "no-edge-list",
        "graph",
        "a folder holds no edge list",
        "refused",
        "{path} holds no edge list: name the table of edges edges.csv and the table of nodes nodes.csv.",
    ),
    Rule(
        "no-node-table",
        "graph",
        "an edge list has no node table beside it",
        "refused",
        "{path} has edges but no table of nodes beside it: add nodes.csv with a column of ids and a column to predict.",
    ),
    Rule(
        "no-id-column",
        "graph",
        "no column of the node table names the nodes that edges connect",
        "refused",
        "{path} has no column of node ids: none of {names} holds {value!r}, which {edges} connects; add a column 'id'.",
    ),
    Rule(
        "duplicate-node",
        "graph",
        "two rows of the node table have one id",
        "refused",
        "{path}, row {row:,}, column {column!r}: node {value!r} was already in row {first:,}; keep one of the rows.",
    ),
    Rule(
        "missing-end",
        "graph",
        "a node id, or an end of an edge, is missing",
        "refused",
        "{path}, row {row:,}, column {column!r} is empty ({count:,} such rows): fill in the node, or remove the row.",
    ),
    Rule(
        "dangling-edge",
        "graph",
        "an edge names a node that is not in the node table",
        "refused",
        "{path}, row {row:,}, column {column!r}: node {value!r} is not in {nodes} ({count:,} such rows); add the node, or remove the edge.",
    ),
    Rule("no-edges", "graph", "there is no edge", "refused", "{path} has no edge: without edges the nodes are a plain table."),
    Rule(
        "bad-weight",
        "graph",
        "an edge weight is no number, negative or infinite",
        "refused",
        "{path}, row {row:,}, column {column!r}: weight {value!r} is {what} ({count:,} such rows); weights must be numbers >= 0.",
    ),
    Rule(
        "no-node-target",
        "graph",
        "no column of the node table is known to be the target",
        "refused",
        "{path} has no column named label, class or target: name the one to predict with --target ({near}).",
    ),
    Rule(
        "contradicting-split",
        "graph",
        "a node is in two parts, or a part has a name that is not known",
        "refused",
        "{path}, {place}: {what}; every node is in one of train, validation, test or in none.",
    ),
    Rule("broken-graph", "graph", "a file cannot be read as its ending says", "refused", "{path} cannot be read as {what}: {reason}."),
    Rule(
        "lost-features",
        "graph",
        "new data have other features than the model was trained on",
        "refused",
        "{path} has {found} features a node where the model was trained on {wanted}: give the same features in the same order.",
    ),
    Rule(
        "symmetrised",
        "graph",
        "edges are listed in one direction only",
        "imputed",
        "{count:,} of {total:,} edges are listed in one direction only: every edge is used in both.",
    ),
    Rule(
        "unequal-directions",
        "graph",
        "an edge has other weights there and back",
        "imputed",
        "{count:,} edges have other weights there and back: the mean is used for both.",
    ),
    Rule(
        "duplicate-edges",
        "graph",
        "an edge is listed several times",
        "imputed",
        "{count:,} edges are listed again: {what}.",
    ),
    Rule("zero-weights", "graph", "an edge has weight 0", "imputed", "{count:,} edges have weight 0 and count as absent."),
    Rule(
        "unlabelled-nodes",
        "graph",
        "nodes have no label",
        "warned",
        "{count:,} of {total:,} nodes have no {column!r}: they carry messages but are neither trained on nor tested.",
    ),
    Rule(
        "left-out-of-split",
        "graph",
        "labelled nodes are in none of the given parts",
        "warned",
        "{count:,} labelled nodes are in none of the given parts: they carry messages only.",
    ),
    Rule(
        "isolated-nodes",
        "graph",
        "nodes have no edge",
        "warned",
        "{count:,} nodes have no edge: they are predicted from their own features alone.",
    ),
    Rule(
        "low-homophily",
        "graph",
        "neighbours seldom share a class",
        "warned",
        "Only {share:.0%} of edges join nodes of one class ({chance:.0%} by chance): propagation may not help; compare with a plain table.",
    ),
    Rule(
        "no-node-features",
        "graph",
        "nodes have no features",
        "imputed",
        "Nodes have no features: their degree, core number, clustering and {count} spectral coordinates of the graph are used.",
    ),
    Rule(
        "unread-columns",
        "graph",
        "columns of the edge list, or ids and constants of the node table, say nothing",
        "warned",
        "Left out: {columns}.",
    ),
)
_BY_NAME = {rule.name: rule for rule in GRAPH_RULES}


def refuse_graph(name: str, **facts: Any) -> UserError:
    """The error of a refusing rule for graphs, its sentence filled with the facts."""
    rule = _BY_NAME[name]
    if rule.outcome != "refused":
        raise ValueError(f"rule {name!r} says {rule.outcome}, so it cannot refuse")
    return UserError(rule.sentence.format(**facts))


def note_graph(name: str, **facts: Any) -> str:
    """The sentence of an imputing or warning rule for graphs, filled with the facts."""
    rule = _BY_NAME[name]
    if rule.outcome == "refused":
        raise ValueError(f"rule {name!r} refuses, so it cannot be a note")
    return rule.sentence.format(**facts)
