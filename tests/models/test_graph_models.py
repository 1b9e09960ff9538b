"""Graph networks: published parameter counts, agreement with torch_geometric's own layers, sparse features, and the building contract."""

from __future__ import annotations

import pytest
import torch

from assay.contracts import Class, Graph, Series, Signature, Values
from assay.models import build, load, off_budget, parameter_count, save
from assay.models.graph import DAGNN, APPNPNetwork, DecoupledGNN, EntangledGCN, FeatureMLP, GATNetwork, SGCNetwork

pytest.importorskip("torch_geometric")
NAMES = ["dagnn", "decoupled-gnn", "gcn", "gat", "appnp", "sgc"]


def graph(nodes: int = 30, edges: int = 60) -> torch.Tensor:
    half = torch.randint(0, nodes, (2, edges), generator=torch.Generator().manual_seed(0))
    half = half[:, half[0] != half[1]]
    return torch.cat([half, half.flip(0)], dim=1).unique(dim=1)


def bag_of_words(nodes: int = 30, words: int = 40) -> torch.Tensor:
    x = torch.rand(nodes, words, generator=torch.Generator().manual_seed(1))
    return torch.where(x > 0.9, x, 0.0)


def test_ogbn_arxiv_variant_has_the_published_count():
    assert parameter_count(DAGNN(128, 40, 256, 16, dropout=0.2, norm="batch", input_dropout=0.0)) == 43_857


def test_count_is_the_formula_and_hops_are_free():
    d, h, c = 100, 17, 7
    for hops in (0, 5, 30):
        assert parameter_count(DAGNN(d, c, h, hops)) == d * h + h + h * c + c + c + 1


def test_decoupled_without_hops_is_the_mlp():
    torch.manual_seed(0)
    model, x = DecoupledGNN(40, 3, 16, num_hops=0).eval(), bag_of_words()
    torch.testing.assert_close(model(x, graph()), model.transform(x), rtol=0, atol=0)


def test_dagnn_is_its_definition():
    torch.manual_seed(0)
    model, x, edges = DAGNN(40, 3, 16, num_hops=2).eval(), bag_of_words(), graph()
    adjacency = torch.zeros(30, 30)
    adjacency[edges[1], edges[0]] = 1
    adjacency += torch.eye(30)
    scale = adjacency.sum(1).rsqrt()
    a = scale[:, None] * adjacency * scale
    z = model.transform(x)
    stack = torch.stack([z, a @ z, a @ a @ z], 1)
    scores = torch.sigmoid(model.propagation.score(stack))
    out, returned = model(x, edges, return_scores=True)
    torch.testing.assert_close(out, (scores * stack).sum(1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(returned, scores.squeeze(-1), rtol=1e-4, atol=1e-5)


def test_gcn_equals_torch_geometric_layers_that_normalise_themselves():
    from torch_geometric.nn import GCNConv

    torch.manual_seed(0)
    ours, x, edges = EntangledGCN(40, 3, 16, depth=3).eval(), bag_of_words(), graph()
    y = x
    for index, layer in enumerate(ours.layers):
        theirs = GCNConv(layer.in_channels, layer.out_channels)
        theirs.load_state_dict(layer.state_dict())
        y = theirs(y, edges)
        y = y.relu() if index < 2 else y
    torch.testing.assert_close(ours(x, edges), y, rtol=1e-4, atol=1e-6)


def test_sgc_equals_torch_geometric_on_raw_features():
    from torch_geometric.nn import SGConv

    torch.manual_seed(0)
    ours, x, edges = SGCNetwork(40, 3, num_hops=3).eval(), bag_of_words(), graph()
    theirs = SGConv(40, 3, K=3)
    theirs.load_state_dict({"lin.weight": ours.transform.weight, "lin.bias": ours.bias})
    torch.testing.assert_close(ours(x, edges), theirs(x, edges), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [DAGNN, DecoupledGNN, EntangledGCN, GATNetwork, APPNPNetwork, SGCNetwork])
def test_sparse_features_give_what_dense_ones_give(make):
    torch.manual_seed(0)
    model, x, edges = make(40, 3).eval(), bag_of_words(), graph()
    dense, sparse = model(x, edges), model(x.to_sparse_csr(), edges)
    torch.testing.assert_close(sparse, dense, rtol=1e-4, atol=1e-6)
    parameters = list(model.parameters())
    for one, other in zip(
        torch.autograd.grad(sparse.square().sum(), parameters), torch.autograd.grad(dense.square().sum(), parameters), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_batch_norm_and_residual_variants_run_in_training():
    x, edges = bag_of_words(), graph()
    for model in (DAGNN(40, 3, norm="batch"), EntangledGCN(40, 3, depth=5, residual=True, norm="layer")):
        out = model.train()(x.to_sparse_csr(), edges)
        assert torch.isfinite(out).all()
        assert out.shape == (30, 3)


@pytest.mark.parametrize("name", NAMES)
def test_families_build_predict_and_reload(name, tmp_path):
    signature = Signature(Graph(features=40, nodes=30, edges=120), Class(3))
    model = build(name, signature, parameters=20_000).eval()
    batch = {"nodes": bag_of_words(), "edges": graph(), "selected": torch.tensor([3, 1])}
    assert model(batch).prediction.shape == (2, 3)
    assert name == "sgc" or not off_budget(model, 20_000)
    save(model, tmp_path)
    torch.testing.assert_close(load(tmp_path)(batch).prediction, model(batch).prediction, rtol=0, atol=0)


def test_node_regression_has_one_column_a_value():
    model = build("dagnn", Signature(Graph(40, 30, 120), Values(2)), parameters=5_000)
    assert model({"nodes": bag_of_words(), "edges": graph(), "selected": torch.arange(5)}).prediction.shape == (5, 2)


def test_series_are_refused_with_a_reason():
    with pytest.raises(ValueError, match="not Series"):
        build("dagnn", Signature(Series(1, 10), Class(2)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DAGNN(4, 2, dropout=1.0), r"1\.0"),
        (lambda: DAGNN(4, 2, norm="instance"), "instance"),
        (lambda: DAGNN(4, 2, num_hops=-2), "-2"),
        (lambda: EntangledGCN(4, 2, depth=0), "0"),
        (lambda: EntangledGCN(4, 2, norm="batch"), "batch"),
        (lambda: APPNPNetwork(4, 2, alpha=2.0), r"2\.0"),
        (lambda: FeatureMLP(4, 4, 2, 0.1)(torch.zeros(3, 5)), r"\(nodes, 4\), not \(3, 5\)"),
    ],
)
def test_wrong_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
