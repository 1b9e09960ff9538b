"""Recurrent networks against plain stacks of torch layers, and graph networks against their definition written as loops."""

import networkx
import pytest
import torch
from torch import nn

from assay.contracts import Class, NextTokens, Series, Signature, Tokens
from assay.measure import count_flops
from assay.models import build, load, parameter_count, save
from assay.models.recurrent import GraphRecurrentFamily, GraphRecurrentNetwork, RecurrentClassifier, RecurrentClassifierFamily
from assay.nn.recurrent.layered import watts_strogatz
from assay.nn.recurrent.masked import GATES

MODES = list(GATES)
SIGNATURE = Signature(Tokens(128, 12), Class(2))


def some_batch(lengths=(12, 5, 1, 9), vocabulary=128):
    torch.manual_seed(9)
    mask = torch.arange(12) < torch.tensor(lengths)[:, None]
    return {"tokens": torch.randint(1, vocabulary, (len(lengths), 12)) * mask, "mask": mask}


def only(batch, row):
    length = int(batch["mask"][row].sum())
    return {"tokens": batch["tokens"][row : row + 1, :length]}


@pytest.mark.parametrize("mode", MODES)
def test_classifier_equals_a_stack_of_torch_layers_on_each_sequence_alone(mode):
    model = RecurrentClassifier(hidden=[6, 5, 4], mode=mode).double()
    batch = some_batch()
    kinds = {"rnn_tanh": nn.RNN, "rnn_relu": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
    options = {"nonlinearity": mode[4:]} if mode.startswith("rnn") else {}
    found = model(batch).prediction
    for row in range(4):
        y = model.embedding(only(batch, row)["tokens"])
        for cell in model.layers:
            peer = kinds[mode](cell.input_size, cell.hidden_size, batch_first=True, **options).double()
            with torch.no_grad():
                for name, parameter in cell.named_parameters():
                    getattr(peer, f"{name}_l0").copy_(parameter)
            y = peer(y)[0]
        torch.testing.assert_close(found[row], model.readout(y[0, -1]), rtol=0, atol=1e-10)


@pytest.mark.parametrize("mode", MODES)
def test_mask_need_not_be_on_the_right(mode):
    """Holes and padding on the left are skipped: the same symbols with or without them give the same prediction."""
    model = RecurrentClassifier(hidden=[4, 4], mode=mode).double()
    tokens = torch.tensor([[0, 7, 0, 8, 9], [7, 8, 9, 0, 0]])
    mask = torch.tensor([[False, True, False, True, True], [True, True, True, False, False]])
    first, second = model({"tokens": tokens, "mask": mask}).prediction
    torch.testing.assert_close(first, second, rtol=0, atol=1e-12)


def test_pad_readout_reads_through_the_padding_as_the_thesis_does():
    model = RecurrentClassifier(hidden=[6, 4], mode="gru", pad_readout=True).double()
    batch = some_batch()
    expected = model({"tokens": batch["tokens"]}).prediction
    assert torch.equal(model(batch).prediction, expected)
    model.pad_readout = False
    assert not torch.allclose(model(batch).prediction[1], expected[1])
    torch.testing.assert_close(model(batch).prediction[0], expected[0])


def reference_graph_network(model, tokens):
    """y_t = Σ_s R_{s→t}(y_s) (after), or one layer on all earlier outputs (before), one call of `step` at a time."""

    def run(cell, x):
        state, outputs = cell.initial_state(len(x)), []
        for t in range(x.shape[1]):
            y, state = cell.step(x[:, t], state)
            outputs.append(y)
        return torch.stack(outputs, 1)

    outputs = []
    for layer, sources in zip(model.layers, model.sources, strict=True):
        inputs = [outputs[s] for s in sources] or [model.embedding(tokens)]
        inputs = [torch.cat(inputs, -1)] if model.skips == "before" else inputs
        outputs.append(sum(run(cell, x) for cell, x in zip(layer, inputs, strict=True)))
    return model.readout(torch.stack([outputs[layer][:, -1, unit] for layer, unit in model.read], -1))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("variant", [{}, {"skips": "before"}, {"readout": "sinks", "units": 2}, {"embedding_dim": 7}])
def test_graph_network_equals_its_definition(mode, variant):
    torch.manual_seed(0)
    model = GraphRecurrentNetwork(watts_strogatz(16, seed=2), mode, **variant).double()
    batch = some_batch()
    found = model(batch).prediction
    for row in range(4):
        expected = reference_graph_network(model, only(batch, row)["tokens"])
        torch.testing.assert_close(found[row : row + 1], expected, rtol=0, atol=1e-10)
    assert len(model.readout.weight[0]) == model.units * (len(model.dag.sinks()) if "readout" in variant else len(model.dag.layers[-1]))


def test_wide_graph_network_runs_layer_by_layer_with_the_same_result(monkeypatch):
    import assay.nn.recurrent.parallel as parallel

    model = GraphRecurrentNetwork(watts_strogatz(16, seed=2), "lstm").double()
    batch = some_batch()
    fused = model(batch).prediction
    monkeypatch.setattr(parallel, "FUSED_WIDTH", 0)
    torch.testing.assert_close(model(batch).prediction, fused, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_path_graph_is_a_stack_of_single_units(mode):
    torch.manual_seed(0)
    graph = GraphRecurrentNetwork(networkx.path_graph(4), mode).double()
    stack = RecurrentClassifier(hidden=[1, 1, 1, 1], mode=mode).double()
    copy_into(stack, graph)
    batch = some_batch()
    torch.testing.assert_close(graph(batch).prediction, stack(batch).prediction, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_complete_bipartite_chain_is_a_dense_stack(mode):
    torch.manual_seed(0)
    edges = [(u, v) for u in (0, 1, 2) for v in (3, 4)] + [(u, v) for u in (3, 4) for v in (5, 6, 7)]
    graph = GraphRecurrentNetwork(edges, mode).double()
    assert all(cell.mask_ih.all() for layer in graph.layers for cell in layer)
    stack = RecurrentClassifier(hidden=[3, 2, 3], mode=mode).double()
    copy_into(stack, graph)
    batch = some_batch()
    torch.testing.assert_close(graph(batch).prediction, stack(batch).prediction, rtol=0, atol=1e-12)


def copy_into(stack, graph):
    stack.embedding.load_state_dict(graph.embedding.state_dict())
    stack.readout.load_state_dict(graph.readout.state_dict())
    for cell, layer in zip(stack.layers, graph.layers, strict=True):
        (only_cell,) = layer
        cell.load_state_dict(only_cell.state_dict())


def test_unconnected_nodes_have_no_influence():
    """Node 3 is heard only by 4: a change of its cell's input weights from anything but its predecessors changes nothing."""
    model = GraphRecurrentNetwork([(0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4)], "gru").double()
    batch = some_batch()
    before = model(batch).prediction
    with torch.no_grad():
        for layer in model.layers:
            for cell in layer:
                cell.weight_ih[~cell.mask_ih] = 1e3
    assert torch.equal(model(batch).prediction, before)


@pytest.mark.parametrize("mode", MODES)
def test_keeping_units_without_outgoing_weight_changes_nothing(mode):
    torch.manual_seed(0)
    model = RecurrentClassifier(hidden=[6, 5], mode=mode).double()
    with torch.no_grad():
        model.layers[0].weight_hh[:, [1, 4]] = 0
        model.layers[1].weight_ih[:, [1, 4]] = 0
        model.layers[1].weight_hh[:, 2] = 0
        model.readout.weight[:, 2] = 0
    batch = some_batch()
    before, size = model(batch).prediction, parameter_count(model)
    model.keep_units(0, [0, 2, 3, 5])
    model.keep_units(1, [0, 1, 3, 4])
    torch.testing.assert_close(model(batch).prediction, before, rtol=0, atol=1e-12)
    assert parameter_count(model) < size


@pytest.mark.parametrize("name", ["recurrent-classifier", "graph-recurrent"])
@pytest.mark.parametrize("mode", ["rnn_tanh", "lstm"])
def test_built_models_meet_the_budget_and_reload(name, mode, tmp_path):
    model = build(name, SIGNATURE, parameters=20_000, mode=mode).eval()
    assert abs(parameter_count(model) - 20_000) <= 400
    save(model, tmp_path)
    batch = some_batch()
    assert torch.equal(load(tmp_path)(batch).prediction, model(batch).prediction)


def test_operations_are_those_of_the_matrix_products():
    model = RecurrentClassifier(hidden=[8, 4], mode="gru")
    batch = {"tokens": torch.ones(3, 12, dtype=torch.long)}
    cells = 3 * 12 * (2 * 24 * (8 + 8) + 2 * 12 * (8 + 4))
    assert count_flops(model, batch) == cells + 3 * 2 * 4 * 2
    graph = GraphRecurrentNetwork([(0, 2), (1, 2), (2, 3), (0, 3)], "lstm")  # layers of 2, 1 and 1 units, one skip
    cells = 3 * 12 * (2 * 8 * (2 + 2) + 2 * 4 * (2 + 1) + 2 * 4 * (1 + 1) + 2 * 4 * (2 + 1))
    assert count_flops(graph, batch) == cells + 3 * 2 * 1 * 2


@pytest.mark.parametrize("family", [RecurrentClassifierFamily(), GraphRecurrentFamily()])
def test_families_refuse_other_data_with_a_reason(family):
    assert family.accepts(SIGNATURE) is None
    assert "Series" in family.accepts(Signature(Series(3, 9), Class(2)))
    assert "one class" in family.accepts(Signature(Tokens(9, 9), NextTokens(9)))


def test_a_class_at_every_position_is_that_of_the_sequence_which_ends_there():
    by_position = Signature(Tokens(128, 12), Class(2), per_position=True)
    assert "one class" in GraphRecurrentFamily().accepts(by_position)
    model = RecurrentClassifierFamily().network(by_position, 4, 1).double()
    batch = some_batch()
    found = model(batch).prediction
    assert found.shape == (4, 12, 2)
    model.per_position = False
    for end in range(1, 13):
        prefix = model({"tokens": batch["tokens"][:1, :end]}).prediction
        torch.testing.assert_close(found[0, end - 1], prefix[0], rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="choose one of them"):
        RecurrentClassifier(pad_readout=True, per_position=True)


def test_bad_arguments_name_the_value():
    edges = [(0, 1), (1, 2)]
    for arguments in ({"readout": "all"}, {"skips": "none"}, {"units": 0}, {"mode": "elman"}):
        with pytest.raises(ValueError, match=str(next(iter(arguments.values())))):
            GraphRecurrentNetwork(edges, **arguments)
    with pytest.raises(ValueError, match="'erdos'"):
        GraphRecurrentFamily().network(SIGNATURE, 1, 0, graph="erdos")
    with pytest.raises(ValueError, match="layer 3"):
        RecurrentClassifier(hidden=[2, 2]).keep_units(3, [0])
    with pytest.raises(ValueError, match=r"\[0, 7\]"):
        RecurrentClassifier(hidden=[2, 2]).keep_units(0, [0, 7])
