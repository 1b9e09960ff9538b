import pytest
import torch
from torch import nn

from assay.contracts import Class, Image, Series, Signature, Tokens, Values
from assay.measure import count_flops, parameter_count
from assay.models import build
from assay.models.vision.simplenet import PoolThenNorm, SimpleNet, SimpleNetFamily
from assay.models.vision.simplenet_tables import STRIDE_MODES, TABLES, output_size, read_table, with_strides
from assay.models.vision.simplenet_variants import VARIANTS, load_published, simplenet

COUNTS = {
    ("simplenet_cifar_5m", 10): 5_498_378,
    ("simplenet_cifar_5m", 100): 5_521_508,
    ("simplenet_cifar_5m_extra_pool", 10): 5_498_378,
    ("simplenet_cifar_310k", 10): 312_362,
    ("simplenet_cifar_310k", 100): 318_212,
    ("simplenet_cifar_460k", 10): 385_790,
    ("simplenet_cifar_460k", 100): 394_880,
    ("simplenetv1_small_m1_05", 1000): 1_506_792,
    ("simplenetv1_small_m2_05", 1000): 1_506_792,
    ("simplenetv1_small_m1_075", 1000): 3_287_272,
    ("simplenetv1_small_m2_075", 1000): 3_287_272,
    ("simplenetv1_5m_m1", 1000): 5_752_808,
    ("simplenetv1_5m_m2", 1000): 5_752_808,
    ("simplenetv1_9m_m1", 1000): 9_508_968,
    ("simplenetv1_9m_m2", 1000): 9_508_968,
}


def convolutions(network):
    return [module for module in network.modules() if isinstance(module, nn.Conv1d | nn.Conv2d)]


@pytest.mark.parametrize(("name", "classes"), COUNTS)
def test_parameter_counts_are_the_official_ones(name, classes):
    with torch.device("meta"):
        assert parameter_count(simplenet(name, classes)) == COUNTS[name, classes]


def test_the_460k_network_of_the_paper_is_the_original_form():
    with torch.device("meta"):
        assert parameter_count(simplenet("simplenet_cifar_460k", 10, original=True)) == 455_862


@pytest.mark.parametrize("name", VARIANTS)
def test_thirteen_convolutions_and_one_linear_map(name):
    with torch.device("meta"):
        network = simplenet(name)
    assert len(convolutions(network)) == 13
    assert sum(isinstance(module, nn.Linear) for module in network.modules()) == 1


def test_five_resolutions_at_32():
    sides = []
    with torch.device("meta"):
        network = simplenet("simplenet_cifar_5m").eval()
        for module in convolutions(network):
            module.register_forward_hook(lambda _, __, y: sides.append((y.shape[1], y.shape[2])))
        network(torch.empty(1, 3, 32, 32))
    widths = [64, 128, 128, 128, 128, 128, 256, 256, 256, 512, 2048, 256, 256]
    assert sides == list(zip(widths, [32] * 4 + [16] * 3 + [8] * 2 + [4] * 3 + [2], strict=True))


@pytest.mark.parametrize(
    ("name", "millions"), [("simplenetv1_small_m1_05", 341), ("simplenetv1_small_m2_05", 428), ("simplenetv1_small_m2_075", 954),
                           ("simplenetv1_5m_m1", 1342), ("simplenetv1_5m_m2", 1689), ("simplenetv1_9m_m2", 3555)],
)  # fmt: skip
def test_multiply_adds_at_224_are_the_counted_ones(name, millions):
    with torch.device("meta"):
        network = simplenet(name).eval()
        operations = count_flops(network, torch.empty(1, 3, 224, 224))
    assert round(operations / 2e6) == millions


@pytest.mark.parametrize("mode", [0, 1, 2, 3, 4])
def test_stride_modes_give_the_sizes_of_the_formula(mode):
    network = SimpleNet(4, 1, stages="imagenet-5m", width=0.05, stride_mode=mode).eval()
    for side in (32, 45, 64):
        expected = side
        for place, entry in enumerate(read_table("imagenet-5m")):
            stride = 2 if entry.is_pool else STRIDE_MODES[mode].get(place, 1)
            # a 3×3 kernel with padding 1: floor((n − 1) / s) + 1
            expected = expected // 2 if entry.is_pool else (expected - 1) // stride + 1
        assert network.feature_map(torch.zeros(1, 1, side, side)).shape[2:] == (expected, expected)
        assert output_size(network.entries, side) == expected


def test_a_stride_mode_of_ones_own_may_have_gaps():
    entries = with_strides(read_table("imagenet-5m"), {0: 2, 4: 2})
    assert [entry.stride for entry in entries[:6]] == [2, 1, 1, 1, 2, 1]


def test_unknown_stride_mode_and_tables_are_refused():
    with pytest.raises(ValueError, match=r"stride_mode.*7"):
        SimpleNet(10, stride_mode=7)
    with pytest.raises(ValueError, match="cifar-5x"):
        SimpleNet(10, stages="cifar-5x")


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "simplenet_tiny"])
def test_too_small_pictures_are_refused_and_the_tiny_network_takes_them(name):
    with torch.device("meta"):
        network = simplenet(name, in_channels=1).eval()
        with pytest.raises(ValueError, match=f"at least {network.smallest}"):
            network(torch.empty(1, 1, 8, 8))
    assert simplenet("simplenet_tiny").eval()(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_sides_of_15_are_refused_and_16_is_enough():
    network = simplenet("simplenet_cifar_310k").eval()
    with pytest.raises(ValueError, match="at least 16"):
        network(torch.zeros(1, 3, 32, 15))
    assert network(torch.zeros(1, 3, 16, 16)).shape == (1, 10)
    with pytest.raises(ValueError, match="at least 32"):  # the early port has a pool too many
        simplenet("simplenet_cifar_5m_extra_pool").eval()(torch.zeros(1, 3, 16, 16))


def test_the_originals_fifth_pool_is_global_pooling_at_32():
    network = simplenet("simplenet_cifar_460k", original=True).eval()
    x = torch.randn(2, 3, 32, 32)
    pooled = network.head_pool(network.feature_map(x)).flatten(1)
    assert torch.equal(pooled, network.feature_map(x).amax((2, 3)))
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network.modules()) == 10


def test_the_originals_seventh_unit_differs_where_the_scale_is_negative():
    torch.manual_seed(0)
    network = simplenet("simplenet_cifar_310k", original=True).eval()
    odd = next(layer for layer in network.features if isinstance(layer, PoolThenNorm))
    x = torch.randn(2, 32, 8, 8)

    def norm_first():
        return nn.functional.max_pool2d(odd.norm(odd.convolution(x)).relu(), 2)

    assert torch.allclose(odd(x), norm_first(), atol=1e-6)
    nn.init.constant_(odd.norm.weight, -1.0)
    assert not torch.allclose(odd(x), norm_first(), atol=1e-2)


def flat_peer(table, classes, channels):
    """The network as the authors lay it out: one flat sequence of torch's own layers."""
    layers = []
    for text in TABLES[table].split():
        if text == "P":
            layers += [nn.MaxPool2d(2), nn.Dropout2d(0.0)]
            continue
        width, kernel = (int(text.removesuffix("x1")), 1) if text.endswith("x1") else (int(text), 3)
        layers += [nn.Conv2d(channels, width, kernel, padding=kernel // 2), nn.BatchNorm2d(width, momentum=0.05), nn.ReLU()]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def test_a_checkpoint_with_the_authors_layout_loads_by_order_and_predicts_the_same():
    torch.manual_seed(0)
    peer = flat_peer("cifar-310k", 7, 3)
    x = torch.randn(6, 3, 32, 32)
    peer.train()(x)  # statistics away from zero and one
    network = simplenet("simplenet_cifar_310k", 7)
    load_published(network, peer.state_dict())
    assert torch.allclose(network.eval()(x), peer.eval()(x), atol=1e-5)
    with pytest.raises(ValueError, match="not the same variant"):
        load_published(simplenet("simplenet_cifar_310k", 7), dict(list(peer.state_dict().items())[2:]))


def test_a_shift_by_the_total_stride_leaves_the_logits_unchanged():
    # with global maximum and a constant background; the blob stays further from the border than half the receptive field
    torch.manual_seed(0)
    network = SimpleNet(5, 1, width=0.06, global_pool="max").eval()
    first, second = torch.zeros(2, 1, 1, 320, 320)
    blob = torch.randn(16, 16)
    first[..., 140:156, 140:156] = blob
    second[..., 156:172, 124:140] = blob
    assert torch.allclose(network(first), network(second), atol=1e-5)
    assert not torch.allclose(network(first), network(torch.zeros(1, 1, 320, 320)), atol=1e-3)


def test_dropout_presets_have_their_places():
    cifar = SimpleNet(10, dropout=0.2)
    rates = [entry.dropout for entry in cifar.entries]
    # none directly before a pool (the pool's own serves), none on the last
    assert rates == [0.2, 0.2, 0.2, 0, 0.2, 0.2, 0.2, 0, 0.2, 0.2, 0, 0.2, 0.2, 0.2, 0, 0.2, 0]
    with torch.device("meta"):
        imagenet = SimpleNet(10, stages="imagenet-5m", dropout=0.2)
    assert [entry.dropout for entry in imagenet.entries] == [0.2] * 14 + [0]
    by_place = SimpleNet(10, stages="cifar-310k", dropout={0: 0.1, 16: 0.3}, head_dropout=0.5)
    assert by_place.features[0].dropout.p == 0.1
    assert by_place.features[16].dropout.p == 0.3
    with pytest.raises(ValueError, match="at 17"):
        SimpleNet(10, dropout={17: 0.1})


@pytest.mark.parametrize(("options", "whole"), [({}, True), ({"dropout_of": "values"}, False), ({"original": True}, False)])
def test_dropout_takes_whole_channels_or_single_values(options, whole):
    torch.manual_seed(0)
    network = SimpleNet(10, stages="cifar-310k", dropout=0.5, **options).train()
    maps = torch.ones(4, 64, 8, 8)
    for dropout in (network.features[0].dropout, network.features[4].dropout):  # of a unit, and of a pool
        shares = (dropout(maps) == 0).float().mean((2, 3))
        assert ((shares == 0) | (shares == 1)).all() == whole
        assert 0.4 < shares.mean() < 0.6


def test_dropout_of_values_changes_nothing_in_evaluation():
    torch.manual_seed(0)
    plain = SimpleNet(10, stages="cifar-310k", pools=2).eval()
    torch.manual_seed(0)
    dropping = SimpleNet(10, stages="cifar-310k", pools=2, dropout=0.2, dropout_of="values").eval()
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(plain(x), dropping(x))
    with pytest.raises(ValueError, match="'pixels'"):
        SimpleNet(10, dropout_of="pixels")


def test_a_batch_of_one_with_a_1x1_map_says_what_to_do():
    network = simplenet("simplenet_tiny").train()
    with pytest.raises(ValueError, match="use two examples"):
        network(torch.zeros(1, 1, 8, 8))


IMAGE = Signature(Image(1, 8, 8), Class(10))
SERIES = Signature(Series(3, 64), Class(4))
FORECAST = Signature(Series(2, 48), Values(2), horizon=6)


@pytest.mark.parametrize("signature", [IMAGE, Signature(Image(3, 32, 32), Class(10)), SERIES, Signature(Image(3, 96, 96), Values(2))])
@pytest.mark.parametrize("budget", [20_000, 50_000, 200_000, 2_000_000, 20_000_000])
def test_a_parameter_budget_is_met_within_two_percent(signature, budget):
    with torch.device("meta"):
        model = build("simplenet", signature, parameters=budget)
    assert abs(parameter_count(model) - budget) < 0.02 * budget


def test_the_family_takes_small_pictures_series_and_forecasts():
    batch = {"image": torch.randn(2, 1, 8, 8), "series": torch.randn(2, 64, 3)}
    assert build("simplenet", IMAGE, 20_000).eval()(batch).prediction.shape == (2, 10)
    assert build("simplenet", SERIES, 20_000).eval()(batch).prediction.shape == (2, 4)
    batch["series"] = torch.randn(2, 48, 2)
    assert build("simplenet", FORECAST, 20_000).eval()(batch).prediction.shape == (2, 6, 2)
    assert "pictures or series" in (SimpleNetFamily().accepts(Signature(Tokens(5, 5), Class(2))) or "")
    assert "one answer" in (SimpleNetFamily().accepts(Signature(Series(1, 9), Class(2), per_position=True)) or "")


def test_padding_of_a_series_does_not_change_its_prediction():
    torch.manual_seed(0)
    model = build("simplenet", SERIES, 20_000)
    series, mask = torch.randn(4, 64, 3), torch.ones(4, 64, dtype=torch.bool)
    mask[:, 32:] = False  # a multiple of the total stride
    model.train()({"series": series})
    model.eval()
    alone = model({"series": series[:, :32]}).prediction
    assert torch.allclose(model({"series": series, "mask": mask}).prediction, alone, atol=1e-6)
    series[:, 32:] = 1e6
    assert torch.allclose(model({"series": series, "mask": mask}).prediction, alone, atol=1e-6)
    assert not torch.allclose(model({"series": series}).prediction, alone, atol=1e-2)


def test_options_survive_json():
    # keys of a JSON object are text; the network must be the same after saving and loading its recipe
    first = build("simplenet", IMAGE, 20_000, dropout={0: 0.3})
    second = build("simplenet", IMAGE, 20_000, dropout={"0": 0.3})
    assert first.network.entries == second.network.entries
