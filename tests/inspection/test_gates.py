"""Gates are heard in every gated network, at real positions alone, and the network is left as it was."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from assay.errors import UserError
from assay.inspection.gates import Gates, gate_activity
from assay.models.build import build_network
from assay.tasks.synthetic.adding import adding
from assay.tasks.synthetic.delayed_bit import delayed_bit
from assay.tasks.synthetic.transduction import transduction

COUNTS = {"lstm": 3, "gru": 2, "gru-original": 2, "lstm-peephole": 3, "lstm-original": 2, "lstm-coupled": 2, "bilstm": 6}
COUNTS |= {"masked-lstm": 3, "multi-head-gru": 2, "slstm": 2, "min-gru": 2, "min-lstm": 2, "elman~lstm": 3}


@pytest.mark.parametrize("name", COUNTS)
def test_every_gate_is_heard_and_the_network_left_as_it_was(name: str) -> None:
    torch.manual_seed(0)
    task = adding(6, train=4, test=3)
    depth = 2 if "~" in name else 1
    model = build_network(name, task.signature, 1, 0, width=8, hidden=0, depth=depth).train()
    batch = next(task.batches("test", 3))
    expected = model.eval()(batch).prediction
    found = gate_activity(model.train(), batch)
    assert model.training
    assert not any({"forward", "scan"} & module.__dict__.keys() for module in model.modules())
    assert torch.equal(model.eval()(batch).prediction, expected)
    assert len(found) == COUNTS[name]
    assert all(min(gate.shut, gate.open) >= 0 and gate.shut + gate.open <= 1 and 0 < gate.mean < 1 for gate in found)
    assert sum(gate.memory is not None for gate in found) == {"lstm-original": 0, "bilstm": 2}.get(name, 1)
    assert all(gate.longest >= gate.memory >= 1 for gate in found if gate.memory is not None and gate.longest is not None)


def constant_gates(model: Any, forget: list[float], others: float) -> None:
    """Weights of zero, so that the gates of the one LSTM layer stand at their biases: ``forget`` a unit."""
    recurrence = model.blocks[0].mixer.recurrence
    with torch.no_grad():
        for parameter in recurrence.parameters():
            parameter.zero_()
        width = len(forget)
        recurrence.bias_ih_l0.fill_(others)
        recurrence.bias_ih_l0[width : 2 * width] = torch.tensor(forget).logit()


def test_memory_and_saturation_are_those_of_gates_that_are_known() -> None:
    """Forget gates of 0.5 and 0.95: 1 / (1 − 0.725), the longest 1 / (1 − 0.95); half of them above 0.9. Input gates at σ(−3) are shut."""
    task = adding(6, train=4, test=3)
    model = build_network("lstm", task.signature, 1, 0, width=2, hidden=0, depth=1)
    constant_gates(model, [0.5, 0.95], -3.0)
    gates = {gate.gate: gate for gate in gate_activity(model, next(task.batches("test", 3)))}
    forget = gates["forget"]
    assert (forget.layer, forget.shut, forget.open) == ("blocks.0.mixer", 0.0, 0.5)
    assert forget.mean == pytest.approx(0.725, abs=1e-6)
    assert forget.memory == pytest.approx(1 / 0.275, rel=1e-5)
    assert forget.longest == pytest.approx(20, rel=1e-4)
    assert gates["input"].shut == gates["output"].shut == 1.0
    assert gates["input"].memory is None


@pytest.mark.parametrize("name", ["lstm", "multi-head-gru", "min-gru"])
def test_padding_does_not_count(name: str) -> None:
    """Other symbols behind the end of a row change nothing; others before it do."""
    torch.manual_seed(0)
    task = delayed_bit((3, 6), train=4, test=16)
    model = build_network(name, task.signature, 1, 0, width=8, hidden=0, depth=1)
    batch = dict(next(task.batches("test", 16)))
    assert not bool(batch["mask"].all())
    expected, tokens = gate_activity(model, batch), batch["tokens"]
    batch["tokens"] = torch.where(batch["mask"], tokens, tokens.max())
    for mine, other in zip(gate_activity(model, batch), expected, strict=True):
        assert mine.mean == pytest.approx(other.mean, abs=1e-7)
    batch["tokens"] = torch.where(batch["mask"], tokens.max() - tokens, tokens)
    assert gate_activity(model, batch)[0].mean != pytest.approx(expected[0].mean, abs=1e-5)


def test_cells_that_are_only_scanned_are_heard() -> None:
    task = transduction((1, 2), train=4, test=3)
    model = build_network("encoder-decoder", task.signature, 1, 0)
    layers = {gate.layer for gate in gate_activity(model, next(task.batches("test", 3)))}
    assert any("encoder" in layer for layer in layers)
    assert any("decoder" in layer for layer in layers)


def test_the_finding_says_what_the_table_holds() -> None:
    task = adding(6, train=4, test=3)
    model = build_network("lstm", task.signature, 1, 0, width=2, hidden=0, depth=1)
    constant_gates(model, [0.5, 0.95], -3.0)
    finding = Gates(examples=3)(model, task)
    assert "67 % of the gates' values are below 0.1 and 17 % above 0.9" in finding.sentence
    assert "the forget gate of blocks.0.mixer keeps a state for 3.6 positions (its slowest unit 20.0)." in finding.sentence
    assert [row["gate"] for row in finding.table] == ["input", "forget", "output"]
    assert ["memory" in row for row in finding.table] == [False, True, False]
    assert finding.figure is not None
    assert [bar["y"] for bar in finding.figure["data"]] == [[1.0, 0.0, 1.0], [0.0, 0.5, 0.0]]


def test_a_state_that_is_never_forgotten_lasts_for_ever() -> None:
    task = adding(6, train=4, test=3)
    model = build_network("lstm", task.signature, 1, 0, width=2, hidden=0, depth=1)
    constant_gates(model, [1.0, 1.0], 0.0)
    assert gate_activity(model, next(task.batches("test", 3)))[1].memory == math.inf
    assert "no gate forgets" in Gates(3)(build_network("lstm-original", task.signature, 1, 0, width=8, depth=1), task).sentence


def test_networks_without_gates_are_refused() -> None:
    task = adding(6, train=4, test=3)
    for name in ("elman", "multi-head-elman", "attention"):
        with pytest.raises(UserError, match="no recurrent layer with gates: name a model such as lstm"):
            gate_activity(build_network(name, task.signature, 1, 0, width=8), next(task.batches("test", 3)))
    with pytest.raises(ValueError, match="at least 1, got 0"):
        Gates(0)
