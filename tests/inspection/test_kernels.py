"""The probe of recurrent kernels: it reports the plans that run, for the shapes that the model meets."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from assay import registry
from assay.contracts import Output
from assay.errors import UserError
from assay.inspection import kernels
from assay.inspection.kernels import FIXED, Kernels
from assay.models import build
from assay.nn.recurrent.drop_in import GRU
from assay.ops import recurrent_scan_compiled
from assay.tasks.synthetic.state_tracking import parity

TASK = parity(length=8, test_length=12, train=40, test=4)
needs_compiler = pytest.mark.skipif(recurrent_scan_compiled.library() is None, reason="there is no C++ compiler")


@needs_compiler
def test_a_row_a_layer_with_the_plan_that_runs() -> None:
    model = build("multi-head-lstm~attention", TASK.signature, 20_000, depth=4)
    finding = registry.resolve("probe", "kernels")(length=8, repeats=1)(model, TASK)
    assert len(finding.table) == 2
    row, layer = finding.table[0], next(part for part in model.modules() if hasattr(part, "head_width") and hasattr(part, "function"))
    plan = recurrent_scan_compiled.forward_plan("lstm", 32, layer.heads, layer.head_width)
    assert row["heads"] == f"{layer.heads} × {layer.head_width}"
    assert row["tile forwards"] == f"{plan.rows} rows × {plan.vectors} vectors × {plan.depth} deep"
    assert row["tasks"] == plan.tasks
    assert row["faster than the fixed tile"] > 0
    assert "2 recurrent layers run in C++" in finding.sentence
    assert model.training


@needs_compiler
def test_the_fixed_tile_is_one_the_kernel_has() -> None:
    functions = recurrent_scan_compiled.library()
    assert functions is not None
    assert functions.recurrent_has_tile(FIXED.rows, FIXED.vectors)


class Own(nn.Module):
    """A user's network around a drop-in layer, positions first."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer, self.head = nn.Embedding(2, 6), GRU(6, 10), nn.Linear(10, 2)

    def forward(self, batch: dict[str, torch.Tensor]) -> Output:
        return Output(self.head(self.layer(self.embedding(batch["tokens"]).transpose(0, 1))[0].transpose(0, 1)))


@needs_compiler
def test_drop_in_layers_are_seen_with_their_batch() -> None:
    (row,) = Kernels(length=4, repeats=1)(Own(), TASK).table
    assert (row["layer"], row["cell"], row["batch"], row["heads"]) == ("layer", "gru", 32, "1 × 10")


def test_without_a_compiler_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "library", lambda: None)
    assert "install g++" in Kernels()(build("slstm", TASK.signature, 5_000), TASK).sentence


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(UserError, match="No layer of this model runs the recurrent kernel"):
        Kernels()(build("attention", TASK.signature, 5_000), TASK)
