import pytest
import torch

from assay.contracts import Class, Image, Series, Signature
from assay.measure import parameter_count
from assay.models import build
from assay.models.vision.resnet import ResNet, resnet18, resnet50
from assay.models.vision.vgg import VGG16


@pytest.mark.parametrize(("maker", "count"), [(resnet18, 11_689_512), (resnet50, 25_557_032), (VGG16, 138_357_544)])
def test_counts_are_the_published_ones(maker, count):
    with torch.device("meta"):
        network = maker()
        assert parameter_count(network) == count
        assert network.eval()(torch.empty(1, 3, 224, 224)).shape == (1, 1000)


@pytest.mark.parametrize("signature", [Signature(Image(1, 8, 8), Class(10)), Signature(Series(1, 24), Class(2))])
@pytest.mark.parametrize("budget", [20_000, 200_000, 2_000_000])
def test_a_parameter_budget_is_met_within_two_percent(signature, budget):
    with torch.device("meta"):
        model = build("resnet", signature, parameters=budget)
    assert abs(parameter_count(model) - budget) < 0.02 * budget


def test_the_shortcut_is_the_identity_where_shapes_agree():
    network = ResNet(10, 1)
    shortcuts = [unit.shortcut for unit in network.features]
    assert [sum(p.numel() for p in shortcut.parameters()) > 0 for shortcut in shortcuts] == [False] * 3 + [True, False, False] * 2


def test_without_shortcuts_the_same_layers_are_a_plain_stack():
    """What is missing is the convolutions of shortcuts that change shape, and a unit whose branch is zero gives zero."""
    plain, residual = ResNet(10, 1, shortcuts=False), ResNet(10, 1)
    shortcuts = sum(parameter_count(unit.shortcut) for unit in residual.features)
    assert shortcuts > 0
    assert parameter_count(plain) == parameter_count(residual) - shortcuts
    x = torch.randn(2, 16, 4, 4).relu()
    for network, passed_on in ((plain, torch.zeros_like(x)), (residual, x)):
        unit = network.features[0].eval()
        torch.nn.init.zeros_(unit.branch[1].convolution.weight)
        assert torch.equal(unit(x), passed_on)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="one number"):
        ResNet(10, depths=(3, 3))
    with pytest.raises(ValueError, match="224"):
        VGG16.forward(torch.nn.Module.__new__(VGG16), torch.zeros(1, 3, 32, 32))
