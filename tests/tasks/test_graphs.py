"""Opening graphs: what comes out equals what was written down, and every wrong input is one sentence with file, row and column."""

from __future__ import annotations

import json
from pathlib import Path

import networkx
import numpy as np
import pandas as pd
import pytest
import torch

from assay.contracts import Class, Values
from assay.errors import UserError
from assay.models import build
from assay.tasks.graph_features import bag_of_words, structural_features, vocabulary
from assay.tasks.graphs import (
    GraphTask,
    edge_homophily,
    few_labels,
    karate,
    looks_like_graph_folder,
    open_edge_list,
    open_graphml,
    open_pyg,
)
from assay.tasks.options import Options

NODES = 30


def community(index: int) -> str:
    return "left" if index < NODES // 2 else "right"


def ring_edges() -> pd.DataFrame:
    """Two rings with chords, joined by one edge: 30 nodes, mostly edges inside a community."""
    half = NODES // 2
    links = [(start + i, start + (i + step) % half) for start in (0, half) for i in range(half) for step in (1, 3)]
    return pd.DataFrame([*links, (0, half)], columns=["source", "target"])


def node_table() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "id": range(NODES),
            "age": generator.normal(40, 10, NODES).round(2),
            "colour": [("red", "green", "blue")[i % 3] for i in range(NODES)],
            "label": [community(i) for i in range(NODES)],
        }
    )


@pytest.fixture
def folder(tmp_path: Path):
    def write(edges: pd.DataFrame | str | None = None, nodes: pd.DataFrame | str | None = None) -> Path:
        for name, content, default in (("edges.csv", edges, ring_edges), ("nodes.csv", nodes, node_table)):
            content = default() if content is None else content
            text = content if isinstance(content, str) else content.to_csv(index=False)
            (tmp_path / name).write_text(text)
        return tmp_path

    return write


def opened(opener, path: Path, **options):
    return opener(path, Options(path, **options))


def with_cell(table: pd.DataFrame, row: int, column: str, value: object) -> pd.DataFrame:
    table = table.astype({column: object})
    table.loc[row, column] = value
    return table


# ------------------------------------------------------------------------------------------------ what comes out


def test_folder_becomes_a_task(folder):
    path = folder()
    assert looks_like_graph_folder(path)
    task = opened(open_edge_list, path)
    assert task.name == path.name
    expected = networkx.from_pandas_edgelist(ring_edges())
    adjacency = torch.zeros(NODES, NODES)
    adjacency[task.graph["edges"][0], task.graph["edges"][1]] = 1
    assert torch.equal(adjacency, torch.from_numpy(networkx.to_numpy_array(expected, nodelist=range(NODES))).float())
    assert task.signature.output == Class(2)
    assert task.description.startswith(f"30 nodes, {expected.number_of_edges()} edges, ")
    assert "2 classes, homophily 0.98" in task.description
    assert {split: task.size(split) for split in task.splits} == {"train": 18, "validation": 6, "test": 6}
    assert any("one direction only" in note for note in task.notes)
    json.dumps(task.encoding)


def test_every_batch_is_the_whole_graph_with_aligned_targets(folder):
    task = opened(open_edge_list, folder())
    for batch in (next(task.training_batches(4, 0)), *task.batches("test", 2)):
        assert len(batch["nodes"]) == NODES
        assert [community(i) == "right" for i in batch["selected"].tolist()] == batch["target"].bool().tolist()
        assert task.shard(batch, 1, 2) is batch
    assert sum(len(batch["selected"]) for batch in task.batches("test", 2)) == task.size("test")
    every = torch.cat([part["selected"] for part in task.splits.values()])
    assert sorted(every.tolist()) == list(range(NODES))


def test_numbers_are_standardised_by_training_nodes_only(folder):
    nodes = node_table()
    task = opened(open_edge_list, folder(nodes=nodes))
    chosen = task.splits["train"]["selected"].numpy()
    age = nodes["age"].to_numpy()
    expected = (age - age[chosen].mean()) / age[chosen].std()
    np.testing.assert_allclose(task.graph["nodes"][:, 0].numpy(), expected, atol=1e-5)


def test_weights_and_directions(folder):
    edges = ring_edges().assign(weight=2.0)
    back = pd.DataFrame([[1, 0, 4.0], [5, 5, 1.5]], columns=["source", "target", "weight"])  # 0-1 has other weights; a loop
    task = opened(open_edge_list, folder(edges=pd.concat([edges, back])))
    weight = {tuple(pair): float(w) for pair, w in zip(task.graph["edges"].T.tolist(), task.graph["edge_weight"], strict=True)}
    assert weight[0, 1] == weight[1, 0] == 3.0
    assert weight[5, 5] == 1.5
    assert weight[0, 15] == weight[15, 0] == 2.0
    assert any("other weights there and back" in note for note in task.notes)


def test_unlabelled_nodes_carry_messages_only(folder):
    nodes = node_table()
    nodes.loc[[3, 20], "label"] = None
    task = opened(open_edge_list, folder(nodes=nodes))
    every = torch.cat([part["selected"] for part in task.splits.values()])
    assert not {3, 20} & set(every.tolist())
    assert len(task.graph["nodes"]) == NODES
    assert any("2 of 30 nodes have no 'label'" in note for note in task.notes)


def test_given_split_is_kept(folder):
    nodes = node_table()
    nodes["split"] = [("train", "val", "test", "")[i % 4] for i in range(NODES)]
    task = opened(open_edge_list, folder(nodes=nodes))
    assert task.splits["train"]["selected"].tolist() == list(range(0, NODES, 4))
    assert task.splits["validation"]["selected"].tolist() == list(range(1, NODES, 4))
    assert any("none of the given parts" in note for note in task.notes)


def test_target_by_option_and_node_regression(folder):
    task = opened(open_edge_list, folder(), target="age")
    assert task.signature.output == Values(1)
    model = build("dagnn", task.signature, 2_000)
    evaluation = task.evaluate(model.eval(), "test")
    assert evaluation.scores.shape == (6,)
    assert np.isfinite(evaluation.metrics["mse"])
    assert task.loss(model(next(task.training_batches(1, 0))), next(task.training_batches(1, 0))).ndim == 0


def test_text_becomes_a_sparse_bag(folder):
    nodes = node_table()[["id", "label"]]
    generator = np.random.default_rng(0)
    words = [f"w{chr(97 + i)}{chr(97 + j)}" for i in range(12) for j in range(5)]
    nodes["about"] = [" ".join(generator.choice(words, 6)) for _ in range(NODES)]
    task = opened(open_edge_list, folder(nodes=nodes))
    assert task.graph["nodes"].layout == torch.sparse_csr
    assert task.graph["nodes"].to_dense().sum(1).tolist() == pytest.approx([1.0] * NODES)
    assert np.isfinite(task.evaluate(build("gcn", task.signature, 2_000).eval(), "test").metrics["accuracy"])


def test_no_features_means_structure(folder):
    task = opened(open_edge_list, folder(nodes=node_table()[["id", "label"]]))
    assert torch.isfinite(task.graph["nodes"]).all()
    assert any("Nodes have no features" in note for note in task.notes)
    structure = structural_features(task.graph["edges"], NODES)
    degree = torch.bincount(task.graph["edges"][0]).numpy()
    np.testing.assert_allclose(structure[:, 8], np.log1p(degree))


def test_new_data_are_read_the_same_way(folder, tmp_path):
    task = opened(open_edge_list, folder())
    nodes = node_table().drop(columns="label")
    again = tmp_path / "again"
    again.mkdir()
    nodes.to_csv(again / "nodes.csv", index=False)
    ring_edges().to_csv(again / "edges.csv", index=False)
    new = opened(open_edge_list, again, encoding=json.loads(json.dumps(task.encoding)))
    torch.testing.assert_close(new.graph["nodes"], task.graph["nodes"])
    assert new.splits["test"]["selected"].tolist() == list(range(NODES))
    assert "target" not in new.splits["test"]
    nodes.drop(columns="colour").to_csv(again / "nodes.csv", index=False)
    with pytest.raises(UserError, match="'colour'"):
        opened(open_edge_list, again, encoding=task.encoding)


def test_words_without_header_and_ids_without_name(folder):
    nodes = node_table().rename(columns={"id": "person"})
    nodes["person"] = [f"p{i}" for i in range(NODES)]
    edges = "\n".join(f"p{a},p{b}" for a, b in ring_edges().to_numpy())
    task = opened(open_edge_list, folder(edges=edges, nodes=nodes))
    assert task.graph["edges"].shape[1] == 2 * len(ring_edges())


def test_graphml_and_pyg_give_the_same_graph(tmp_path):
    graph = networkx.from_pandas_edgelist(ring_edges())
    table = node_table()
    for node in graph:
        graph.nodes[node].update(age=float(table["age"][node]), label=table["label"][node])
    networkx.write_graphml(graph, tmp_path / "g.graphml")
    one = opened(open_graphml, tmp_path / "g.graphml")
    order = list(graph.nodes)
    data_module = pytest.importorskip("torch_geometric.data")
    half = torch.tensor([[order.index(u), order.index(v)] for u, v in graph.edges]).T
    data = data_module.Data(
        x=torch.tensor(table["age"][order].to_numpy()).float()[:, None],
        edge_index=torch.cat([half, half.flip(0)], 1),
        y=torch.tensor([int(community(node) == "right") for node in order]),
    )
    torch.save(data, tmp_path / "g.pt")
    two = opened(open_pyg, tmp_path / "g.pt")
    assert torch.equal(one.graph["edges"], two.graph["edges"])
    torch.testing.assert_close(one.graph["nodes"], two.graph["nodes"], rtol=0, atol=1e-5)
    assert torch.equal(one.splits["test"]["target"], two.splits["test"]["target"])


def test_pyg_masks_and_sparse_features(tmp_path):
    data_module = pytest.importorskip("torch_geometric.data")
    x = torch.zeros(NODES, 100)
    x[torch.arange(NODES), torch.arange(NODES)] = 3.0
    half = torch.tensor(ring_edges().to_numpy()).T
    masks = {name: torch.arange(NODES) % 3 == code for code, name in enumerate(("train_mask", "val_mask", "test_mask"))}
    y = torch.tensor([int(community(i) == "right") for i in range(NODES)])
    y[0] = -1
    torch.save(data_module.Data(x=x, edge_index=half, y=y, **masks), tmp_path / "g.pt")
    task = opened(open_pyg, tmp_path / "g.pt")
    assert task.graph["nodes"].layout == torch.sparse_csr
    assert task.graph["nodes"].values().unique().tolist() == [1.0]
    assert task.splits["train"]["selected"].tolist() == list(range(3, NODES, 3))


def test_karate_is_the_known_graph():
    task = karate()
    assert task.graph["edges"].shape[1] == 2 * 78
    assert len(task.graph["nodes"]) == 34
    graph = networkx.karate_club_graph()
    same = sum(graph.nodes[u]["club"] == graph.nodes[v]["club"] for u, v in graph.edges)
    assert task.homophily() == pytest.approx(same / 78)


def test_edge_homophily_looks_past_loops_and_unknown_ends():
    edges = torch.tensor([[0, 1, 2, 0, 3], [1, 2, 2, 3, 0]])
    assert edge_homophily(edges, torch.tensor([0, 0, 1, -1])) == 0.5
    assert edge_homophily(edges[:, 2:3], torch.tensor([0, 0, 1, -1])) is None


def test_few_labels_nest_and_count():
    label = np.repeat(np.arange(3), 40)
    small, large = (few_labels(label, count, 10, seed=1) for count in (2, 20))
    assert np.bincount(label[large["train"]]).tolist() == [20, 20, 20]
    assert set(small["train"].tolist()) <= set(large["train"].tolist())
    assert torch.equal(small["validation"], large["validation"])
    with pytest.raises(ValueError, match="class 0 has 40 nodes"):
        few_labels(label, 30, 10, seed=1)


def test_vocabulary_and_bag_by_hand():
    texts = ["The cat sat", "the dog; the cat", "zebra"]
    words = vocabulary(texts)
    assert words == ["cat", "the"]  # in two texts each; others in one
    np.testing.assert_allclose(bag_of_words(texts, words).toarray(), [[0.5, 0.5], [0.5, 0.5], [0, 0]])


def test_parts_must_not_overlap():
    graph = karate().graph
    with pytest.raises(ValueError, match="two parts"):
        GraphTask("x", Class(2), graph, {"train": torch.tensor([0]), "test": torch.tensor([0])}, torch.zeros(34).long())
    with pytest.raises(ValueError, match="node 99"):
        GraphTask("x", Class(2), graph, {"train": torch.tensor([99])}, torch.zeros(34).long())


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("edges", "nodes", "message"),
    [
        (with_cell(ring_edges(), 4, "target", 99), None, r"edges\.csv, row 5, column 'target': node '99' is not in nodes\.csv"),
        (with_cell(ring_edges(), 2, "source", None), None, r"edges\.csv, row 3, column 'source' is empty"),
        (ring_edges().assign(weight=[-1.0] + [1.0] * 60), None, r"row 1, column 'weight': weight '-1\.0' is negative"),
        (with_cell(ring_edges().assign(weight=1.0), 7, "weight", "heavy"), None, "row 8, column 'weight': weight 'heavy' is not a number"),
        (None, node_table().assign(label="same"), "one class only"),
        (None, with_cell(node_table(), 9, "id", 3), r"nodes\.csv, row 10, column 'id': node '3' was already in row 4"),
        (None, node_table().assign(label=[f"c{i % 20}" for i in range(NODES)]), "30 examples for 20 classes"),
        (None, node_table().assign(label=["a", "b", "c"] + [None] * 27), "3 examples for 3 classes"),
        (None, node_table().assign(label=None), "'label' cannot be the target: it is empty"),
        (None, node_table().assign(split=["train", "tset"] * 15), "row 2, column 'split': 'tset' names no part"),
        (None, node_table().assign(split=["val", "test"] * 15), "no training part"),
        (None, node_table()[["id"]], "no column that could be the target"),
        ("source,target\n", None, r"edges\.csv has a header but no rows"),
        ("", None, r"edges\.csv is empty"),
        ("source\n1\n2\n", None, "an edge has two ends"),
        ("source,target\n0,1\n0\n", None, r"edges\.csv, row 2 \(line 3\)"),
    ],
)
def test_wrong_tables_are_refused_with_the_place(folder, edges, nodes, message):
    with pytest.raises(UserError, match=message):
        opened(open_edge_list, folder(edges=edges, nodes=nodes))


def test_without_a_usual_name_the_last_column_that_can_be_is_the_target_and_it_is_said(folder):
    nodes = node_table().rename(columns={"label": "camp"}).assign(split=["train", "val", "test"] * (NODES // 3))
    task = opened(open_edge_list, folder(nodes=nodes))  # the split's column is last, and no target
    assert any("The target is column 'camp' (the last one that can be)" in note for note in task.notes)
    assert task.signature.output == opened(open_edge_list, folder()).signature.output


def test_unknown_target_offers_near_names(folder):
    with pytest.raises(UserError, match=r"no column 'lable' for --target: did you mean 'label'"):
        opened(open_edge_list, folder(), target="lable")


def test_missing_tables_are_refused(tmp_path):
    with pytest.raises(UserError, match="no edge list"):
        opened(open_edge_list, tmp_path)
    ring_edges().to_csv(tmp_path / "edges.csv", index=False)
    with pytest.raises(UserError, match="no table of nodes"):
        opened(open_edge_list, tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        opened(open_edge_list, tmp_path / "nowhere")


class Attack:
    def __reduce__(self):
        return (Path.touch, (Path("/nowhere/ran"),))


def test_foreign_files_are_refused_and_nothing_in_them_runs(tmp_path):
    (tmp_path / "bad.graphml").write_text("<graphml><node")
    with pytest.raises(UserError, match="cannot be read as GraphML"):
        opened(open_graphml, tmp_path / "bad.graphml")
    torch.save({"x": Attack()}, tmp_path / "attack.pt")
    with pytest.raises(UserError, match="more than the plain tensors"):
        opened(open_pyg, tmp_path / "attack.pt")
    (tmp_path / "broken.pt").write_bytes(b"no torch file")
    with pytest.raises(UserError, match="cannot be read as a torch_geometric Data"):
        opened(open_pyg, tmp_path / "broken.pt")
    torch.save({"x": torch.zeros(3, 1), "edge_index": torch.tensor([[0, 7], [1, 0]]), "y": torch.tensor([0, 1, 0])}, tmp_path / "d.pt")
    with pytest.raises(UserError, match="node 7 is not in x"):
        opened(open_pyg, tmp_path / "d.pt")
    both = torch.ones(3, dtype=torch.bool)
    stored = {"x": torch.zeros(3, 1), "edge_index": torch.tensor([[0], [1]]), "y": torch.tensor([0, 1, 0])}
    torch.save({**stored, "train_mask": both, "test_mask": both}, tmp_path / "m.pt")
    with pytest.raises(UserError, match="node 0 is in two parts"):
        opened(open_pyg, tmp_path / "m.pt")
