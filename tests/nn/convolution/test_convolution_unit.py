import pytest
import torch
from torch import nn

from assay.nn.convolution.unit import ConvolutionUnit


def test_it_is_convolution_norm_relu_dropout():
    torch.manual_seed(0)
    unit = ConvolutionUnit(3, 4, 3, stride=2, bias=True, epsilon=1e-3, momentum=0.05, dropout=0.5)
    peer = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4, eps=1e-3, momentum=0.05), nn.ReLU(), nn.Dropout2d(0.5))
    peer.load_state_dict(dict(zip(peer.state_dict(), unit.state_dict().values(), strict=True)))
    x = torch.randn(5, 3, 9, 9)
    for mode in (True, False):
        torch.manual_seed(1)
        expected = peer.train(mode)(x)
        torch.manual_seed(1)
        assert torch.allclose(unit.train(mode)(x), expected, atol=1e-6)
    assert torch.allclose(unit.norm.running_var, peer[1].running_var)


def test_same_padding_keeps_the_size_and_valid_shrinks_it():
    x = torch.zeros(1, 2, 10, 12)
    assert ConvolutionUnit(2, 1, (1, 7)).eval()(x).shape == (1, 1, 10, 12)
    assert ConvolutionUnit(2, 1, (7, 1)).eval()(x).shape == (1, 1, 10, 12)
    assert ConvolutionUnit(2, 1, 3, padding="valid").eval()(x).shape == (1, 1, 8, 10)


def test_in_one_dimension_a_pair_becomes_its_larger_size():
    unit = ConvolutionUnit(2, 3, (1, 7), dimensions=1)
    assert unit.convolution.kernel_size == (7,)
    assert unit.eval()(torch.zeros(1, 2, 20)).shape == (1, 3, 20)


@pytest.mark.parametrize(
    ("options", "word"), [({"dimensions": 3}, "dimensions"), ({"padding": "full"}, "padding"), ({"kernel": 0}, "kernel")]
)
def test_bad_arguments_are_named(options, word):
    with pytest.raises(ValueError, match=word):
        ConvolutionUnit(1, 1, **({"kernel": 3} | options))


def test_one_value_a_channel_cannot_be_trained_on_but_evaluated():
    unit = ConvolutionUnit(1, 2, 1)
    with pytest.raises(ValueError, match="two examples"):
        unit.train()(torch.zeros(1, 1, 1, 1))
    assert unit.eval()(torch.zeros(1, 1, 1, 1)).shape == (1, 2, 1, 1)
