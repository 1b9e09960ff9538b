import json
import math

import pytest
import torch
from torch import nn

from assay import models
from assay.contracts import Class, Image, NextTokens, Series, Signature, Table, Tokens, Values
from assay.errors import UserError
from assay.models.build import _largest_within
from assay.models.mlp import MLP
from assay.nn import Linear

MINE = '''
import torch
from assay.nn import StreamingMixer


class Mean(StreamingMixer):
    """The running mean of a linear map."""

    def __init__(self, width, scale=1.0):
        super().__init__()
        self.value = torch.nn.Linear(width, width)
        self.scale = scale

    def initial_state(self, batch_size):
        return torch.zeros(batch_size), torch.zeros(batch_size, self.value.out_features)

    def scan(self, x, state, mask=None):
        real = torch.ones(x.shape[:2]) if mask is None else mask.to(x.dtype)
        counts = state[0][:, None] + real.cumsum(1)
        sums = state[1][:, None] + (self.scale * self.value(x) * real[..., None]).cumsum(1)
        return sums / counts.clamp(min=1)[..., None], (counts[:, -1], sums[:, -1])


class Blind(torch.nn.Module):
    causal = False

    def __init__(self, width):
        super().__init__()

    def forward(self, x, mask=None):
        return x


NUMBER = 3
'''


@pytest.fixture
def mine(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    return str(file)


SEQUENCE = Signature(Series(2, 12), Class(3))


@pytest.mark.parametrize("budget", [5_000, 20_000, 200_000, 1_000_000])
def test_budget_is_met_within_two_percent(mine, budget):
    model = models.build(f"{mine}:Mean", SEQUENCE, budget)
    assert abs(models.parameter_count(model) - budget) <= 0.02 * budget
    assert not models.off_budget(model, budget)


def test_a_budget_below_the_smallest_network_is_marked(mine):
    assert models.off_budget(models.build(f"{mine}:Mean", SEQUENCE, 10), 10)


def test_saved_network_reloads_from_its_folder_alone(mine, tmp_path):
    model = models.build(f"{mine}:Mean", SEQUENCE, 5_000, depth=3, scale=0.5).eval()
    models.save(model, tmp_path / "run")
    again = models.load(tmp_path / "run")
    batch = {"series": torch.randn(4, 12, 2)}
    assert len(again.blocks) == 3
    assert torch.equal(again(batch).prediction, model(batch).prediction)
    assert not list((tmp_path / "run").glob("*.partial"))


@pytest.mark.parametrize(
    ("signature", "inputs"),
    [
        (SEQUENCE, {"series": torch.randn(2, 12, 2)}),
        (Signature(Tokens(11, 9), NextTokens(11)), {"tokens": torch.arange(18).view(2, 9) % 11}),
        (Signature(Series(3, 8), Values(3), horizon=4), {"series": torch.randn(2, 8, 3)}),
        (Signature(Series(3, 8), Values(1), horizon=4), {"series": torch.randn(2, 8, 3)}),
        (Signature(Image(2, 6, 5), Class(4)), {"image": torch.randn(2, 2, 6, 5)}),
        (Signature(Series(2, 7), Class(4), per_position=True), {"series": torch.randn(2, 7, 2)}),
    ],
)
def test_a_model_streams_its_own_forward(mine, signature, inputs):
    torch.manual_seed(0)
    model = models.build(f"{mine}:Mean", signature, 8_000).double().eval()
    x = next(iter(inputs.values()))
    x = x.double() if x.is_floating_point() else x
    whole = model({next(iter(inputs)): x}).prediction
    if isinstance(signature.input, Image):
        return  # pictures are read whole; only their shape is of interest
    state, parts = model.initial_state(2), []
    for chunk in (x[:, :3], x[:, 3:4], x[:, 4:]):
        part, state = model.scan(chunk, state)
        parts.append(part)
    streamed = torch.cat(parts, 1)
    final = streamed if whole.ndim == 3 and signature.horizon is None else streamed[:, -1]
    assert final.shape == whole.shape
    torch.testing.assert_close(final, whole, atol=1e-6, rtol=1e-6)  # the state is kept in float32 by this mixer
    step_state = model.initial_state(2)
    for t in range(x.shape[1]):
        y, step_state = model.step(x[:, t], step_state)
    torch.testing.assert_close(y, streamed[:, -1], atol=1e-6, rtol=1e-6)


def test_padding_changes_nothing(mine):
    model = models.build(f"{mine}:Mean", Signature(Series(2, 12), Class(3)), 8_000).eval()
    x = torch.randn(2, 12, 2)
    mask = torch.arange(12)[None] < torch.tensor([[12], [7]])
    padded = model({"series": torch.where(mask[..., None], x, 99.0), "mask": mask}).prediction
    torch.testing.assert_close(padded[1:], model({"series": x[1:, :7]}).prediction, atol=1e-5, rtol=1e-5)


def test_forecast_of_an_untrained_head_of_zeros_is_the_last_value(mine):
    model = models.build(f"{mine}:Mean", Signature(Series(2, 6), Values(2), horizon=3), 5_000)
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    x = torch.randn(4, 6, 2)
    torch.testing.assert_close(model({"series": x}).prediction, x[:, -1:].expand(4, 3, 2))


@pytest.mark.parametrize(
    ("name", "signature", "words"),
    [
        ("no-such", SEQUENCE, "no-such"),
        ("Mean", Signature(Table(3), Class(2)), "Table has none"),
        ("Blind", Signature(Tokens(5, 5), NextTokens(5)), "not causal"),
        ("NUMBER", SEQUENCE, "neither"),
        ("Missing", SEQUENCE, "Missing"),
    ],
)
def test_what_cannot_be_built_says_why(mine, name, signature, words):
    with pytest.raises(UserError, match=words):
        models.build(name if name == "no-such" else f"{mine}:{name}", signature)


def test_unknown_mixer_option_is_named(mine):
    with pytest.raises(ValueError, match="deepth"):
        models.build(f"{mine}:Mean", SEQUENCE, 5_000, deepth=2)


@pytest.mark.parametrize("damage", ["missing", "json", "weights"])
def test_damaged_folders_are_one_sentence(mine, tmp_path, damage):
    folder = tmp_path / "run"
    models.save(models.build(f"{mine}:Mean", SEQUENCE, 5_000), folder)
    if damage == "missing":
        (folder / "config.json").unlink()
    elif damage == "json":
        (folder / "config.json").write_text("{oops")
    else:
        config = json.loads((folder / "config.json").read_text())
        config["build"]["coarse"] += 1
        (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError):
        models.load(folder)


@pytest.mark.parametrize(
    ("initialisation", "deviation"),
    [("he", math.sqrt(2 / 400)), ("simple", 0.1), ("zero", 0.0), ("sussillo-abbott", math.sqrt(2) * math.exp(1.2 / 397.6) / 20)],
)
def test_mlp_initialisations(initialisation, deviation):
    torch.manual_seed(0)
    model = MLP(Signature(Table(400), Class(2)), width=400, depth=3, initialisation=initialisation)
    linears = [layer for layer in model.layers if isinstance(layer, nn.Linear)]
    assert len(linears) == 4
    for layer in linears[:-1]:
        assert float(layer.weight.detach().std()) == pytest.approx(deviation, rel=0.02)
        assert not layer.bias.any()


def test_mlp_refuses_bad_options():
    for options in ({"depth": 0}, {"initialisation": "magic"}, {"norm": "magic"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            MLP(Signature(Table(2), Class(2)), width=4, **options)


@pytest.mark.parametrize(("norm", "kind"), [("batch", nn.BatchNorm1d), ("layer", nn.LayerNorm)])
def test_mlp_norms_stand_before_the_activation(norm, kind):
    model = MLP(Signature(Table(5), Class(2)), width=8, depth=3, dropout=0.1, norm=norm)
    kinds = [type(layer) for layer in model.layers]
    assert kinds == [Linear, kind, nn.ReLU, nn.Dropout] * 3 + [Linear]
    sums = model.layers[1](model.layers[0](10 + 3 * torch.randn(64, 5)))
    assert sums.mean().item() == pytest.approx(0, abs=1e-5)


def test_mlp_takes_any_activation_but_a_gated_one():
    model = MLP(Signature(Table(3), Class(2)), width=8, activation="poly-relu")
    first, activation = model.layers[0], model.layers[1]
    x = torch.randn(5, 3)
    torch.testing.assert_close(activation(first(x)), sum(first(x).clamp(min=0) ** p for p in (1, 2, 3)) / 3)
    assert activation is not model.layers[3]  # each layer has coefficients of its own
    with pytest.raises(ValueError, match="'swiglu' is gated"):
        MLP(Signature(Table(3), Class(2)), width=8, activation="swiglu")
    with pytest.raises(UserError, match="no activation named"):
        MLP(Signature(Table(3), Class(2)), width=8, activation="magic")


@pytest.mark.parametrize("quadratic", [0, 1, 16])
@pytest.mark.parametrize("size", [1, 2, 9, 4096])
def test_the_dial_is_turned_to_the_largest_value_within_the_budget_in_few_counts(quadratic, size):
    """Against looking at every value; bisection would take twelve counts of 4,096 values, and builds the network each time."""
    dial = range(1, 1 + size)
    counts = [quadratic * value**2 + 300 * value + 7 for value in dial]
    asked = []

    def count(value):
        asked.append(value)
        return counts[value - 1]

    for budget in (1, counts[0], counts[len(counts) // 3] - 1, counts[len(counts) // 3], counts[-1] - 1, counts[-1], 10**9):
        asked.clear()
        expected = max((value for value in dial if counts[value - 1] <= budget), default=1)
        assert _largest_within(budget, dial, count) == expected
        assert len(asked) <= (9 if quadratic else 16)  # the roots of a linear count are no line
