"""Recurrences in ONNX Runtime: the whole sequence as one operator, within 1e-4 of PyTorch, with an empty place in the middle."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings

import pytest
import torch

from assay.nn.attention.linear import LinearAttention
from assay.nn.attention.random_feature import RandomFeatureAttention
from assay.nn.attention.taylor import TaylorAttention
from assay.nn.memory.turing_machine import NeuralTuringMachine
from assay.nn.recurrent.gated_delta import GatedDelta
from assay.nn.recurrent.gated_linear_attention import GatedLinearAttention
from assay.nn.recurrent.historical import PeepholeLSTM
from assay.nn.recurrent.jordan import Jordan
from assay.nn.recurrent.linear_recurrent_unit import LinearRecurrentUnit
from assay.nn.recurrent.min_gru import MinGRU
from assay.nn.recurrent.multi_head import SLSTM
from assay.nn.recurrent.original_gru import OriginalGRU
from assay.nn.recurrent.retention import Retention
from assay.nn.recurrent.rwkv4 import RWKV4TimeMix
from assay.nn.state_space.s4d import S4D
from assay.nn.state_space.selective import SelectiveStateSpace

pytestmark = pytest.mark.slow
MIXERS = [
    LinearAttention,
    TaylorAttention,
    RandomFeatureAttention,
    Retention,
    GatedLinearAttention,
    GatedDelta,
    RWKV4TimeMix,
    MinGRU,
    SelectiveStateSpace,
    Jordan,
    PeepholeLSTM,
    OriginalGRU,
    SLSTM,
    LinearRecurrentUnit,
    S4D,
    NeuralTuringMachine,
]


@pytest.mark.parametrize("make", MIXERS)
def test_forward(make: type) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.manual_seed(0)
    mixer, x = make(8).eval(), torch.randn(2, 20, 8)
    mask = torch.arange(20).expand(2, 20) != 4
    with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(mixer, (x, mask), dynamo=True, verbose=False)
    assert program is not None
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    names = [entry.name for entry in session.get_inputs()]
    (found,) = session.run(None, {name: value.numpy() for name, value in zip(names, (x, mask), strict=True)})
    with torch.no_grad():
        expected = mixer(x, mask)
    assert (torch.from_numpy(found) - expected)[mask].abs().max() < 1e-4
