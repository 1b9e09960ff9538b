"""What the claims of guidance rest on: the control sees other examples, verdicts can fail, runs are counted right."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from assay.contracts import Scale
from assay.models.activations import record
from assay.ops.similarities import debiased_cka
from assay.papers import guidance as paper

CLAIMS = {claim.name: claim for claim in paper.PAPER.claims}


def test_the_shuffled_guide_has_a_layers_statistics_but_not_its_geometry() -> None:
    guide = paper._residual(0)
    batch = next(paper._few_digits().training_batches(64, 0))
    (straight, *_), (shuffled, *_) = record(guide, batch), record(paper.Shuffled(guide), batch)
    torch.testing.assert_close(straight.output.flatten(1).norm(dim=1).sort().values, shuffled.output.flatten(1).norm(dim=1).sort().values)
    assert abs(debiased_cka(straight.output, shuffled.output)) < 0.2


def test_steps_are_counted_to_the_first_validation_that_is_as_good() -> None:
    run = SimpleNamespace(history=SimpleNamespace(curve=[{"step": step, "validation_accuracy": step / 100} for step in (10, 20, 30)]))
    assert paper._steps_to(run, 0.15) == 20
    assert paper._steps_to(run, 0.9) == 40


@pytest.mark.parametrize(
    ("accuracies", "verdict"),
    [
        ({"none": 0.6, "early": 0.7, "trained": 0.75}, "holds"),
        ({"none": 0.6, "early": 0.65, "trained": 0.75}, "fails"),
        ({"none": 0.6, "early": 0.7, "trained": 0.55}, "fails"),
    ],
)
def test_early_guidance_must_keep_half_of_a_gain_that_is_there(accuracies, verdict, monkeypatch) -> None:
    def runs(kind: str, scale: Scale, seeds: int = 5) -> list[SimpleNamespace]:
        return [SimpleNamespace(value=accuracies[kind])] * seeds

    monkeypatch.setattr(paper, "_runs", runs)
    measured = CLAIMS["early-guidance"].experiment("laptop")
    assert measured.verdict == verdict
    assert measured.values["test, early"] == pytest.approx(accuracies["early"])


def test_a_guide_that_did_not_learn_decides_nothing(monkeypatch) -> None:
    history = SimpleNamespace(best_validation=0.5)
    monkeypatch.setattr(paper.Setting, "train", lambda *_, **__: SimpleNamespace(model=torch.nn.Linear(1, 1), value=0.4, history=history))
    monkeypatch.setattr(paper, "string_parity", lambda *_, **__: SimpleNamespace(signature=None))
    monkeypatch.setattr(paper.Network, "made", lambda *_: torch.nn.Linear(1, 1))
    measured = CLAIMS["attention-parity"].experiment("laptop")
    assert measured.verdict == "undecided"
    assert np.isclose(measured.values["the guide itself"], 0.5)
