import pytest
import torch
from torch import nn

from assay.contracts import Class, Image, Series, Signature, Values
from assay.measure import count_flops, parameter_count
from assay.models import build
from assay.models.vision.inception import InceptionResNetV1, InceptionResNetV2, InceptionV4
from assay.models.vision.inception_blocks import Builder, InceptionBlock, ReductionA, ResidualInception
from assay.models.vision.timm_names import load_timm, timm_names
from assay.nn.convolution.unit import ConvolutionUnit

NETWORKS = {
    "v4": (lambda **options: InceptionV4(1000, **options), 42_679_816, 12.25, [(384, 35), (1024, 17), (1536, 8)], 1536),
    "v1": (lambda **options: InceptionResNetV1(1000, **options), 22_756_328, 6.21, [(256, 35), (896, 17), (1792, 8)], 1792),
    "slim": (lambda **options: InceptionResNetV2(1000, **options), 55_843_464, 13.16, [(320, 35), (1088, 17), (2080, 8)], 1536),
    "paper": (
        lambda **options: InceptionResNetV2(1000, flavor="paper", **options), 32_433_928, 9.26, [(384, 35), (1152, 17), (2144, 8)], 2144,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_counts_costs_and_sizes_are_the_papers(name):
    maker, parameters, billions, stages, last = NETWORKS[name]
    with torch.device("meta"):
        network = maker().eval()
        seen = []
        for module in network.features:
            module.register_forward_hook(lambda _, __, y: seen.append((y.shape[1], y.shape[2])))
        operations = count_flops(network, torch.empty(1, 3, 299, 299))
    assert parameter_count(network) == parameters
    assert operations / 2e9 == pytest.approx(billions, abs=0.006)
    assert [size for size in dict.fromkeys(seen) if size in stages] == stages
    assert network.classifier.in_features == last


def test_table_1_drives_one_reduction():
    for table, inputs, outputs in (("inception-v4", 384, 1024), ("inception-resnet-v1", 256, 896), ("inception-resnet-v2", 320, 1088)):
        with torch.device("meta"):
            block = ReductionA(Builder(), inputs, ReductionA.TABLE_1[table])
            assert block(torch.empty(2, inputs, 35, 35)).shape == (2, outputs, 17, 17)


def test_the_small_stem_halves_less():
    with torch.device("meta"):
        network = InceptionV4(10, stem="small").eval()
        x = network.stem(torch.empty(1, 3, 32, 32))
        assert x.shape == (1, 384, 16, 16)
        sizes = []
        for module in network.features:
            x = module(x)
            sizes.append(tuple(x.shape[1:]))
    assert sizes[4] == (1024, 8, 8)
    assert sizes[-1] == (1536, 4, 4)


@pytest.mark.parametrize("maker", [InceptionV4, InceptionResNetV1, InceptionResNetV2])
def test_quarter_width_runs_at_32_and_the_imagenet_stem_wants_75(maker):
    network = maker(10, width=0.25, depths=(1, 1, 1), stem="small").eval()
    assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 10)
    large = maker(10, width=0.1, depths=(1, 1, 1)).eval()
    with pytest.raises(ValueError, match="75"):
        large(torch.zeros(1, 3, 40, 40))
    assert large(torch.zeros(1, 3, 75, 75)).shape == (1, 10)


def test_a_factorised_pair_sees_seven_by_seven():
    chain, _ = Builder().chain(1, "1x7:1 7x1:1")
    for unit in chain:
        nn.init.ones_(unit.convolution.weight)
    x = torch.zeros(1, 1, 15, 15)
    x[0, 0, 7, 7] = 1
    seen = (chain.eval()(x)[0, 0] > 0).nonzero()
    assert [unit.convolution.kernel_size for unit in chain] == [(1, 7), (7, 1)]
    assert seen.min(0).values.tolist() == [4, 4]
    assert seen.max(0).values.tolist() == [10, 10]
    assert len(seen) == 49


def test_the_mean_pool_leaves_out_the_padding():
    block = InceptionBlock(Builder(), 1, ["1:1"], pooled=1)
    pool = block.branches[1][0]
    assert torch.allclose(pool(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 4, 4))


def test_residual_units_scale_zero_is_the_identity():
    unit = ResidualInception(Builder(), 16, ["1:8", "1:8 3:8"], scale=0.0).eval()
    x = torch.rand(2, 16, 5, 5)
    assert torch.equal(unit(x), x)
    expand = unit.unit.branch[1]
    assert expand.bias is not None  # the expansion has a bias and no normalisation
    assert sum(isinstance(module, nn.BatchNorm2d) for module in unit.modules()) == 3


def test_slim_ends_undamped_without_relu():
    network = InceptionResNetV2(10, width=0.1, depths=(1, 1, 2), stem="small")
    units = [module for module in network.features if isinstance(module, ResidualInception)]
    assert [unit.unit.scale for unit in units] == [0.17, 0.10, 0.20, 1.0]
    assert isinstance(units[-1].unit.activation, nn.Identity)
    assert isinstance(units[-2].unit.activation, nn.ReLU)


def test_epsilon_is_a_thousandth_and_only_expansions_have_biases():
    network = InceptionV4(10, width=0.1, depths=(1, 1, 1), stem="small")
    assert {module.eps for module in network.modules() if isinstance(module, nn.BatchNorm2d)} == {1e-3}
    assert all(module.convolution.bias is None for module in network.modules() if isinstance(module, ConvolutionUnit))


def test_without_residual_sums_everything_else_stays():
    with torch.device("meta"):
        plain = InceptionResNetV1(10, width=0.25, stem="small", residual=False)
        summed = InceptionResNetV1(10, width=0.25, stem="small")
    kernels = [[tuple(p.shape) for p in net.parameters() if p.ndim == 4] for net in (plain, summed)]
    assert kernels[0] == kernels[1]


def test_a_state_dict_with_timms_names_loads_in_any_order():
    torch.manual_seed(0)
    source, target = (InceptionV4(7, width=0.1, depths=(1, 1, 1)) for _ in range(2))
    source.train()(torch.randn(2, 3, 80, 80))
    names = timm_names(source, (1, 1, 1))
    # names as they are in the public checkpoint
    assert {"features.0.conv.weight", "features.3.conv.bn.running_var", "features.4.branch1.3.conv.weight"} <= set(names.values())
    assert {"features.6.branch3.1.conv.weight", "features.9.branch1.3.bn.bias", "features.10.branch2_3b.conv.weight"} <= set(names.values())
    # with published depths the last block C is number 21
    with torch.device("meta"):
        assert "features.21.branch3.1.conv.weight" in timm_names(InceptionV4(1000)).values()
    foreign = {names[name]: tensor for name, tensor in source.state_dict().items()}
    load_timm(target, dict(sorted(foreign.items())), (1, 1, 1))
    x = torch.randn(2, 3, 80, 80)
    assert torch.equal(source.eval()(x), target.eval()(x))
    with pytest.raises(ValueError, match=r"no tensor 'last_linear\.bias'"):
        load_timm(target, {name: tensor for name, tensor in foreign.items() if name != "last_linear.bias"}, (1, 1, 1))


def test_the_released_residual_network_has_timms_names_and_shapes():
    with torch.device("meta"):
        network = InceptionResNetV2(1000)
    own = network.state_dict()
    shapes = {theirs: tuple(own[ours].shape) for ours, theirs in timm_names(network).items()}
    assert shapes["mixed_5b.branch1.1.conv.weight"] == (64, 48, 5, 5)
    assert shapes["repeat.9.branch2.2.conv.weight"] == (64, 48, 3, 3)
    assert shapes["repeat_1.19.branch1.2.conv.weight"] == (192, 160, 7, 1)
    assert shapes["repeat_2.8.conv2d.bias"] == (2080,)
    assert shapes["block8.branch1.1.conv.weight"] == (224, 192, 1, 3)
    assert shapes["mixed_7a.branch2.2.conv.weight"] == (320, 288, 3, 3)
    assert shapes["conv2d_7b.conv.weight"] == (1536, 2080, 1, 1)
    with pytest.raises(ValueError, match="no timm checkpoint"):
        timm_names(InceptionResNetV1(10, width=0.1, depths=(1, 1, 1)))


FAMILIES = ["inception-v4", "inception-resnet-v1", "inception-resnet-v2"]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("budget", [30_000, 200_000, 2_000_000])
def test_a_parameter_budget_is_met_within_two_percent(name, budget):
    with torch.device("meta"):
        model = build(name, Signature(Image(1, 8, 8), Class(10)), parameters=budget)
    assert abs(parameter_count(model) - budget) < 0.02 * budget


@pytest.mark.parametrize("name", FAMILIES)
def test_families_take_digits_and_series(name):
    model = build(name, Signature(Image(1, 8, 8), Class(10)), 30_000)
    assert model({"image": torch.randn(3, 1, 8, 8)}).prediction.shape == (3, 10)
    model = build(name, Signature(Series(2, 24), Values(1), horizon=3), 30_000).eval()
    series, mask = torch.randn(2, 24, 2), torch.arange(24).expand(2, 24) < 12
    prediction = model({"series": series, "mask": mask}).prediction
    assert prediction.shape == (2, 3, 1)
    series[:, 12:] = 1e6  # padded positions are zeroed before the first convolution
    assert torch.allclose(model({"series": series, "mask": mask}).prediction, prediction)


def test_bad_arguments_are_named():
    for options, word in (
        ({"stem": "tiny"}, "tiny"),
        ({"depths": (1, 2)}, "depths"),
        ({"width": 0.0}, "width"),
        ({"dimensions": 1}, "series"),
    ):
        with pytest.raises(ValueError, match=word):
            InceptionV4(10, **options)
    with pytest.raises(ValueError, match="flavor"):
        InceptionResNetV2(10, flavor="fat")
    with pytest.raises(ValueError, match="kernel:width"):
        Builder().chain(3, "3-64")
