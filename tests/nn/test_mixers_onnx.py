"""Aaren, its folded form, LSTM and GRU in ONNX Runtime: the whole sequence and one step, within 1e-4 of PyTorch."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from assay.nn import GRU, LSTM, Aaren

pytestmark = pytest.mark.slow
MIXERS = {"aaren": Aaren, "folded aaren": lambda width: Aaren(width).fold(), "lstm": LSTM, "gru": GRU}


class Step(nn.Module):
    """One position, with the state as tensors in a row."""

    def __init__(self, mixer: Any) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x_t: torch.Tensor, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y, after = self.mixer.step(x_t, state)
        return (y, *after)


def onnx_difference(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> float:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(module, arguments, dynamo=True, verbose=False)
    assert program is not None
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    names = [entry.name for entry in session.get_inputs()]
    found = session.run(None, {name: value.numpy() for name, value in zip(names, arguments, strict=True)})
    with torch.no_grad():
        expected = module(*arguments)
    expected = expected if isinstance(expected, tuple) else (expected,)
    return max(float((torch.from_numpy(mine) - theirs).abs().max()) for mine, theirs in zip(found, expected, strict=True))


@pytest.mark.parametrize("name", MIXERS)
def test_forward_and_step(name: str) -> None:
    torch.manual_seed(0)
    mixer = MIXERS[name](8).eval()
    x = torch.randn(2, 20, 8)
    assert onnx_difference(mixer, (x,)) < 1e-4
    _, state = mixer.scan(x, mixer.initial_state(2))
    assert onnx_difference(Step(mixer).eval(), (x[:, 0], *(part.detach().contiguous() for part in state))) < 1e-4


def test_aaren_with_padding() -> None:
    torch.manual_seed(0)
    mask = torch.arange(20)[None] < torch.tensor([[20], [7]])
    assert onnx_difference(Aaren(8).eval(), (torch.randn(2, 20, 8), mask)) < 1e-4
