"""Masks on any weight: same numbers as a weight with zeros written in, no gradient through them, and they survive a reload."""

import copy

import pytest
import torch
from torch import nn

from assay.contracts import Class, Signature, Tokens
from assay.models import build, load, save
from assay.models.masking import apply_masks, fix_masks, keep_units, mask_of, masked_names, nonzero_parameters, set_masks, weight_of
from assay.models.surgery import apply
from assay.nn.recurrent.masked import MaskedRecurrentCell

LAYERS = {
    "linear": (lambda: nn.Linear(5, 4), "weight", (3, 5)),
    "convolution": (lambda: nn.Conv2d(2, 3, 3), "weight", (2, 2, 5, 5)),
    "lstm": (lambda: nn.LSTM(5, 4, 2, batch_first=True, bidirectional=True), "weight_hh_l1_reverse", (2, 6, 5)),
    "gru": (lambda: nn.GRU(5, 4, batch_first=True), "weight_ih_l0", (2, 6, 5)),
    "masked cell": (lambda: MaskedRecurrentCell(5, 4, "lstm"), "weight_hh", (2, 6, 5)),
}


def result(layer, x):
    y = layer(x)
    return y[0] if isinstance(y, tuple) else y


@pytest.mark.parametrize("kind", LAYERS)
def test_a_masked_layer_computes_with_zeros_in_the_weight(kind):
    make, name, shape = LAYERS[kind]
    torch.manual_seed(0)
    layer, x = make().double(), torch.randn(shape, dtype=torch.float64)
    mask = torch.rand(getattr(layer, name).shape) < 0.5
    plain = copy.deepcopy(layer)
    with torch.no_grad():
        getattr(plain, name).mul_(mask)
    set_masks(layer, {name: mask})
    torch.testing.assert_close(result(layer, x), result(plain, x), rtol=0, atol=1e-12)
    result(layer, x).square().sum().backward()
    result(plain, x).square().sum().backward()
    torch.testing.assert_close(weight_of(layer, name).grad, getattr(plain, name).grad * mask, rtol=0, atol=1e-12)
    twin = copy.deepcopy(layer)
    assert torch.equal(result(twin, x), result(layer, x))
    with torch.no_grad():
        weight_of(twin, name).add_(1.0)
    assert torch.equal(mask_of(twin, name), mask)
    assert not torch.allclose(result(twin, x), result(layer, x))


@pytest.mark.parametrize("kind", LAYERS)
def test_ten_steps_of_adam_with_weight_decay_leave_the_masked_entries_out(kind):
    make, name, shape = LAYERS[kind]
    torch.manual_seed(0)
    layer = make()
    mask = torch.rand(getattr(layer, name).shape) < 0.5
    set_masks(layer, {name: mask})
    before = result(layer, torch.ones(shape)).detach()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05, weight_decay=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        result(layer, torch.randn(shape)).square().sum().backward()
        assert torch.all(weight_of(layer, name).grad[~mask] == 0)
        optimizer.step()
    assert not torch.allclose(result(layer, torch.ones(shape)), before)
    fix_masks(layer)
    weight = getattr(layer, name)
    assert torch.all(weight[~mask] == 0)
    assert torch.all(weight[mask] != 0)


@pytest.mark.parametrize("kind", LAYERS)
def test_fixed_masks_leave_a_plain_layer_with_the_same_output(kind):
    make, name, shape = LAYERS[kind]
    layer, x = make(), torch.randn(shape)
    keys = set(layer.state_dict())
    set_masks(layer, {name: torch.rand(getattr(layer, name).shape) < 0.5})
    masked = result(layer, x)
    fix_masks(layer)
    assert set(layer.state_dict()) == keys
    assert torch.equal(result(layer, x), masked)
    with torch.no_grad():  # the layer holds its own weights again: a change shows
        getattr(layer, name).fill_(0.3)
    assert not torch.equal(result(layer, x), masked)


def test_sparsity_is_what_the_masks_say():
    layer = nn.Sequential(nn.Linear(10, 10), nn.GRU(10, 3))
    set_masks(layer, {"0.weight": torch.arange(100).view(10, 10) < 30, "1.weight_hh_l0": torch.zeros(9, 3, dtype=torch.bool)})
    assert nonzero_parameters(layer) == sum(p.numel() for p in layer.parameters()) - 70 - 27
    assert masked_names(layer) == ["0.weight", "1.weight_hh_l0"]


@pytest.mark.parametrize("name", ["lstm", "masked-gru", "recurrent-classifier"])
def test_masks_survive_a_reload_from_the_folder_alone(name, tmp_path):
    torch.manual_seed(0)
    model = build(name, Signature(Tokens(9, 7), Class(3)), parameters=3_000)
    names = [key for key, value in model.named_parameters() if value.ndim == 2 and "weight" in key and "embedding" not in key]
    model = apply(model, {"edit": "mask", "fraction": 0.5, "names": names})
    set_masks(model, {key: torch.rand(weight_of(model, key).shape) < 0.5 for key in names})
    save(model.eval(), tmp_path)
    again = load(tmp_path)
    batch = {"tokens": torch.randint(0, 9, (4, 7)), "mask": torch.ones(4, 7, dtype=torch.bool)}
    assert torch.equal(again(batch).prediction, model(batch).prediction)
    assert nonzero_parameters(again) == nonzero_parameters(model) < 3_000 * 0.8


def test_kept_units_survive_a_reload(tmp_path):
    torch.manual_seed(0)
    model = build("recurrent-classifier", Signature(Tokens(9, 7), Class(3)), parameters=3_000, mode="lstm").eval()
    model = apply(model, {"edit": "keep", "layer": 1, "units": [0, 2, 3]})
    save(model, tmp_path)
    batch = {"tokens": torch.randint(0, 9, (4, 7)), "mask": torch.ones(4, 7, dtype=torch.bool)}
    assert torch.equal(load(tmp_path)(batch).prediction, model(batch).prediction)


def test_wrong_names_and_shapes_say_so():
    layer = nn.Linear(3, 2)
    with pytest.raises(ValueError, match=r"'bogus\.weight'"):
        apply_masks(layer, ["bogus.weight"])
    with pytest.raises(ValueError, match="'gain'"):
        apply_masks(layer, ["gain"])
    with pytest.raises(ValueError, match=r"\(2, 3\), got \(3, 2\)"):
        set_masks(layer, {"weight": torch.ones(3, 2, dtype=torch.bool)})
    with pytest.raises(ValueError, match="Linear cannot drop units"):
        keep_units(layer, 0, [0])
