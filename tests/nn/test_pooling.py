import pytest
import torch
from torch import nn

from assay.nn.pooling import SAFPool1d, SAFPool2d, global_pool


@pytest.mark.parametrize(("part", "peer", "shape"), [(SAFPool2d, nn.MaxPool2d(2), (3, 5, 8, 6)), (SAFPool1d, nn.MaxPool1d(2), (3, 5, 8))])
def test_saf_pool_is_max_pool_without_dropout_and_in_evaluation(part, peer, shape):
    x = torch.randn(shape)
    assert torch.equal(part(0.0).train()(x), peer(x))
    assert torch.equal(part(0.7).eval()(x), peer(x))


def test_saf_pool_drops_whole_channels_and_scales_the_others():
    torch.manual_seed(0)
    x = torch.rand(8, 64, 4, 4) + 1
    ratio = SAFPool2d(0.25).train()(x) / nn.MaxPool2d(2)(x)
    # each channel of each picture is either all zero or all scaled by 1 / (1 - p)
    assert torch.allclose(ratio.amax((2, 3)), ratio.amin((2, 3)))
    kept = ratio.amax((2, 3))
    assert kept.round(decimals=4).unique().tolist() == pytest.approx([0.0, 1 / 0.75], abs=1e-4)
    assert 0.65 < float((kept > 0).float().mean()) < 0.85


@pytest.mark.parametrize("kind", ["max", "average"])
def test_masked_global_pooling_sees_real_positions_only(kind):
    x = torch.randn(2, 3, 10)
    mask = torch.ones(2, 10, dtype=torch.bool)
    mask[0, 6:] = False
    expected = torch.stack([global_pool(x[:1, :, :6], kind)[0], global_pool(x[1:], kind)[0]])
    assert torch.allclose(global_pool(x, kind, mask), expected)


def test_a_mask_follows_a_shorter_map():
    x = torch.tensor([[[1.0, 2.0, 30.0, 40.0]]])
    mask = torch.tensor([[True, True, True, False, False, False, False, False]])
    assert global_pool(x, "max", mask).item() == 2.0  # three real positions touch the first two of four
    assert global_pool(x, "average", mask).item() == 1.5


def test_a_series_without_real_positions_gives_zero_not_nan():
    x, mask = torch.randn(1, 2, 4), torch.zeros(1, 4, dtype=torch.bool)
    assert torch.equal(global_pool(x, "max", mask), torch.zeros(1, 2))
    assert torch.equal(global_pool(x, "average", mask), torch.zeros(1, 2))


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'sum'"):
        global_pool(torch.zeros(1, 1, 2), "sum")  # type: ignore[arg-type]
