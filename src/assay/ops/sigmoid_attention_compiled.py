"""The C++ form of `assay.ops.sigmoid_attention`, and softmax attention by the same blocks to measure it against."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from assay.ops import extension
from assay.ops.attention_scene import Scene

SOURCE = Path(__file__).parent / "kernels" / "sigmoid_attention.cpp"
LEAST_QUERIES = 24
"""Queries below which a block's lanes would be mostly empty."""

_SIZES = (
    "batch",
    "heads",
    "key_heads",
    "queries",
    "keys",
    "width",
    "value_width",
    "causal",
    "window",
    "softmax",
    "visible_stride",
    "threads",
)
_TENSORS = (
    *("query", "key", "value", "bias", "slopes", "query_positions", "key_positions", "kept", "visible", "output"),
    *("output_gradient", "query_gradient", "key_gradient", "value_gradient", "bias_gradient"),
)


class _Problem(ctypes.Structure):
    """The ``Problem`` of the C++ source."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in _SIZES),
        ("scale", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in _TENSORS),
    ]


def library() -> ctypes.CDLL | None:
    """The compiled functions, or None where they cannot be had."""
    return extension.compiled(SOURCE)


def attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scene: Scene) -> Tensor:
    """`assay.ops.sigmoid_attention.sigmoid_attention` in C++, computed in float32; ``bias`` (batch, heads, queries)."""
    outputs = _Compiled.apply(queries.float(), keys.float(), values.float(), bias.float(), scene)
    return outputs.to(queries.dtype)


def softmax_attention(queries: Tensor, keys: Tensor, values: Tensor, causal: bool = False) -> Tensor:
    """Softmax attention by the blocks of the sigmoid's: the yardstick for what leaving out the row's maximum and sum saves.

    Forward alone, float32; shapes as `assay.ops.sigmoid_attention.sigmoid_attention`'s.

    Raises:
        RuntimeError: there is no compiler.
    """
    stop = keys.shape[2]
    positions = torch.arange(stop)[None]
    scene = Scene(queries.shape[-1] ** -0.5, positions[:, stop - queries.shape[2] :], positions, causal)
    return _forward(*_dense(queries, keys, values, queries.new_zeros(queries.shape[:3])), scene, softmax=True)


class _Compiled(torch.autograd.Function):
    """Only inputs are kept for the backward pass."""

    @staticmethod
    @torch.compiler.disable
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scene: Scene) -> Tensor:
        inputs = _dense(queries, keys, values, bias)
        ctx.save_for_backward(*inputs)
        ctx.scene = scene
        return _forward(*inputs, scene)

    @staticmethod
    @once_differentiable
    @torch.compiler.disable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        inputs = ctx.saved_tensors
        queries, keys, values, bias = inputs
        found = (torch.zeros_like(queries), torch.zeros_like(keys), torch.zeros_like(values), torch.zeros_like(bias))
        if all(x.numel() for x in inputs):
            names = ("query_gradient", "key_gradient", "value_gradient", "bias_gradient")
            arriving = gradients[0].contiguous()
            _call("attention_backward", inputs, ctx.scene, output_gradient=arriving, **dict(zip(names, found, strict=True)))
        return *found, None


def _forward(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, scene: Scene, softmax: bool = False) -> Tensor:
    outputs = queries.new_zeros(*queries.shape[:3], values.shape[3])
    if outputs.numel() and keys.numel():
        _call("attention_forward", (queries, keys, values, bias), scene, softmax, output=outputs)
    return outputs


def _call(name: str, inputs: tuple[Tensor, ...], scene: Scene, softmax: bool = False, **results: Tensor) -> None:
    functions = library()
    if functions is None:
        raise RuntimeError("compiled attention needs a C++ compiler, and this machine has none that works")
    queries, keys, values, bias = inputs
    batch, heads, count, width = queries.shape
    tensors = {
        **{"query": queries, "key": keys, "value": values, "bias": bias},
        "query_positions": scene.query_positions.float().expand(batch, -1).contiguous(),
        "key_positions": scene.key_positions.float().expand(batch, -1).contiguous(),
        "slopes": None if scene.slopes is None else scene.slopes.float().contiguous(),
        "kept": None if scene.mask is None else scene.mask.contiguous(),
        "visible": None if scene.visible is None else scene.visible.contiguous(),
        **results,
    }
    sizes = (batch, heads, keys.shape[1], count, keys.shape[2], width, values.shape[3])
    stride = 0 if scene.visible is None or len(scene.visible) == 1 else count * keys.shape[2]
    switches = (int(scene.causal), scene.window or 0, int(softmax), stride, torch.get_num_threads())
    addresses = (None if tensors.get(key) is None else tensors[key].data_ptr() for key in _TENSORS)
    getattr(functions, name)(ctypes.byref(_Problem(*sizes, *switches, scene.scale, *addresses)))


def _dense(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return queries.detach().contiguous(), keys.detach().contiguous(), values.detach().contiguous(), bias.detach().contiguous()
