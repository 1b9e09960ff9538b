"""Graphs from disk: an edge list with a node table, GraphML, or a torch_geometric ``Data`` file, into one plain form."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from assay.errors import require
from assay.tasks.checks import check_path
from assay.tasks.reading import SUFFIXES, read_frame
from assay.tasks.roles import as_strings
from assay.tasks.rules import note, refuse, some

_EDGE_NAMES = ("edges", "edge", "edge_list", "edgelist", "links")
_NODE_NAMES = ("nodes", "node", "node_table", "vertices")
_END_NAMES = (("source", "target"), ("src", "dst"), ("from", "to"), ("u", "v"), ("node1", "node2"), ("source_id", "target_id"))
_WEIGHT_NAMES = ("weight", "weights", "w", "strength")
_ID_NAMES = ("id", "node", "node_id", "nodeid", "name", "index")


@dataclass
class RawGraph:
    """A graph as its files say it.

    Args:
        path: of the nodes, named in messages.
        names: of the nodes, as the report calls them.
        table: one row a node, the columns beside the id.
        ends: (2, edges), positions in ``names``, as listed.
        weight: (edges,), >= 0, or None.
        matrix: (nodes, features), where features come as one array instead of columns; dense, or sparse CSR.
        given: 0/1/2 a node for train/validation/test and -1 for none, where the file divides the nodes; else None.
        notes: what was mended.
    """

    path: Path
    names: list[str]
    table: pd.DataFrame
    ends: np.ndarray
    weight: np.ndarray | None = None
    matrix: Tensor | None = None
    given: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Short name of the graph: the folder's, where the file is only one of its two tables."""
        return self.path.resolve().parent.name if self.path.stem.lower() in _NODE_NAMES else self.path.stem


# ------------------------------------------------------------------------------------------------ edge list and node table


def edge_list_files(path: Path) -> tuple[Path, Path | None] | None:
    """The edge list and the node table of a folder, or of an edge list beside its node table; None if there is no edge list."""
    folder = path if path.is_dir() else path.parent
    tables = sorted(file for file in folder.iterdir() if file.is_file() and file.suffix.lower() in SUFFIXES)
    if path.is_dir():
        edges = next((file for name in _EDGE_NAMES for file in tables if file.stem.lower() == name), None)
    else:
        edges = path if path.suffix.lower() in SUFFIXES and path.stem.lower() in _EDGE_NAMES else None
    if edges is None:
        return None
    nodes = next((file for name in _NODE_NAMES for file in tables if file.stem.lower() == name), None)
    rest = [file for file in tables if file != edges]
    return edges, nodes or (rest[0] if path.is_dir() and len(rest) == 1 else None)


def read_edge_list(path: str | Path | Sequence[str | Path]) -> RawGraph:
    """Read a folder with ``edges.csv`` and ``nodes.csv``, an ``edges.csv`` beside a ``nodes.csv``, or the two files as a pair.

    Raises:
        UserError: see the rules for graphs; the message names file, row and column.
    """
    if isinstance(path, (str, Path)):
        check_path(Path(path))
        found = edge_list_files(Path(path))
        if found is None:
            raise refuse("no-edge-list", path=path)
        edges_path, nodes_path = found
    else:
        edges_path, nodes_path = (Path(part) for part in path)
    if nodes_path is None:
        raise refuse("no-node-table", path=edges_path)
    notes: list[str] = []
    edges, table = read_frame(edges_path, notes), read_frame(nodes_path, notes)
    if edges.shape[1] < 2:
        raise refuse("broken-graph", path=edges_path, what="an edge list", reason="it has one column, and an edge has two ends")
    sources, targets, weights, left = _edge_columns(edges)
    identifier = _id_column(table, edges[sources], nodes_path, edges_path)
    names = _node_names(table, identifier, nodes_path)
    edges = _with_header_as_row(edges, sources, targets, names, notes)
    if len(left):
        notes.append(note("unread-columns", columns=f"{some(left)} of {edges_path.name}"))
    ends = np.stack([_positions(edges, column, names, edges_path, nodes_path) for column in (sources, targets)])
    weight = _weights(edges, weights, edges_path) if weights else None
    return RawGraph(nodes_path, names, table.drop(columns=identifier), ends, weight, notes=notes)


def _edge_columns(edges: pd.DataFrame) -> tuple[str, str, str | None, list[str]]:
    """The two ends, the weight, and what is left."""
    lower = {str(name).lower(): str(name) for name in edges.columns}
    pair = next(((lower[a], lower[b]) for a, b in _END_NAMES if a in lower and b in lower), None)
    sources, targets = pair or (str(edges.columns[0]), str(edges.columns[1]))
    rest = [str(name) for name in edges.columns if str(name) not in (sources, targets)]
    weights = next((name for name in rest if name.lower() in _WEIGHT_NAMES), None)
    if weights is None and len(rest) == 1 and pd.api.types.is_numeric_dtype(edges[rest[0]]):
        weights = rest[0]
    return sources, targets, weights, [name for name in rest if name != weights]


def _id_column(table: pd.DataFrame, ends: pd.Series, nodes_path: Path, edges_path: Path) -> str:
    """The column that names nodes: by its name, else the first whose values contain most of the edges' ends."""
    named = next((str(name) for wanted in _ID_NAMES for name in table.columns if str(name).lower() == wanted), None)
    if named is not None:
        return named
    wanted = as_strings(ends).dropna().unique()
    for name in table.columns:
        if len(wanted) and np.isin(wanted.astype(str), as_strings(table[name]).dropna().to_numpy().astype(str)).mean() > 0.5:
            return str(name)
    value = str(wanted[0]) if len(wanted) else ""
    raise refuse("no-id-column", path=nodes_path, names=some(list(table.columns)), value=value, edges=edges_path.name)


def _node_names(table: pd.DataFrame, identifier: str, path: Path) -> list[str]:
    names = as_strings(table[identifier])
    _refuse_missing(names, identifier, path)
    repeated = names.duplicated().to_numpy()
    if repeated.any():
        row = int(repeated.argmax())
        first = int((names == names.iloc[row]).to_numpy().argmax())
        raise refuse("duplicate-node", path=path, row=row + 1, column=identifier, value=names.iloc[row], first=first + 1)
    return names.tolist()


def _with_header_as_row(edges: pd.DataFrame, sources: str, targets: str, names: list[str], notes: list[str]) -> pd.DataFrame:
    """An edge list of words without a header: its first edge was taken for the names of columns."""
    if not {sources, targets} <= set(names) or edges.shape[1] > 2:
        return edges
    notes.append("The edge list has no header: its first row is an edge.")
    return pd.concat([pd.DataFrame([[sources, targets]], columns=[sources, targets]), edges], ignore_index=True)


def _refuse_missing(values: pd.Series, column: str, path: Path) -> None:
    missing = values.isna().to_numpy()
    if missing.any():
        raise refuse("missing-end", path=path, row=int(missing.argmax()) + 1, column=column, count=int(missing.sum()))


def _positions(edges: pd.DataFrame, column: str, names: list[str], edges_path: Path, nodes_path: Path) -> np.ndarray:
    ends = as_strings(edges[column])
    _refuse_missing(ends, column, edges_path)
    position = ends.map({name: index for index, name in enumerate(names)})
    dangling = position.isna().to_numpy()
    if dangling.any():
        row = int(dangling.argmax())
        facts = {"row": row + 1, "column": column, "value": ends.iloc[row], "count": int(dangling.sum())}
        raise refuse("dangling-edge", path=edges_path, nodes=nodes_path.name, **facts)
    return position.to_numpy(dtype=np.int64)


def _weights(edges: pd.DataFrame, column: str, path: Path) -> np.ndarray:
    written = edges[column]
    values = np.asarray(pd.to_numeric(written, errors="coerce"), dtype=np.float64)
    for what, wrong in (("not a number", np.isnan(values)), ("infinite", np.isinf(values)), ("negative", values < 0)):
        if wrong.any():
            row = int(wrong.argmax())
            value = "" if pd.isna(edges[column].iloc[row]) else str(edges[column].iloc[row])
            raise refuse("bad-weight", path=path, row=row + 1, column=column, value=value, what=what, count=int(wrong.sum()))
    return values


# ------------------------------------------------------------------------------------------------ GraphML


def read_graphml(path: str | Path) -> RawGraph:
    """Read a GraphML file with networkx; node attributes are the columns, an edge attribute ``weight`` the weights.

    Raises:
        UserError: the file is no GraphML, or a rule for graphs refuses it.
    """
    path = Path(path)
    check_path(path)
    networkx = require("networkx", extra="graph", purpose="Opening a GraphML file")
    from xml.etree.ElementTree import ParseError

    try:
        graph = networkx.read_graphml(path, force_multigraph=True)
    except (ParseError, networkx.NetworkXError, KeyError, ValueError, TypeError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise refuse("broken-graph", path=path, what="GraphML", reason=reason) from error
    names = [str(node) for node in graph.nodes]
    position = {node: index for index, node in enumerate(graph.nodes)}
    links = list(graph.edges(data=True))
    ends = np.array([[position[u], position[v]] for u, v, _ in links], dtype=np.int64).reshape(-1, 2).T
    weight = None
    if links and any("weight" in data for _, _, data in links):
        weight = _weights(pd.DataFrame({"weight": [data.get("weight") for _, _, data in links]}), "weight", path)
    table = pd.DataFrame([data for _, data in graph.nodes(data=True)], index=range(len(names)))
    return RawGraph(path, names, table, ends, weight)


# ------------------------------------------------------------------------------------------------ torch_geometric


def read_pyg(path: str | Path) -> RawGraph:
    """Read a ``.pt`` file that holds a torch_geometric ``Data`` (or a dictionary of its tensors); no code in it is run.

    ``x`` are the features, ``y`` the classes (whole numbers; -1 = unlabelled) or values, ``train_mask``, ``val_mask`` and
    ``test_mask`` the parts; where masks have several columns, the first is taken.

    Raises:
        UserError: the file holds anything but plain tensors of a graph, or a rule for graphs refuses it.
    """
    path = Path(path)
    check_path(path)
    stored = _load_data(path)
    edges = stored.get("edge_index")
    if not isinstance(edges, Tensor) or edges.ndim != 2 or edges.shape[0] != 2 or edges.is_floating_point():
        raise refuse("broken-graph", path=path, what="a graph", reason="it has no edge_index of whole numbers, shape (2, edges)")
    notes: list[str] = []
    x = stored.get("x")
    count = len(x) if isinstance(x, Tensor) else int(stored.get("num_nodes") or len(stored.get("y", ())) or int(edges.max()) + 1)
    _check_ends(edges, count, path)
    weight = stored.get("edge_weight")
    if weight is None and isinstance(stored.get("edge_attr"), Tensor) and stored["edge_attr"].numel() == edges.shape[1]:
        weight = stored["edge_attr"].reshape(-1)
    weights = None if weight is None else _weights(pd.DataFrame({"edge_weight": weight.double().numpy()}), "edge_weight", path)
    given = _masks(stored, count, path, notes)
    names = [str(index) for index in range(count)]
    return RawGraph(path, names, _labels_of(stored, count, path), edges.long().numpy(), weights, x, given, notes)


def _load_data(path: Path) -> dict[str, Any]:
    """The tensors of a stored ``Data``: only its own few classes may be rebuilt, anything else in the file is refused."""
    data = require("torch_geometric.data", extra="graph", purpose="Opening a torch_geometric file")
    storage = require("torch_geometric.data.storage", extra="graph", purpose="Opening a torch_geometric file")
    parts = require("torch_geometric.data.data", extra="graph", purpose="Opening a torch_geometric file")
    allowed = [data.Data, parts.DataEdgeAttr, parts.DataTensorAttr, storage.GlobalStorage]
    try:
        with torch.serialization.safe_globals(allowed):
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, AttributeError, ValueError) as error:
        reason = "it holds more than the plain tensors of one graph, or is damaged; save it with torch.save(data, path)"
        raise refuse("broken-graph", path=path, what="a torch_geometric Data", reason=reason) from error
    # What processed data sets of torch_geometric store begins with the data: (data, slices, …).
    first: Any = found[0] if isinstance(found, (tuple, list)) and found else found
    stored = first.to_dict() if isinstance(first, data.Data) else first
    if not isinstance(stored, dict):
        raise refuse("broken-graph", path=path, what="a graph", reason=f"it holds a {type(stored).__name__}")
    return {str(key): value for key, value in stored.items() if value is not None}


def _check_ends(edges: Tensor, count: int, path: Path) -> None:
    outside = ((edges < 0) | (edges >= count)).any(0)
    if bool(outside.any()):
        column = int(outside.nonzero()[0])
        end = next(int(value) for value in edges[:, column] if not 0 <= int(value) < count)
        facts = {"row": column, "column": "edge_index", "value": end, "count": int(outside.sum())}
        raise refuse("dangling-edge", path=path, nodes=f"x ({count:,} nodes)", **facts)


def _labels_of(stored: dict[str, Any], count: int, path: Path) -> pd.DataFrame:
    y = stored.get("y")
    if y is None:
        return pd.DataFrame(index=range(count))
    if not isinstance(y, Tensor) or len(y) != count:
        found = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise refuse("broken-graph", path=path, what="a graph", reason=f"y is {found}, not one label for each of {count:,} nodes")
    y = y.reshape(count, -1)
    if y.shape[1] > 1:
        return pd.DataFrame({f"y{index}": y[:, index].double().numpy() for index in range(y.shape[1])})
    column = y[:, 0]
    if column.is_floating_point():
        return pd.DataFrame({"y": column.double().numpy()})
    labels = column.numpy().astype(object)
    labels = np.array([None if value < 0 else str(value) for value in labels], dtype=object)
    return pd.DataFrame({"y": pd.Series(labels, dtype=object)})


def _masks(stored: dict[str, Any], count: int, path: Path, notes: list[str]) -> np.ndarray | None:
    masks = [stored.get(name) for name in ("train_mask", "val_mask", "test_mask")]
    if not isinstance(masks[0], Tensor):
        return None
    given = np.full(count, -1, dtype=np.int64)
    for code, mask in enumerate(masks):
        if not isinstance(mask, Tensor):
            continue
        if mask.ndim == 2:
            notes.append(f"The masks divide the nodes in {mask.shape[1]} ways: the first is used.") if code == 0 else None
            mask = mask[:, 0]
        chosen = mask.bool().numpy()
        if len(chosen) != count:
            raise refuse("broken-graph", path=path, what="a graph", reason=f"a mask has {len(chosen):,} entries for {count:,} nodes")
        both = chosen & (given >= 0)
        if both.any():
            what = f"node {int(both.argmax())} is in two parts"
            raise refuse("contradicting-split", path=path, place="masks", what=what)
        given[chosen] = code
    return given
