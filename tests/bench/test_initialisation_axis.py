"""Critical initialisation as a person asks for it: of a run, and as an axis of a comparison."""

from __future__ import annotations

from pathlib import Path

import pytest

from assay import models
from assay.bench.plan import model_options
from assay.bench.verbs import train
from assay.bench.words import parse_axis
from assay.errors import UserError


def test_a_run_keeps_how_it_began(tmp_path: Path) -> None:
    run = train("digits", "mlp", parameters=2_000, steps=2, init="critical", output=tmp_path / "run")
    assert models.read_config(run.folder)["build"]["options"] == {"init": "critical"}
    with pytest.raises(UserError, match="leave one of --from and --init out"):
        train("digits", from_run=run.folder, steps=2, init="critical", output=tmp_path / "on")


def test_an_axis_reaches_the_networks() -> None:
    axis = parse_axis(["init=default,critical"])
    assert list(axis["init"]) == ["default", "critical"]
    assert model_options({"init": "critical", "steps": 3}) == {"init": "critical"}
