"""Forward-Forward: its loss by hand, gradients that stay in their layer, the network's own forward, and that it learns."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from assay.contracts import Batch, Class, Output, Signature, Table, Values
from assay.models import build
from assay.models.mlp import MLP
from assay.testing import check_method
from assay.testing.examples import tiny_task
from assay.training import fit
from assay.training.methods.clipping import Clipping
from assay.training.methods.forward_forward import ForwardForward, forward_forward_loss, goodness, goodness_predictor, labelled

SIGNATURE = Signature(Table(6), Class(3))


def network(depth: int = 3) -> MLP:
    torch.manual_seed(0)
    return MLP(SIGNATURE, 8, depth).double()


def hidden(model: MLP) -> list[nn.Linear]:
    return [part for part in model.layers if isinstance(part, nn.Linear)][:-1]


def batch(size: int = 5) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return {"table": torch.randn(size, 6, generator=generator, dtype=torch.float64), "target": torch.arange(size) % 3}


def objective(model: nn.Module, batch: Batch) -> Output:
    output = model(batch)
    output.loss = F.cross_entropy(output.prediction, batch["target"])
    return output


def test_contract() -> None:
    check_method(ForwardForward)


def test_loss_by_hand() -> None:
    """Two layers of one unit, one example: every number is written out."""
    layers = [nn.Linear(2, 1, bias=False).double(), nn.Linear(1, 1, bias=False).double()]
    with torch.no_grad():
        layers[0].weight.copy_(torch.tensor([[1.0, 2.0]]))
        layers[1].weight.fill_(3.0)
    x, label, wrong = torch.tensor([[0.0, 1.0]], dtype=torch.float64), torch.tensor([0]), torch.tensor([1])
    # right: (2, 1) has mean square 2.5; wrong: (0, 3) has 4.5. The second layer gets 1 from either, so 3² = 9.
    right, false = (2 + 2) ** 2 / 2.5, 6**2 / 4.5

    def softplus(z: float) -> float:
        return math.log1p(math.exp(z))

    expected = softplus(2 - right) + softplus(false - 2) + softplus(2 - 9.0) + softplus(9.0 - 2)
    assert float(forward_forward_loss(layers, x, label, wrong, 2.0, 2.0).detach()) == pytest.approx(expected, rel=1e-12)


def test_no_gradient_crosses_layers() -> None:
    """The gradient of each layer is that of its own loss alone, for given inputs; the loss of one layer reaches no other."""
    model = network()
    layers = hidden(model)
    for index, good in enumerate(goodness(layers, batch()["table"])):
        found = torch.autograd.grad(good.sum(), [layer.weight for layer in layers], allow_unused=True)
        assert [gradient is not None for gradient in found] == [other == index for other in range(3)]


def test_the_heads_loss_reaches_the_head_alone_and_its_gradient_is_the_ordinary_one() -> None:
    model, plain = network(), network()
    method = ForwardForward()
    method.setup(model)
    output = method.objective(objective)(model, batch())
    assert output.loss is not None
    output.loss.backward()
    local = [p.grad.clone() for layer in hidden(model) for p in (layer.weight,) if p.grad is not None]
    ordinary = objective(plain, batch()).loss
    assert ordinary is not None
    ordinary.backward()
    torch.testing.assert_close(model.layers[-1].weight.grad, plain.layers[-1].weight.grad)

    alone = network()
    fresh = ForwardForward()
    fresh.setup(alone)
    fresh.loss(batch()).backward()
    for found, layer in zip(local, hidden(alone), strict=True):
        torch.testing.assert_close(found, layer.weight.grad)
    assert all(layer.bias.grad is not None and not layer.bias.grad.any() for layer in hidden(model))


def test_the_networks_own_forward_gives_the_same_activities_up_to_a_factor_an_example() -> None:
    model = network()
    x = batch()["table"]
    activity = normalised = x
    for layer in hidden(model):
        activity = torch.relu(layer(activity))
        normalised = torch.relu(layer(normalised / normalised.square().mean(1, keepdim=True).sqrt()))
    ratio = activity / normalised
    assert bool((activity > 0).any())
    for row in ratio:
        real = row[torch.isfinite(row)]
        torch.testing.assert_close(real, real[:1].expand_as(real))


def test_the_label_stands_in_its_input() -> None:
    found = labelled(torch.zeros(2, 4), torch.tensor([2, 0]), 3.0)
    assert found.tolist() == [[0, 0, 3, 0], [3, 0, 0, 0]]


def test_it_learns_by_head_and_by_goodness_in_a_plain_loop() -> None:
    """Two clouds, told apart by the last input, which bears no label; hidden biases stay 0."""
    task = tiny_task()
    for rows in task.splits.values():
        rows["table"] = rows["table"].flip(1)
    torch.manual_seed(0)
    model = build("mlp", task.signature, 2_000)
    method = ForwardForward()
    method.setup(model)
    step = method.objective(objective)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    before = copy.deepcopy(hidden(model)[0].weight)  # pyright: ignore[reportArgumentType]
    for _, examples in zip(range(200), task.training_batches(32, 0), strict=False):
        optimizer.zero_grad()
        loss = step(model, examples).loss
        assert loss is not None
        loss.backward()
        optimizer.step()
    assert task.evaluate(model, "test").metrics["accuracy"] >= 0.95
    assert task.evaluate(goodness_predictor(model), "test").metrics["accuracy"] >= 0.9
    assert not torch.equal(before, hidden(model)[0].weight)  # pyright: ignore[reportArgumentType]
    assert not any(layer.bias.any() for layer in hidden(model))  # pyright: ignore[reportArgumentType]


def test_it_composes_with_clipping() -> None:
    """Clipped to a norm of almost nothing, plain gradient descent leaves every layer where it was."""
    task = tiny_task()
    torch.manual_seed(0)
    model = build("mlp", task.signature, 500)
    before = copy.deepcopy(model.state_dict())
    options = {"steps": 3, "learning_rate": 1.0, "optimizer": lambda parameters, rate: torch.optim.SGD(parameters, lr=rate)}
    fit(model, task, methods=[ForwardForward(), Clipping(1e-9)], **options)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], atol=1e-6, rtol=0)


def test_wrong_labels_go_on_after_a_checkpoint() -> None:
    def losses(method: ForwardForward, count: int) -> list[float]:
        method.setup(network())
        return [float(method.loss(batch()).detach()) for _ in range(count)]

    whole, first = losses(ForwardForward(), 4), ForwardForward()
    assert losses(first, 2) == whole[:2]
    second = ForwardForward()
    second.load_state_dict(first.state_dict())
    assert losses(second, 2) == whole[2:]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear(2, 2), "Linear is none"),
        (MLP(SIGNATURE, 4, activation="tanh"), "this one has Tanh"),
        (MLP(Signature(Table(6), Values(1)), 4), "one class"),
        (MLP(Signature(Table(2), Class(3)), 4), "3 classes need"),
    ],
)
def test_networks_that_it_cannot_train_are_refused(model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ForwardForward().setup(model)


def test_bad_numbers_and_missing_setup_are_refused() -> None:
    with pytest.raises(ValueError, match="got 0 and"):
        ForwardForward(threshold=0)
    with pytest.raises(ValueError, match="setup"):
        ForwardForward().objective(objective)(network(), batch())
