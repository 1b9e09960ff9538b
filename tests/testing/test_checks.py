"""The checks must find what they are for: each broken part below breaks one rule, and is told so in plain words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from assay.contracts import Class, Method, Output, Signature, Table, TrailPoint
from assay.errors import UserError
from assay.nn import Aaren, StreamingMixer
from assay.tasks.base import ArrayTask
from assay.tasks.synthetic.recall import multi_query_recall
from assay.testing import CheckFailed, check, check_compressor, check_method, check_mixer, check_model, check_task, registered
from assay.testing.examples import tiny_task
from assay.testing.rules import Report


def broken(report: Report) -> dict[str, str]:
    return {result.rule: result.detail for result in report.failed}


class Good(StreamingMixer):
    """A running sum of a linear map: the smallest mixer that keeps the contract."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def initial_state(self, batch_size: int) -> Tensor:
        return self.linear.weight.new_zeros(batch_size, self.linear.in_features)

    def scan(self, x: Tensor, state: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h = self.linear(x)
        h = h if mask is None else torch.where(mask[..., None], h, 0.0)
        y = state[:, None] + h.cumsum(1)
        return y, (y[:, -1] if x.shape[1] else state)


class ForgetsItsState(Good):
    def scan(self, x: Tensor, state: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return super().scan(x, torch.zeros_like(state), mask)


class Peeks(Good):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x, mask) + x.mean(1, keepdim=True).detach()  # no gradient, so only a perturbation shows it


class PeeksByGradient(Good):
    def scan(self, x: Tensor, state: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, state = super().scan(x, state, mask)
        return y + 1e-3 * y.mean(1, keepdim=True), state


class SumsInItsOwnType(Good):
    """A loop adds terms of about one in bfloat16, whose eight bits are full at 256: the sum stands still from there."""

    def scan(self, x: Tensor, state: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        parts = [x[:, :0]]
        for position in range(x.shape[1]):
            h = self.linear(x[:, position]).exp()
            state = state + (h if mask is None else torch.where(mask[:, position, None], h, 0.0))
            parts.append(state[:, None])
        return torch.cat(parts, 1), state


class ReadsPadding(Good):
    def scan(self, x: Tensor, state: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return super().scan(x, state)


class WritesInPlace(Good):
    def scan(self, x: Tensor, state: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        y, after = super().scan(x, state, mask)
        return y, state.detach().copy_(after.detach())


class MixesExamples(Good):
    def scan(self, x: Tensor, state: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return super().scan(x - x.mean(0), state, mask)


class LeavesDropoutOn(Good):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return nn.functional.dropout(super().forward(x, mask), 0.5, training=True)


class ForwardAlone(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.linear(x)


class ForwardAloneBothWays(ForwardAlone):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.linear(x + x.flip(1))


class CausalByName(ForwardAlone):
    causal = True


class NoMask(nn.Module):
    causal = False

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Narrows(ForwardAlone):
    causal = False

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.linear(x)[..., :-1]


def test_a_good_mixer_keeps_every_rule() -> None:
    assert len(check_mixer(Good)) == 17


@pytest.mark.parametrize(
    ("mixer", "rule", "words"),
    [
        (ForgetsItsState, "scan in any chunking equals forward", "they differ by"),
        (ForgetsItsState, "step in a loop equals forward", "float64"),
        (Peeks, "does not peek (by changing later inputs)", "position"),
        (PeeksByGradient, "does not peek (by gradient)", "has a gradient of"),
        (ReadsPadding, "a masked position leaves the state unchanged", "masked"),
        (WritesInPlace, "a stream can be continued twice from one state", "in place"),
        (MixesExamples, "treats the examples of a batch alone", "one by one"),
        (LeavesDropoutOn, "gives the same output twice in evaluation", "dropout"),
        (ForwardAlone, "says whether it is causal", "so it can stream: subclass assay.nn.StreamingMixer"),
        (ForwardAloneBothWays, "says whether it is causal", "`causal = False`"),
        (CausalByName, "says whether it is causal", "initial_state and scan and step are missing"),
        (NoMask, "does not read masked positions", "takes no mask: write forward(self, x, mask=None)"),
        (SumsInItsOwnType, "computes in bfloat16", "root mean square"),
        (Narrows, "maps (batch, length, width) to the same shape and type", "gave output"),
    ],
)
def test_a_broken_mixer_is_found(mixer: type, rule: str, words: str) -> None:
    found = broken(check(mixer))
    assert rule in found
    assert words in found[rule]
    with pytest.raises(CheckFailed, match="breaks"):
        check_mixer(mixer)


class SeenBefore(Good):
    """Weighs a position by how often its token came before."""

    inputs = ("tokens",)

    def initial_state(self, batch_size: int) -> Tensor:
        return self.linear.weight.new_zeros(batch_size, 16)

    def scan(self, x: Tensor, state: Tensor, mask: Tensor | None = None, *, tokens: Tensor) -> tuple[Tensor, Tensor]:
        ones = nn.functional.one_hot(tokens, 16).to(x.dtype)
        counts = state[:, None] + (ones if mask is None else ones * mask[..., None]).cumsum(1)
        return self.linear(x) * (counts * ones).sum(-1, keepdim=True), (counts[:, -1] if x.shape[1] else state)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, tokens: Tensor) -> Tensor:
        return self.scan(x, self.initial_state(len(x)), mask, tokens=tokens)[0]

    def step(self, x_t: Tensor, state: Tensor, *, tokens: Tensor) -> tuple[Tensor, Tensor]:
        y, state = self.scan(x_t[:, None], state, tokens=tokens[:, None])
        return y[:, 0], state


class PeeksAtTokens(SeenBefore):
    def forward(self, x: Tensor, mask: Tensor | None = None, *, tokens: Tensor) -> Tensor:
        return super().forward(x, mask, tokens=tokens) + tokens[:, -1:, None] if x.shape[1] else x


class ReadsPaddedTokens(SeenBefore):
    def scan(self, x: Tensor, state: Tensor, mask: Tensor | None = None, *, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return super().scan(x, state, tokens=tokens)


class Related(nn.Module):
    """Sums over the positions that are related to each."""

    causal = False
    inputs = ("relation",)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, relation: Tensor) -> Tensor:
        h = self.linear(x)
        return (relation == 1).to(x.dtype) @ (h if mask is None else h * mask[..., None])


class ReadsPaddedRelations(Related):
    def forward(self, x: Tensor, mask: Tensor | None = None, *, relation: Tensor) -> Tensor:
        return super().forward(x, mask, relation=relation) + relation.sum(-1, keepdim=True)


class AsksForTheMoon(Good):
    inputs = ("moon",)


def test_mixers_that_read_more_than_x_keep_every_rule() -> None:
    assert len(check_mixer(SeenBefore)) == 17
    assert len(check_mixer(Related)) == 9


@pytest.mark.parametrize(
    ("mixer", "rule"),
    [
        (PeeksAtTokens, "does not peek (by changing later inputs)"),
        (ReadsPaddedTokens, "a masked position leaves the state unchanged"),
        (ReadsPaddedRelations, "does not read masked positions"),
        (AsksForTheMoon, "is built from a width"),
    ],
)
def test_tokens_and_relations_are_changed_with_x(mixer: type, rule: str) -> None:
    # a gradient is blind to integers, so only changing them shows what is read
    assert rule in broken(check(mixer))


def test_a_users_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\nclass MyMixer(torch.nn.Linear):\n  def __init__(self, width): super().__init__(width, width)\n"
    )
    found = broken(check(f"{tmp_path}/mine.py:MyMixer"))
    assert "has no attribute `causal`" in found["says whether it is causal"]
    with pytest.raises(UserError, match="no part that can be checked"):
        check(3)
    with pytest.raises(UserError, match="Nothing that can be checked is named 'aarem'"):
        registered("aarem")


def test_a_users_file_may_import_its_neighbour_and_is_told_the_line_that_raised(tmp_path: Path) -> None:
    (tmp_path / "assay_test_neighbour.py").write_text("import torch\nclass Part(torch.nn.Linear):\n  causal = False\n")
    (tmp_path / "whole.py").write_text(
        "from assay_test_neighbour import Part\n"
        "class MyMixer(Part):\n"
        "  def __init__(self, width): super().__init__(width, width)\n"
        "  def forward(self, x, mask=None):\n"
        "    return super().forward(x[:, : x.shape[1] // x.shape[1]])\n"
    )
    detail = broken(check(f"{tmp_path}/whole.py:MyMixer"))["maps (batch, length, width) to the same shape and type"]
    assert detail == "forward of shape (3, 0, 8) raised ZeroDivisionError: integer division or modulo by zero (whole.py, line 5)"


def test_registered_names_of_every_kind_are_recognised() -> None:
    assert registered("aaren") is Aaren
    rules = {name: check(registered(name))[0].rule for name in ("sgc", "label-propagation", "clip")}
    assert rules["sgc"] == rules["label-propagation"] == "accepts(signature) answers None or a reason"
    assert "method" in rules["clip"]
    small = multi_query_recall(train=20, test=10)
    assert "task" in check(small)[0].rule
    assert "task" in check(lambda: small)[0].rule


# ------------------------------------------------------------------------------------------------ models


class WrongShape:
    coarse, fine = range(1, 9), range(0, 1)

    def accepts(self, signature: Signature) -> str | None:
        return None if isinstance(signature.input, Table) else "tables only"

    def network(self, signature: Signature, coarse: int, fine: int, **_: Any) -> nn.Module:
        return _TableNetwork(signature, coarse, signature.output.size + 1)


class _TableNetwork(nn.Module):
    def __init__(self, signature: Signature, coarse: int, outputs: int) -> None:
        super().__init__()
        self.signature = signature
        self.layers = nn.Sequential(nn.Linear(signature.input.features, coarse), nn.Linear(coarse, outputs))

    def forward(self, batch: dict[str, Tensor]) -> Output:
        return Output(self.layers(batch["table"]))


class NormalisesOverTheBatch(WrongShape):
    def network(self, signature: Signature, coarse: int, fine: int, **_: Any) -> nn.Module:
        network = _TableNetwork(signature, coarse, signature.output.size)
        network.layers.insert(1, nn.BatchNorm1d(coarse, track_running_stats=False))
        return network


def test_broken_models_are_found() -> None:
    found = broken(check(WrongShape))
    assert "(4, 4), the signature asks for (4, 3)" in found["table → class: predicts the signature's shape"]
    assert "table → class: treats the examples of a batch alone" in broken(check(NormalisesOverTheBatch()))
    check_model("mlp", {"table → class": Signature(Table(3), Class(2))})
    assert broken(check(nn.Linear(2, 2))) == {
        "carries its signature": "the network has no attribute `signature` (assay.contracts.Signature)"
    }


# ------------------------------------------------------------------------------------------------ tasks, methods, compressors


class WrongScores(ArrayTask):
    def evaluate(self, *arguments: Any, **options: Any) -> Any:
        evaluation = super().evaluate(*arguments, **options)
        evaluation.scores += 0.1
        return evaluation


class ForgetsItsSeed(ArrayTask):
    def training_batches(self, batch_size: int, seed: int) -> Any:
        return super().training_batches(batch_size, int(torch.randint(10_000, ())))


@pytest.mark.parametrize(
    ("kind", "rule", "words"),
    [
        (WrongScores, "scores: one an example, and their mean is the metric", "the scores' mean is"),
        (ForgetsItsSeed, "training batches are the same for the same seed", "differs between two runs"),
    ],
)
def test_broken_tasks_are_found(kind: type[ArrayTask], rule: str, words: str) -> None:
    good = tiny_task()
    check_task(good)
    found = broken(check(kind("clouds", good.signature, good.splits, description="two clouds")))
    assert list(found) == [rule]
    assert words in found[rule]


class Explodes(Method):
    def update(self, next: Any) -> Any:
        def step(optimizer: torch.optim.Optimizer) -> None:
            for group in optimizer.param_groups:
                group["lr"] = 1e20
            next(optimizer)

        return step


class LosesItsState(Method):
    def __init__(self) -> None:
        self.steps = 0

    def update(self, next: Any) -> Any:
        def step(optimizer: torch.optim.Optimizer) -> None:
            self.steps += 1
            next(optimizer)

        return step

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}


def test_broken_methods_are_found() -> None:
    check_method(Method)
    assert "trains a small network" in broken(check(Explodes))
    assert list(broken(check(LosesItsState))) == ["gives a state that it accepts back"]


def keeps_everything(model: nn.Module, task: Any, target: Any) -> Any:
    """A compressor that does nothing, and says so honestly."""
    return model, [TrailPoint([], {"parameters": 1.0}, {k: v.clone() for k, v in model.state_dict().items()})]


def zeroes_its_input(model: nn.Module, task: Any, target: Any) -> Any:
    with torch.no_grad():
        next(model.parameters()).zero_()
    return keeps_everything(model, task, target)


def forgets_the_weights(model: nn.Module, task: Any, target: Any) -> Any:
    return model, [TrailPoint([], {"parameters": 1.0}, {k: torch.zeros_like(v) for k, v in model.state_dict().items()})]


def test_broken_compressors_are_found() -> None:
    check_compressor(keeps_everything)
    assert "work on a copy" in broken(check(zeroes_its_input))["leaves the given model as it was"]
    assert "no rebuilt point predicts as" in broken(check(forgets_the_weights))["each point is rebuilt from its edits and weights"]
