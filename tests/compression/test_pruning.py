"""Magnitude pruning against numpy's percentile and torch's own pruning; gates, scopes and kinds each touch only their entries."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from assay.compression.pruning import (
    prunable_weights,
    prune_recurrent,
    prune_smallest,
    prune_weights,
    recurrent_weights,
    sparsity,
    threshold,
)
from assay.models.masking import mask_of, masks_of, weight_of
from assay.models.recurrent import GraphRecurrentNetwork, RecurrentClassifier


def test_threshold_of_the_worked_example():
    weights = torch.tensor([[0.685, 0.530, 0.464], [0.534, 0.828, 0.045], [0.123, 0.629, 0.014]])
    assert threshold(weights, 0.1) == pytest.approx(0.0388, abs=1e-4)
    layer = nn.Linear(3, 3)
    with torch.no_grad():
        layer.weight.copy_(weights)
    mask = prune_weights(layer, ["weight"], 0.1)["weight"]
    assert mask.tolist() == [[True] * 3, [True] * 3, [True, True, False]]


@pytest.mark.parametrize("fraction", [0.0, 0.137, 0.5, 0.9, 0.999])
def test_threshold_is_numpy_s_percentile(fraction):
    values = torch.rand(1003, generator=torch.Generator().manual_seed(0)).double()
    assert threshold(values, fraction) == pytest.approx(np.percentile(values.numpy(), 100 * fraction), rel=1e-12)


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.93])
def test_global_masks_equal_torch_s_global_l1_pruning(fraction):
    """Up to one entry: torch rounds the count where the percentile interpolates."""
    torch.manual_seed(0)
    model = RecurrentClassifier(hidden=[9, 7], mode="lstm")
    pairs = [(cell, name) for cell in model.layers for name in ("weight_ih", "weight_hh")]
    mine = prune_recurrent(model, fraction)
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=fraction)
    theirs = torch.cat([getattr(cell, f"{name}_mask").flatten() for cell, name in pairs]).bool()
    assert (torch.cat([mask.flatten() for mask in mine.values()]) != theirs).sum() <= 1


def test_layer_and_tensor_scope_prune_each_group_by_itself():
    torch.manual_seed(0)
    model = RecurrentClassifier(hidden=[10, 10], mode="gru")
    with torch.no_grad():
        model.layers[1].weight_ih.mul_(100)
    masks = prune_recurrent(model, 0.5, scope="tensor")
    assert all(mask.float().mean() == 0.5 for mask in masks.values())
    model = RecurrentClassifier(hidden=[10, 10], mode="gru")
    with torch.no_grad():
        model.layers[1].weight_ih.mul_(100)
    masks = prune_recurrent(model, 0.5, scope="layer")
    per_layer = [torch.cat([masks[f"layers.{i}.{n}"].flatten() for n in ("weight_ih", "weight_hh")]).float().mean() for i in (0, 1)]
    assert per_layer == [0.5, 0.5]
    assert masks["layers.1.weight_ih"].float().mean() > 0.9


@pytest.mark.parametrize(("kinds", "touched"), [({"i2h": False}, "weight_hh"), ({"h2h": False}, "weight_ih")])
def test_only_the_chosen_kind_is_pruned(kinds, touched):
    model = RecurrentClassifier(hidden=[6, 6], mode="lstm")
    masks = prune_recurrent(model, 0.7, **kinds)
    assert all(touched in name for name in masks)
    for name, mask in masks_of(model).items():
        assert mask.all() == (touched not in name)


@pytest.mark.parametrize("build", [lambda: nn.LSTM(6, 5, 2, bidirectional=True), lambda: RecurrentClassifier(hidden=[5, 5], mode="lstm")])
def test_pruning_a_gate_leaves_the_other_gates_whole(build):
    model = build()
    masks = prune_recurrent(model, 0.6, gates=["forget"])
    for mask in masks.values():
        i, f, g, o = mask.chunk(4)
        assert i.all()
        assert g.all()
        assert o.all()
        assert not f.all()
    forget = torch.cat([mask.chunk(4)[1].flatten() for mask in masks.values()])
    assert forget.float().mean() == pytest.approx(0.4, abs=1 / forget.numel())


def test_everything_and_nothing():
    model = RecurrentClassifier(hidden=[6, 6], mode="gru")
    prune_recurrent(model, 0.0)
    assert sparsity(model) == 0
    prune_recurrent(model, 1.0, i2h=False)
    assert not any(mask.any() for name, mask in masks_of(model).items() if "weight_hh" in name)
    assert all(mask.all() for name, mask in masks_of(model).items() if "weight_ih" in name)


def test_pruning_again_counts_open_entries_only_and_never_reopens():
    """Half of the open entries, twice, leaves a quarter."""
    torch.manual_seed(0)
    layer = nn.Linear(20, 20)
    first = prune_weights(layer, ["weight"], 0.5)["weight"]
    with torch.no_grad():
        weight_of(layer, "weight")[~first] = 100.0
    second = prune_weights(layer, ["weight"], 0.5)["weight"]
    assert not (second & ~first).any()
    assert second.float().mean() == 0.25
    assert sparsity(layer) == 0.75


def test_equal_weights_are_parted_by_count_where_a_threshold_cannot():
    layer = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 5))
    with torch.no_grad():
        layer[0].weight.zero_()
        layer[1].weight.fill_(-2.0)
    eligible = {"0.weight": torch.ones(4, 5, dtype=torch.bool), "1.weight": torch.ones(5, 4, dtype=torch.bool)}
    assert all(mask.all() for mask in prune_weights(layer, eligible, 0.25).values())
    prune_smallest(layer, eligible, 23)
    assert not masks_of(layer)["0.weight"].any()
    assert int((~masks_of(layer)["1.weight"]).sum()) == 3


def test_structural_zeros_of_a_graph_network_stay_closed_and_are_not_counted():
    model = GraphRecurrentNetwork([(0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4)], "gru")
    before = {name: mask.clone() for name, mask in masks_of(model).items()}
    open_before = sum(int(mask.sum()) for mask in before.values())
    after = prune_recurrent(model, 0.5)
    assert not any((after[name] & ~before[name]).any() for name in after)
    assert sum(int(mask.sum()) for mask in after.values()) == pytest.approx(open_before / 2, abs=1)


def test_what_may_be_pruned():
    model = nn.ModuleDict(
        {"e": nn.Embedding(9, 4), "a": nn.MultiheadAttention(4, 2), "c": nn.Conv1d(4, 4, 3), "n": nn.LayerNorm(4), "g": nn.GRU(4, 4)}
    )
    model["tied"] = nn.Linear(4, 9, bias=False)
    model["tied"].weight = model["e"].weight
    assert set(prunable_weights(model)) == {"a.in_proj_weight", "a.out_proj.weight", "c.weight", "g.weight_ih_l0", "g.weight_hh_l0"}
    found = [(w.name, w.kind, len(w.gates)) for w in recurrent_weights(model)]
    assert found == [
        ("g.weight_ih_l0", "i2h", 3),
        ("g.weight_hh_l0", "h2h", 3),
    ]
    x = torch.randn(3, 2, 4)
    prune_weights(model, ["a.in_proj_weight", "g.weight_hh_l0"], 1.0)
    prune_weights(model, ["c.weight"], 0.5)
    assert torch.equal(model["a"](x, x, x)[0], model["a"].out_proj(torch.zeros(3, 2, 4)))
    assert mask_of(model, "c.weight").float().mean() == 0.5


def test_bad_arguments_name_the_value():
    model = RecurrentClassifier(hidden=[3, 3], mode="lstm")
    for arguments, message in (
        ({"fraction": 1.2}, "1.2"),
        ({"fraction": -0.1}, "-0.1"),
        ({"fraction": 0.5, "i2h": False, "h2h": False}, "neither"),
        ({"fraction": 0.5, "scope": "row"}, "'row'"),
        ({"fraction": 0.5, "gates": ["reset"]}, "reset"),
    ):
        with pytest.raises(ValueError, match=message):
            prune_recurrent(model, **arguments)
    with pytest.raises(ValueError, match="Linear has no recurrent layer"):
        prune_recurrent(nn.Linear(3, 3), 0.5)
