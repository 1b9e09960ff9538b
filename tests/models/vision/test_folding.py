import copy

import pytest
import torch
from torch import nn

from assay.models.vision.folding import fold_batchnorm
from assay.models.vision.inception import InceptionResNetV1, InceptionResNetV2, InceptionV4
from assay.models.vision.inception_fusion import FusedBranches, commute_mean_pool, fuse_inception
from assay.models.vision.resnet import ResNet
from assay.models.vision.simplenet import SimpleNet
from assay.nn.convolution.unit import ConvolutionUnit

CASES = {
    "simplenet": (lambda: SimpleNet(5, 3, width=0.1), (2, 3, 32, 32)),
    "simplenet 1-D": (lambda: SimpleNet(5, 3, width=0.1, dimensions=1), (2, 3, 40)),
    "simplenet original": (lambda: SimpleNet(5, 3, width=0.1, original=True), (2, 3, 32, 32)),
    "inception-v4": (lambda: InceptionV4(5, 3, 0.1, (1, 1, 1), "small"), (2, 3, 16, 16)),
    "inception-resnet-v1": (lambda: InceptionResNetV1(5, 3, 0.1, (1, 1, 1), "small"), (2, 3, 16, 16)),
    "inception-resnet-v2 1-D": (lambda: InceptionResNetV2(5, 3, 0.1, (1, 1, 2), stem="small", dimensions=1), (2, 3, 40)),
    "resnet": (lambda: ResNet(5, 3, widths=(4, 8, 16)), (2, 3, 16, 16)),
    "plain sequence": (lambda: nn.Sequential(nn.Conv1d(3, 4, 3, bias=False), nn.BatchNorm1d(4), nn.ReLU()), (2, 3, 9)),
}


def trained_looking(maker, shape):
    """A network whose statistics, scales and shifts are far from their initial values, with some negative scales."""
    torch.manual_seed(0)
    network = maker()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.weight, 0.7, 0.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.3, 2.0)
    return network.eval(), torch.randn(shape)


def norms(network):
    return sum(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("name", CASES)
def test_a_folded_network_predicts_the_same(name):
    network, x = trained_looking(*CASES[name])
    network, x = network.double(), x.double()
    expected = network(x).detach()
    folded = fold_batchnorm(copy.deepcopy(network))
    assert torch.allclose(folded(x), expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))
    # the original network's seventh unit pools before it normalises, which cannot be folded
    assert norms(folded) == (1 if name == "simplenet original" else 0)
    single = fold_batchnorm(copy.deepcopy(network).float())(x.float()).detach()
    assert float((single - expected).abs().max() / expected.abs().max()) < 1e-5


def test_folding_keeps_the_mode_and_refuses_what_has_nothing_to_fold():
    network = fold_batchnorm(SimpleNet(5, width=0.1).train())
    assert all(module.training for module in network.modules())
    with pytest.raises(ValueError, match="no convolution"):
        fold_batchnorm(network)


@pytest.mark.parametrize("name", ["inception-v4", "inception-resnet-v1", "inception-resnet-v2 1-D"])
def test_fused_branches_predict_the_same_with_fewer_convolutions(name):
    network, x = trained_looking(*CASES[name])
    network, x = network.double(), x.double()
    expected = network(x).detach()
    before = sum(isinstance(module, nn.Conv1d | nn.Conv2d) for module in network.modules())
    fused = fuse_inception(copy.deepcopy(network))
    assert torch.allclose(fused(x), expected, rtol=1e-9, atol=1e-10 * float(expected.abs().max()))
    assert sum(isinstance(module, nn.Conv1d | nn.Conv2d) for module in fused.modules()) < before
    assert any(isinstance(module, FusedBranches) for module in fused.modules())


def test_mean_pool_and_pointwise_convolution_commute_at_the_border_too():
    torch.manual_seed(0)
    unit = ConvolutionUnit(6, 3, 1, bias=True, normalise=False)
    branch = nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), unit)
    x = torch.randn(2, 6, 5, 5)
    assert torch.allclose(commute_mean_pool(branch)(x), branch(x), atol=1e-6)
    counted = nn.Sequential(nn.AvgPool2d(3, 1, 1), unit)  # counts the padding: its weights do not sum to one at the border
    with pytest.raises(ValueError, match="padding"):
        commute_mean_pool(counted)


def test_there_must_be_something_to_fuse():
    with pytest.raises(ValueError, match="no branches"):
        fuse_inception(SimpleNet(5, width=0.1))
