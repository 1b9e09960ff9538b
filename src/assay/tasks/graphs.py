"""Graphs become tasks: one graph in memory, some nodes to train on, others to select and test on; and the openers of users' graphs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from assay.contracts import Batch, Class, Graph, Signature, SplitName, Values
from assay.errors import require
from assay.ops.sparse_features import is_sparse_rows
from assay.tasks.base import ArrayTask
from assay.tasks.graph_features import encode_features, learn_features
from assay.tasks.graph_files import RawGraph, edge_list_files, read_edge_list, read_graphml, read_pyg
from assay.tasks.options import Options
from assay.tasks.recognition import TARGET_NAMES, choose_target, find_column
from assay.tasks.roles import Column, as_strings, detect
from assay.tasks.rules import counted, note, refuse, some
from assay.tasks.splitting import divide, split_codes
from assay.tasks.tables import encoded_output
from assay.tasks.targets import Target, learn_target, read_target

_SPLIT_NAMES = {"split", "set", "subset", "partition", "part"}


class GraphTask(ArrayTask):
    """Predict nodes of one graph that is seen whole (transductive): every batch is the graph, ``selected`` the nodes that count.

    Args:
        name: short name.
        output: Class or Values.
        graph: ``nodes`` (nodes, features), dense or sparse CSR; ``edges`` (2, edges), both directions; optional ``edge_weight``.
        selected: the nodes of each part.
        target: (nodes,) long or (nodes, count) float, read at the selected nodes; None where new data have none.
        options: further arguments of `ArrayTask` (description, notes, encoding, source).

    Raises:
        ValueError: a node is in two parts, or is not in the graph.
    """

    def __init__(
        self,
        name: str,
        output: Class | Values,
        graph: Mapping[str, Tensor],
        selected: Mapping[SplitName, Tensor],
        target: Tensor | None,
        **options: Any,
    ) -> None:
        self.graph = dict(graph)
        nodes = self.graph["nodes"]
        every = torch.cat(list(selected.values()))
        if len(every) and (int(every.min()) < 0 or int(every.max()) >= len(nodes)):
            raise ValueError(f"selected names node {int(every.max())}, but the graph has {len(nodes)} nodes")
        if len(every.unique()) != len(every):
            raise ValueError("a node is in two parts: train, validation and test must not share nodes")
        kind = Graph(features=nodes.shape[1], nodes=len(nodes), edges=self.graph["edges"].shape[1])
        splits: dict[SplitName, dict[str, Tensor]] = {}
        for split, index in selected.items():
            splits[split] = {"selected": index} if target is None else {"selected": index, "target": target[index]}
        super().__init__(name, Signature(kind, output), splits, **options)

    def batch_of(self, split: SplitName, index: Tensor | slice) -> Batch:
        """The whole graph with the nodes at ``index`` of a part selected."""
        return {**self.graph, **super().batch_of(split, index)}

    def training_batches(self, batch_size: int, seed: int) -> Iterator[Batch]:
        """The graph with all training nodes selected, for ever: a step costs the graph, however few nodes it counts."""
        batch = self.batch_of("train", slice(None))
        while True:
            yield dict(batch)

    def batches(self, split: SplitName, batch_size: int) -> Iterator[Batch]:
        """One batch: the graph with all nodes of the part selected."""
        yield self.batch_of(split, slice(None))

    def shard(self, batch: Batch, rank: int, world: int) -> Batch:
        """The batch whole: a graph is not divided among processes, so that each computes the same step."""
        return batch

    def homophily(self) -> float | None:
        """Share of edges between labelled nodes whose ends have one class; None for values, or without such edges."""
        if not isinstance(self.signature.output, Class):
            return None
        label = torch.full((self.signature.input.nodes,), -1)  # pyright: ignore[reportAttributeAccessIssue]
        for part in self.splits.values():
            if "target" in part:
                label[part["selected"]] = part["target"]
        return edge_homophily(self.graph["edges"], label)


def edge_homophily(edges: Tensor, label: Tensor) -> float | None:
    """Share of edges (no self-loops) whose ends have the same class; ``label`` (nodes,), -1 = unknown. None without such edges."""
    one, other = label[edges[0]], label[edges[1]]
    known = (one >= 0) & (other >= 0) & (edges[0] != edges[1])
    return float((one == other)[known].float().mean()) if bool(known.any()) else None


def few_labels(label: np.ndarray, training: int, validation: int, seed: int) -> dict[SplitName, Tensor]:
    """The usual division of citation graphs: so many training and validation nodes of every class, all others test.

    Args:
        label: (nodes,) class numbers.
        training: training nodes a class.
        validation: validation nodes a class.
        seed: of the choice. With the same seed, fewer training nodes are a subset of more, and validation and test start from the
            same shuffle.

    Raises:
        ValueError: a class has too few nodes to leave one for the test.
    """
    generator = np.random.default_rng(seed)
    parts: dict[SplitName, list[np.ndarray]] = {"train": [], "validation": [], "test": []}
    for index in range(int(label.max()) + 1):
        members = generator.permutation(np.flatnonzero(label == index))
        if len(members) <= training + validation:
            raise ValueError(f"class {index} has {len(members)} nodes, too few for {training} training and {validation} validation nodes")
        # Validation first: it stays the same when the number of training nodes changes.
        parts["validation"].append(members[:validation])
        parts["train"].append(members[validation : validation + training])
        parts["test"].append(members[validation + training :])
    return {split: torch.from_numpy(np.sort(np.concatenate(chosen))) for split, chosen in parts.items()}


# ------------------------------------------------------------------------------------------------ openers


def looks_like_graph_folder(path: str | Path) -> bool:
    """Whether a folder holds an edge list (``edges.csv``, ``links.tsv`` …)."""
    path = Path(path)
    return path.is_dir() and edge_list_files(path) is not None


def open_edge_list(path: str | Path | Sequence[str | Path], options: Options) -> GraphTask:
    """A task from ``edges.csv`` and ``nodes.csv`` (also TSV, Parquet, JSON Lines).

    Args:
        path: the folder, the edge list beside its node table, or the two files.
        options: of these, target (by default the column named label, class, target …), seed, and encoding (then all labelled nodes,
            or all nodes without labels, are test examples, read the same way).

    Raises:
        UserError: a rule for graphs or tables refuses the files; the message names file, row, column and what to do.
    """
    return graph_task(read_edge_list(path), options.target, options.encoding, options.seed)


def open_graphml(path: str | Path, options: Options) -> GraphTask:
    """A task from a GraphML file; arguments as `open_edge_list`."""
    return graph_task(read_graphml(path), options.target, options.encoding, options.seed)


def open_pyg(path: str | Path, options: Options) -> GraphTask:
    """A task from a ``.pt`` file with a torch_geometric ``Data``; arguments as `open_edge_list`. No code in the file is run."""
    return graph_task(read_pyg(path), options.target, options.encoding, options.seed)


def karate() -> GraphTask:
    """Zachary's karate club (1977): 34 members, 78 friendships, and the two clubs that they parted into."""
    networkx = require("networkx", extra="graph", purpose="The karate club")
    import pandas as pd

    graph = networkx.karate_club_graph()
    ends = np.array(list(graph.edges), dtype=np.int64).T
    table = pd.DataFrame({"club": [graph.nodes[node]["club"] for node in graph]})
    return graph_task(RawGraph(Path("karate"), [f"member {node + 1}" for node in graph], table, ends), "club")


# ------------------------------------------------------------------------------------------------ from what was read to a task


def graph_task(raw: RawGraph, target: str | None = None, encoding: Mapping[str, Any] | None = None, seed: int = 0) -> GraphTask:
    """Divide the nodes, describe them, and make both directions of every edge.

    Raises:
        UserError: a rule for graphs or tables refuses the graph.
    """
    if raw.ends.shape[1] == 0:
        raise refuse("no-edges", path=raw.path)
    table = raw.table = raw.table.set_axis([str(name) for name in raw.table.columns], axis=1)
    columns = detect(table) if table.shape[1] else {}
    edges, weight, notes = both_directions(raw)
    if encoding is not None:
        return _read_graph_task(raw, columns, edges, weight, encoding, [*raw.notes, *notes])
    names, chosen = _target_columns(raw, columns, target)
    notes.extend(chosen)
    given, split_column = _given_parts(raw, names)
    labelled = _labelled(raw, names)
    goal = learn_target(table.iloc[labelled].reset_index(drop=True), names, None, raw.path)
    notes.extend(_label_notes(raw, names[0], labelled))
    selected, said = _divide(raw, goal, labelled, given, seed)
    goal.standardise(np.searchsorted(labelled, selected["train"]))
    notes.extend([*said, *goal.notes({split: np.searchsorted(labelled, index) for split, index in selected.items()})])
    usable = [name for name in columns if name not in names and name != split_column]
    spec, features, said = learn_features(raw, columns, usable, selected["train"], edges)
    notes.extend(said)
    labels = {"target": goal.to_json(), "labels": goal.labels}
    task = GraphTask(
        raw.title,
        goal.output,
        _graph(features, edges, weight),
        {split: torch.from_numpy(index) for split, index in selected.items()},
        _spread(goal, labelled, len(raw.names)),
        notes=[*raw.notes, *notes],
        encoding={"opener": "graph", "features": spec, **labels},
        source={"kind": "graph", "names": [raw.names[index] for index in selected["test"]]},
    )
    task.description = _describe(task, goal, features)
    task.notes.extend(_graph_notes(task, goal))
    return task


def _read_graph_task(
    raw: RawGraph, columns: dict[str, Column], edges: Tensor, weight: Tensor | None, encoding: Mapping[str, Any], notes: list[str]
) -> GraphTask:
    names = list(encoding["target"]["names"])
    labelled, target = np.arange(len(raw.names)), None
    if all(name in raw.table.columns and not raw.table[name].isna().all() for name in names):
        labelled = _labelled(raw, names)
        goal = read_target(raw.table.iloc[labelled].reset_index(drop=True), dict(encoding), raw.path)
        target = _spread(goal, labelled, len(raw.names))
        notes.extend(_label_notes(raw, names[0], labelled))
    features = encode_features(encoding["features"], raw, columns, edges)
    without = "" if target is not None else " without target"
    return GraphTask(
        raw.title,
        encoded_output(dict(encoding)),
        _graph(features, edges, weight),
        {"test": torch.from_numpy(labelled)},
        target,
        description=f"{len(raw.names):,} nodes of a new graph{without}, {edges.shape[1] // 2:,} edges",
        notes=notes,
        encoding=encoding,
        source={"kind": "graph", "names": [raw.names[index] for index in labelled]},
    )


def both_directions(raw: RawGraph) -> tuple[Tensor, Tensor | None, list[str]]:
    """Every edge once in each direction, sorted: (2, edges), weights or None, and what was mended.

    Listed again in the same direction: weights add up, without weights it counts once. Other weights there and back: their mean.
    """
    nodes, listed = len(raw.names), raw.ends.shape[1]
    weight = np.ones(listed) if raw.weight is None else raw.weight
    directed = scipy.sparse.coo_array((weight, (raw.ends[0], raw.ends[1])), shape=(nodes, nodes)).tocsr()
    notes = []
    if directed.nnz < listed:
        what = "they count once" if raw.weight is None else "their weights add up"
        notes.append(note("duplicate-edges", count=listed - directed.nnz, what=what))
    if raw.weight is None:
        directed.data[:] = 1.0
    elif (directed.data == 0).any():
        notes.append(note("zero-weights", count=int((directed.data == 0).sum())))
        directed.eliminate_zeros()
        if directed.nnz == 0:
            raise refuse("no-edges", path=raw.path)
    there = scipy.sparse.csr_array((np.ones(directed.nnz), directed.indices, directed.indptr), shape=directed.shape)
    both = (directed + directed.T).tocsr()
    times = (there + there.T).tocsr()  # 2 where listed in both directions (or a loop), else 1
    total = (both.multiply(times.power(-1))).tocoo()
    one_way = int((times.data == 1).sum()) // 2
    if one_way:
        undirected = (times.nnz + int((times.diagonal() > 0).sum())) // 2
        notes.append(note("symmetrised", count=one_way, total=undirected))
    unequal = abs(directed - directed.T).multiply(times == 2)
    if (different := int((unequal.data > 1e-12).sum()) // 2) > 0:
        notes.append(note("unequal-directions", count=different))
    edges = torch.from_numpy(np.stack([total.coords[1], total.coords[0]]).astype(np.int64))
    return edges, None if raw.weight is None else torch.from_numpy(total.data.astype(np.float32)), notes


def _target_columns(raw: RawGraph, columns: dict[str, Column], target: str | None) -> tuple[list[str], list[str]]:
    """The columns to predict, and what is said of them where they were guessed."""
    names = list(columns)
    if target is not None:
        return [find_column(part.strip(), names, "target", raw.path) for part in target.split(",")], []
    usual = [name for wanted in TARGET_NAMES for name in names if name.strip().lower() == wanted]
    several = [name for name in names if raw.matrix is not None and name.startswith("y")]
    if usual or several:
        return usual[:1] or several, []
    found = choose_target(columns, [name for name in names if name.lower() not in _SPLIT_NAMES])
    if found is None:
        raise refuse("no-node-target", path=raw.path, near=f"it has {some(names, 12)}" if names else "it has no column beside the ids")
    return [found[0]], [found[1]]


def _given_parts(raw: RawGraph, target: list[str]) -> tuple[np.ndarray | None, str | None]:
    """0/1/2 a node and -1 for none, and the column that says so."""
    if raw.given is not None:
        return raw.given, None
    for name in raw.table.columns:
        if name.lower() not in _SPLIT_NAMES or name in target:
            continue
        written = as_strings(raw.table[name])
        present = np.flatnonzero(written.notna().to_numpy())
        known = np.array([split_codes([written.iloc[row]]) is not None for row in present], dtype=bool)
        if not known.any():
            continue
        if not known.all():
            row = int(present[np.flatnonzero(~known)[0]])
            place, what = f"row {row + 1:,}, column {name!r}", f"{written.iloc[row]!r} names no part"
            raise refuse("contradicting-split", path=raw.path, place=place, what=what)
        given = np.full(len(raw.names), -1, dtype=np.int64)
        codes = split_codes(written.iloc[present].tolist())
        assert codes is not None  # every value was just seen to name a part
        given[present] = codes
        return given, name
    return None, None


def _labelled(raw: RawGraph, names: list[str]) -> np.ndarray:
    missing = np.zeros(len(raw.names), dtype=bool)
    for name in names:
        missing |= as_strings(raw.table[name]).isna().to_numpy()
    if missing.all():
        raise refuse("unusable-target", path=raw.path, column=names[0], reason="it is empty")
    return np.flatnonzero(~missing)


def _label_notes(raw: RawGraph, column: str, labelled: np.ndarray) -> list[str]:
    count, total = len(raw.names) - len(labelled), len(raw.names)
    return [note("unlabelled-nodes", count=count, total=total, column=column)] if count else []


def _divide(
    raw: RawGraph, goal: Target, labelled: np.ndarray, given: np.ndarray | None, seed: int
) -> tuple[dict[SplitName, np.ndarray], list[str]]:
    """Positions of the nodes of each part: as given, else 60/20/20 of every class."""
    notes: list[str] = []
    labels, usable, parts = goal.codes, labelled, None
    if given is not None:
        inside = given[labelled] >= 0
        if not inside.any():
            raise refuse("bad-split", path=raw.path, found="parts of unlabelled nodes only")
        if not inside.all():
            notes.append(note("left-out-of-split", count=int((~inside).sum())))
        usable, parts = labelled[inside], given[labelled][inside]
        labels = None if labels is None else labels[inside]
    rows, said = divide(len(usable), path=raw.path, seed=seed, labels=labels, given=parts)
    return {split: usable[index] for split, index in rows.items()}, [*notes, *said]


def _spread(goal: Target, labelled: np.ndarray, nodes: int) -> Tensor:
    """The target of every node; unlabelled ones hold -1 (or 0 for values) and are never selected."""
    known = goal.tensor()
    spread = torch.full((nodes,), -1) if goal.codes is not None else torch.zeros(nodes, known.shape[1])
    spread[torch.from_numpy(labelled)] = known
    return spread


def _graph(features: Tensor, edges: Tensor, weight: Tensor | None) -> dict[str, Tensor]:
    graph = {"nodes": features, "edges": edges}
    return graph if weight is None else {**graph, "edge_weight": weight}


def _describe(task: GraphTask, goal: Target, features: Tensor) -> str:
    edges = task.graph["edges"]
    undirected = int((edges[0] <= edges[1]).sum())
    what = f"{len(goal.labels):,} classes" if goal.codes is not None else goal.words()
    homophily = task.homophily()
    share = "" if homophily is None else f", homophily {homophily:.2f}"
    kind = "sparse " if is_sparse_rows(features) else ""
    read = counted(features.shape[1], f"{kind}feature")
    return f"{len(features):,} nodes, {counted(undirected, 'edge')}, {read}, {what}{share}"


def _graph_notes(task: GraphTask, goal: Target) -> list[str]:
    notes = []
    edges, nodes = task.graph["edges"], len(task.graph["nodes"])
    isolated = nodes - len(edges[:, edges[0] != edges[1]].unique())
    if isolated:
        notes.append(note("isolated-nodes", count=isolated))
    homophily = task.homophily()
    if homophily is not None and goal.codes is not None:
        shares = np.bincount(goal.codes) / len(goal.codes)
        if homophily < 0.5:
            notes.append(note("low-homophily", share=homophily, chance=float((shares**2).sum())))
    return notes
