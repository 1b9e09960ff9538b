"""Guidance: its map of layers and its sum against plain code, what it must leave alone, when it ends, and what it refuses."""

from __future__ import annotations

import copy
import itertools
import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from assay.contracts import Class, Output, Signature, Table, Tokens
from assay.errors import UserError
from assay.models import build, save
from assay.models.activations import Activations, record
from assay.models.mlp import MLP
from assay.models.reference import referred
from assay.ops.similarities import linear_cka, representational_distance
from assay.testing.examples import random_batch, tiny_task
from assay.training import fit
from assay.training.methods import make_method
from assay.training.methods.clipping import Clipping
from assay.training.methods.guidance import ALIGNED_BATCHES, Guidance, best_map, map_layers, noise_like

SIGNATURE = tiny_task().signature


def network(width: int = 12, depth: int = 3, seed: int = 0, **options: Any) -> MLP:
    torch.manual_seed(seed)
    return MLP(SIGNATURE, width, depth, **{"norm": "batch", **options})


def frozen(width: int = 10, depth: int = 2, seed: int = 5) -> nn.Module:
    return network(width, depth, seed).requires_grad_(False)


class Counting(nn.Module):
    """A network that counts its forward passes."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.calls, self.modes = inner, 0, []

    def forward(self, batch: Any) -> Output:
        self.calls += 1
        self.modes.append(self.inner.training)
        return self.inner(batch)


class Unrecorded(nn.Linear):
    """A linear map of a kind that is not recorded."""


def plain(model: nn.Module, batch: dict[str, Tensor]) -> Output:
    output = model(batch)
    output.loss = tiny_task().loss(output, batch)
    return output


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((2, 5), [0, 4]),
        ((3, 9), [0, 4, 8]),
        ((7, 20), [0, 3, 6, 10, 13, 16, 19]),
        ((20, 48), [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27, 30, 32, 35, 37, 40, 42, 45, 47]),
        ((5, 3), [0, 0, 1, 2, 2]),
        ((1, 5), [0]),
    ],
)
def test_the_map_of_layers(counts, expected) -> None:
    assert map_layers(*counts) == expected


@pytest.mark.parametrize("sizes", [(1, 4), (4, 1), (3, 5), (5, 3)])
def test_the_best_map_is_the_best_of_all_that_keep_the_order(sizes) -> None:
    alignment = torch.rand(*sizes, generator=torch.Generator().manual_seed(0))
    maps = itertools.combinations_with_replacement(range(sizes[1]), sizes[0])
    assert best_map(alignment) == list(max(maps, key=lambda layers: float(sum(alignment[i, t] for i, t in enumerate(layers)))))


def half_hidden(model: MLP) -> nn.Module:
    """A copy of a network of five hidden layers that shows its third and fourth alone: by depth they would be the first and the fifth."""
    guide = copy.deepcopy(model).requires_grad_(False).eval()
    for place in (0, 2, 8):
        guide.layers[place].__class__ = Unrecorded
    return guide


def test_aligned_layers_are_those_most_alike_after_the_first_batches(caplog) -> None:
    model = network(depth=5, norm="none").eval()
    method = Guidance(half_hidden(model), "aligned")
    method.setup(model, tiny_task())
    batches = [random_batch(SIGNATURE, 16, seed=seed) for seed in range(ALIGNED_BATCHES + 1)]
    with caplog.at_level(logging.INFO):
        found = [method.objective(plain)(model, batch).losses["guidance"].item() for batch in batches]
    for batch, loss in zip(batches[:-1], found[:-1], strict=True):  # by depth until then
        layers = [layer.output for layer in record(model, batch)]
        assert loss == pytest.approx(float(2 - linear_cka(layers[0], layers[2]) - linear_cka(layers[4], layers[3])), abs=1e-5)
    assert found[-1] == pytest.approx(0, abs=1e-5)
    assert method.map == [2, 3]
    assert "most like them: layers.4 to layers.4, layers.6 to layers.6" in caplog.text


def test_the_map_goes_on_from_a_checkpoint() -> None:
    """One that is taken between the first batches gives the same map as all of them in one go, and a map that is found stays."""
    model = network(depth=5).eval()
    batches = [random_batch(SIGNATURE, 16, seed=seed) for seed in range(ALIGNED_BATCHES + 1)]
    whole, first, second, third = (Guidance(frozen(depth=3), "aligned") for _ in range(4))

    def run(method: Guidance, part: slice) -> None:
        method.setup(model, tiny_task())
        for batch in batches[part]:
            method.objective(plain)(model, batch)

    run(whole, slice(None))
    run(first, slice(0, 2))
    second.load_state_dict(first.state_dict())
    run(first, slice(3, 4))  # what comes after it was saved is not in the state
    run(second, slice(2, None))
    third.load_state_dict(second.state_dict())
    assert first.map is None
    assert whole.map == second.map == third.map
    assert whole.map is not None


def test_the_scale_aware_distance_holds_the_scale_of_a_network_without_norms() -> None:
    """Layers that start at twice the scale of the guide's come near it, which the plain similarity does not see to."""
    drift = {}
    for distance in ("cka", "cka-log-norm"):
        model, guide = network(norm="none", depth=2), network(norm="none", depth=2, seed=5).requires_grad_(False)
        with torch.no_grad():
            model.layers[0].weight.mul_(2)
        method = Guidance(guide, distance=distance)
        optimizer = torch.optim.Adam(model.parameters(), 2e-2)
        batch = random_batch(SIGNATURE, 32)
        with method.watch(model):
            for _ in range(60):
                model(batch)
                optimizer.zero_grad()
                method.loss(batch).backward()
                optimizer.step()
        target, own = ([layer.output.std(0).norm() for layer in record(net, batch)] for net in (model, guide))
        drift[distance] = max(float((t / g).log().abs()) for t, g in zip(target, own, strict=True))
    assert drift["cka-log-norm"] < 0.4 < 0.6 < drift["cka"]


def test_wide_layers_are_projected_where_that_is_asked_for() -> None:
    model, guide, batch = network(600).eval(), frozen(500), random_batch(SIGNATURE, 64)
    target, own = ([layer.output for layer in record(net, batch)] for net in (model, guide))
    for width in (100, 0):
        method = Guidance(guide, project_to=width)
        method.setup(model, tiny_task())
        expected = sum(representational_distance(target[t], own[i], project_to=width) for i, t in enumerate((0, 2)))
        torch.testing.assert_close(method.objective(plain)(model, batch).losses["guidance"], expected)


@pytest.mark.parametrize(("collisions", "kept"), [("sum", [0, 1, 2, 3, 4]), ("last", [1, 2, 4])])
def test_the_sum_is_that_of_the_formula(collisions, kept) -> None:
    """Five guide layers onto three of the target, with and without the authors' dictionary that keeps the last of those that collide."""
    model, guide, batch = network(depth=3), frozen(depth=5), random_batch(SIGNATURE, 16)
    method = Guidance(guide, weight=0.5, collisions=collisions)
    method.setup(model, tiny_task())
    model.eval()  # so that the layers can be had again below
    output = method.objective(plain)(model, batch)
    target, own = ([layer.output for layer in record(net, batch)] for net in (model, guide))
    expected = 0.5 * sum(1 - linear_cka(target[[0, 0, 1, 2, 2][i]], own[i]) for i in kept)
    torch.testing.assert_close(output.losses["guidance"], expected)
    torch.testing.assert_close(output.loss, plain(model, batch).loss + expected)


@pytest.mark.parametrize("options", [{"weight": 0}, {"until_step": 0}])
def test_without_weight_or_steps_training_is_bit_identical(options) -> None:
    task, weights = tiny_task(), []
    for methods in ([], [Guidance(frozen(), **options)]):
        model = network(dropout=0.1)
        fit(model, task, steps=5, batch_size=16, methods=methods)
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_guide_ends_when_it_should_and_the_target_runs_once_a_step() -> None:
    guide, model = Counting(frozen()), Counting(network())
    guide.requires_grad_(False)
    method = Guidance(guide, until_step=3)
    method.setup(model, tiny_task())
    step = method.objective(plain)
    optimizer = torch.optim.SGD(model.parameters(), 1e-2)
    update = method.update(lambda optimizer: optimizer.step())
    for count in range(1, 6):
        step(model, random_batch(SIGNATURE, 16)).loss.backward()
        update(optimizer)
        assert guide.calls == min(count, 3)
        assert model.calls == count
    assert not any(guide.modes), "the guide is in evaluation mode"
    assert all(model.modes)


def test_a_guide_that_is_remembered_runs_once_for_each_example() -> None:
    """The same distances, without a forward pass once every example was met; what no longer fits runs as before."""
    first, second = random_batch(SIGNATURE, 16, seed=1), random_batch(SIGNATURE, 16, seed=2)
    mixed = {name: torch.cat([first[name][:9], second[name][:9]]) for name in first}
    for remember, calls in ((0.1, [1, 2, 2, 2]), (16 * 2 * 10 * 4 / 2**30, [1, 2, 3, 3])):
        guide, model = Counting(frozen()).requires_grad_(False), network().eval()
        methods = Guidance(guide, remember=remember), Guidance(frozen())
        for method in methods:
            method.setup(model, tiny_task())
        for batch, expected in zip((first, second, mixed, first), calls, strict=True):
            losses = [method.objective(plain)(model, batch).losses["guidance"] for method in methods]
            torch.testing.assert_close(*losses)
            assert guide.calls == expected


def test_the_guide_gets_no_gradient_and_the_target_does_in_every_layer() -> None:
    model, guide, batch = network(depth=2), frozen(depth=2), random_batch(SIGNATURE, 16)
    method = Guidance(guide)
    method.setup(model, tiny_task())
    output = method.objective(plain)(model, batch)
    output.losses["guidance"].backward()
    assert all(parameter.grad is None for parameter in guide.parameters())
    first, second, head = (layer for layer in model.layers if isinstance(layer, nn.Linear))
    assert first.weight.grad.abs().max() > 0
    assert second.weight.grad.abs().max() > 0
    assert head.weight.grad is None  # the prediction is not compared


def test_the_network_is_left_as_it_was() -> None:
    """No hook stays, no key comes into the checkpoint, and running statistics are those of a step without guidance."""
    batch, statistics = random_batch(SIGNATURE, 16), []
    for methods in ([], [Guidance(frozen())]):
        model = network()
        keys = list(model.state_dict())
        objective = plain
        for method in methods:
            method.setup(model, tiny_task())
            objective = method.objective(plain)
        objective(model, batch)
        for method in methods:
            method.finish(model)
        assert list(model.state_dict()) == keys
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        statistics.append([buffer.clone() for buffer in model.buffers()])
    assert all(torch.equal(a, b) for a, b in zip(*statistics, strict=True))


def test_a_plain_loop_gives_what_the_method_gives() -> None:
    batch = random_batch(SIGNATURE, 16)
    method, loop = Guidance(frozen(), decay=0.5), Guidance(frozen(), decay=0.5, until_step=2)
    model = network()
    method.setup(model, tiny_task())
    expected = method.objective(plain)(model, batch).losses["guidance"].item()
    with loop.watch(model):
        for factor in (1.0, 0.5, 0.0):  # the decay of a step, and then the end
            model(batch)
            assert loop.loss(batch).item() == pytest.approx(factor * expected, rel=1e-5)
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(ValueError, match="no model is watched"):
        Guidance(frozen()).loss(batch)


def test_names_say_which_layers() -> None:
    model, guide, batch = network(depth=3).eval(), frozen(depth=2), random_batch(SIGNATURE, 16)
    pairs = {"layers.3": "layers.6"}
    found = {}
    for name, layers in (("pairs", pairs), ("list", ["layers.0", "layers.6"])):
        method = Guidance(guide, layers)
        method.setup(model, tiny_task())
        found[name] = method.objective(plain)(model, batch).losses["guidance"].item()
    target, own = record(model, batch, ["layers.0", "layers.6"]), record(guide, batch)
    alike = [[float(linear_cka(t.output, g.output)) for g in own] for t in target]
    assert found["pairs"] == pytest.approx(1 - alike[1][1], rel=1e-4)
    assert found["list"] == pytest.approx(2 - alike[0][0] - alike[1][1], rel=1e-4)


def test_noise_takes_the_place_of_inputs_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    batch = random_batch(Signature(Tokens(11, 12), Class(3)), 200) | {"mask": torch.ones(200, 12, dtype=torch.bool)}
    noisy = noise_like(batch, generator, 11)
    assert torch.equal(noisy["target"], batch["target"])
    assert torch.equal(noisy["mask"], batch["mask"])
    assert set(noisy["tokens"].unique().tolist()) == set(range(11))
    table = noise_like(torch.full((4000,), 7.0), generator)
    assert table.min() == 0
    assert table.max() == 1
    assert float((table == 0).float().mean()) == pytest.approx(0.5, abs=0.03)


def test_noise_goes_on_from_a_checkpoint() -> None:
    batch, model = random_batch(SIGNATURE, 16), network().eval()

    def losses(method: Guidance, count: int) -> list[float]:
        method.setup(model, tiny_task())
        return [method.objective(plain)(model, batch).losses["guidance"].item() for _ in range(count)]

    whole = losses(Guidance(frozen(), guide_input="noise"), 4)
    assert len(set(whole)) == 4
    first, second = Guidance(frozen(), guide_input="noise"), Guidance(frozen(), guide_input="noise")
    assert losses(first, 2) == whole[:2]
    second.load_state_dict(first.state_dict())
    assert losses(second, 2) == whole[2:]


def test_sequences_by_position_and_whole() -> None:
    """A recurrent target and an attention guide: layers of one length, padding left out."""
    signature = Signature(Tokens(11, 12), Class(3), per_position=True)
    batch = random_batch(signature, 16)
    batch["mask"] = (torch.arange(12) < torch.arange(16)[:, None] % 8 + 5).clone()
    target = build("recurrent-classifier", signature, 3000, mode="rnn_tanh", layers=2)
    guide = referred("attention", signature, 3000)
    changed = {**batch, "tokens": torch.where(batch["mask"], batch["tokens"], 1)}
    for per_token in (False, True):
        method = Guidance(guide, per_token=per_token)
        method.setup(target)
        values = []
        for one in (batch, changed):  # what stands at padding does not count
            with method.watch(target):
                target(one)
                values.append(method.loss(one).item())
        assert values[0] == pytest.approx(values[1], rel=1e-4)
    assert values[0] > len(record(guide, batch))  # summed over positions: more than one a layer


def test_a_run_or_a_name_is_a_guide(tmp_path) -> None:
    trained = build("mlp", SIGNATURE, 500)
    save(trained, tmp_path / "run")
    loaded = referred(str(tmp_path / "run"), SIGNATURE, 1)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), trained.parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    before = torch.get_rng_state()
    first, second, other = (referred("mlp", SIGNATURE, 500, seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(next(first.parameters()), next(second.parameters()))
    assert not torch.equal(next(first.parameters()), next(other.parameters()))
    method = make_method(f"guidance:guide={tmp_path / 'run'},until_step=2,distance=cka-log-norm,layers=aligned,project_to=0")
    history = fit(network(), tiny_task(), steps=4, batch_size=16, methods=[method, Clipping()])
    assert history.status == "done"
    with pytest.raises(UserError, match=r"reads .*features=6.*, but here .*features=7.* comes in"):
        referred(str(tmp_path / "run"), Signature(Table(7), Class(2)), 500)
    with pytest.raises(UserError, match="no model or mixer named 'nothing-of-that-name'"):
        referred("nothing-of-that-name", SIGNATURE, 500)


def test_a_target_without_norms_is_warned_of(caplog) -> None:
    with caplog.at_level(logging.WARNING):
        Guidance(frozen()).setup(network(), tiny_task())
        Guidance(frozen(), distance="cka-log-norm").setup(network(norm="none"), tiny_task())
        assert not caplog.records
        Guidance(frozen()).setup(network(norm="none"), tiny_task())
    assert "MLP has no normalisation layer" in caplog.text


def test_recorded_layers_are_in_the_order_of_computation_with_examples_first() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Linear(5, 2), nn.RNN(3, 5)  # declared the other way round, and time first

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x.transpose(0, 1))[0][-1])

    model, x = Odd(), torch.randn(9, 4, 3)
    with Activations(model) as activations:
        model(x)
        model(x)  # the latest pass counts
    assert [(layer.name, tuple(layer.output.shape)) for layer in activations.layers(9)] == [("first", (9, 4, 5)), ("last", (9, 2))]
    assert [layer.name for layer in activations.hidden(9)] == ["first"]
    assert [layer.name for layer in activations.layers(4)] == ["first"]
    assert activations.layers(7) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Guidance(weight=-1), "weight must be at least 0, got -1"),
        (lambda: Guidance(until_step=-1), "until_step must be at least 0, got -1"),
        (lambda: Guidance(decay=1.5), "decay must be above 0 and at most 1, got 1.5"),
        (lambda: Guidance(distance="cosine"), "distance must be one of .*, got 'cosine'"),
        (lambda: Guidance(collisions="first"), "collisions must be one of sum, last, got 'first'"),
        (lambda: Guidance(guide_input="none"), "guide_input must be one of same, noise, got 'none'"),
        (lambda: Guidance(layers="all"), "layers must be 'auto', 'aligned', .*, got 'all'"),
        (lambda: Guidance(project_to=-1), "project_to must be at least 0 .*, got -1"),
        (lambda: best_map(torch.zeros(0, 3)), r"at least one hidden layer each, got alignments \(0, 3\)"),
        (lambda: Guidance(remember=-1), "remember must be at least 0 GiB, .* got -1"),
        (lambda: Guidance(remember=1, guide_input="noise"), "0 with noise, .* got 1"),
        (lambda: Guidance(network()), "require gradients"),
        (lambda: map_layers(0, 3), "at least one hidden layer each, got 0 and 3"),
    ],
)
def test_unusable_arguments_are_refused(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_unusable_guides_and_batches_are_refused() -> None:
    model = network().requires_grad_(False)
    with pytest.raises(ValueError, match="is the network in training"):
        Guidance(model).setup(model)
    other = MLP(Signature(Table(9), Class(2)), 4).requires_grad_(False)
    with pytest.raises(ValueError, match=r"the guide reads .*9.*, but here .*6"):
        Guidance(other).setup(network(), tiny_task())
    with pytest.raises(ValueError, match="has no module 'nowhere'"):
        Guidance(frozen(), ["nowhere"]).setup(network())
    with pytest.raises(ValueError, match="at least 8 examples, got 7"):
        fit(network(), tiny_task(), steps=1, batch_size=7, methods=[Guidance(frozen())])
    with pytest.raises(ValueError, match="per_token needs layers"):
        fit(network(), tiny_task(), steps=1, batch_size=16, methods=[Guidance(frozen(), per_token=True)])
    with pytest.raises(ValueError, match="has not seen the network"):
        Guidance(frozen()).objective(plain)(network(), random_batch(SIGNATURE, 16))
