"""The published size, lengths that stay, and padding that has no say."""

import pytest
import torch

from assay import models
from assay.contracts import Class, Image, Series, Signature
from assay.errors import UserError
from assay.models.vision.fully_convolutional import FullyConvolutional


def test_parameters_are_the_published_ones_without_the_biases_that_norms_make_idle():
    network = FullyConvolutional(6)
    convolutions = 8 * 128 + 5 * 128 * 256 + 3 * 256 * 128
    assert sum(p.numel() for p in network.parameters()) == convolutions + 2 * (128 + 256 + 128) + 129 * 6


@pytest.mark.parametrize("length", [2, 15, 16])
def test_the_length_stays_until_the_mean(length):
    network = FullyConvolutional(3, in_channels=2, width=4).eval()
    assert network.features(torch.randn(5, 2, length)).shape == (5, 4, length)


def test_padding_is_not_in_the_mean():
    """Values behind the mask change nothing."""
    torch.manual_seed(0)
    network = FullyConvolutional(3, width=4).eval()
    x = torch.randn(2, 1, 40)
    mask = torch.ones(2, 40, dtype=torch.bool)
    mask[:, 30:] = False
    spoiled = x.clone()
    spoiled[:, :, 30:] = 1e3
    assert torch.equal(network(x, mask), network(spoiled, mask))


def test_it_is_built_for_series_alone():
    series = Signature(Series(1, 50), Class(4))
    assert not models.off_budget(models.build("fcn", series, 50_000), 50_000)
    with pytest.raises(UserError, match="reads series, not Image"):
        models.build("fcn", Signature(Image(1, 8, 8), Class(4)))
    with pytest.raises(ValueError, match="width must be at least 1"):
        FullyConvolutional(3, width=0)
