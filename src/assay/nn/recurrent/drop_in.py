"""`LSTM`, `GRU`, `RNN`: PyTorch's own layers, run by `assay.ops.recurrent_scan`: same constructor, same weights, same results.

    from assay.nn.recurrent.drop_in import LSTM  # in place of: from torch.nn import LSTM

A layer is a subclass of PyTorch's and has its parameters, so a ``state_dict`` of either loads into the other. It runs the compiled form in
float32 on a CPU where a C++ compiler is found; everything else, and every export, is PyTorch's own forward. ``RNN`` has one nonlinearity
more, ``sigmoid``, which PyTorch lacks, so that `assay.ops.recurrent_scan` runs it everywhere.

Further cells (Jordan, peepholes, coupled gates …) are not here: these are the layers that PyTorch has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from assay.ops.affine import affine
from assay.ops.recurrent_scan import SHORT, Backend, scan_states
from assay.ops.recurrent_scan_compiled import library


@contextmanager
def with_gradients(layer: nn.RNNBase) -> Iterator[None]:
    """Let a layer of PyTorch on a graphics processor have a gradient in evaluation too: cuDNN knows one in training mode alone."""
    if not layer.training and torch.is_grad_enabled() and layer.all_weights[0][0].is_cuda:
        with torch.backends.cudnn.flags(enabled=False):
            yield
    else:
        yield


class _DropIn(nn.RNNBase):
    """What the three share: layers, directions, packed sequences."""

    states = 1
    backend: Backend = "compiled"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.proj_size:
            raise ValueError(f"proj_size must be 0, got {self.proj_size}: projected states are PyTorch's alone, use torch.nn.LSTM")

    def forward(self, input: Tensor | PackedSequence, hx: Any = None) -> Any:
        """As the layer of ``torch.nn``: (output, final states); ``input`` a tensor or packed, ``hx`` the initial states."""
        if not self._served(input, hx):
            with with_gradients(self):
                return super().forward(input, hx)
        x, lengths = self._rows(input)
        initial = self._initial(hx, x, input)
        y, final = self._layers(x, lengths, initial)
        if isinstance(input, PackedSequence):
            assert lengths is not None  # a packed input has them
            return self._packed(y, lengths, input), self._outwards(final)
        if input.ndim == 2:
            return y[0], self._outwards(final[:, :, 0])
        return (y if self.batch_first else y.transpose(0, 1)), self._outwards(final)

    def _served(self, input: Tensor | PackedSequence, hx: Any) -> bool:
        """Whether the compiled form can do this call; what it cannot do, PyTorch's own does, or refuses."""
        data = input.data if isinstance(input, PackedSequence) else input
        tensors = [data, *self.parameters(), *(hx if isinstance(hx, tuple) else () if hx is None else (hx,))]
        if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():  # which know nothing of a compiled form
            return False
        if any(x.dtype != torch.float32 or x.device.type != "cpu" for x in tensors):
            return False
        if not isinstance(input, PackedSequence) and input.ndim not in (2, 3):
            return False
        steps = (
            len(input.batch_sizes) if isinstance(input, PackedSequence) else input.shape[1 if self.batch_first and input.ndim == 3 else 0]
        )
        return data.numel() > 0 and steps >= SHORT and not torch.is_autocast_enabled("cpu") and library() is not None

    def _rows(self, input: Tensor | PackedSequence) -> tuple[Tensor, Tensor | None]:
        """(batch, length, width), and the lengths of packed sequences, in the order they were packed from."""
        if isinstance(input, PackedSequence):
            return pad_packed_sequence(input, batch_first=True)
        if input.ndim == 2:
            return input[None], None
        return (input if self.batch_first else input.transpose(0, 1)), None

    def _initial(self, hx: Any, x: Tensor, input: Tensor | PackedSequence) -> Tensor:
        """(states, layers · directions, batch, hidden)."""
        directions = 2 if self.bidirectional else 1
        if hx is None:
            return x.new_zeros(self.states, self.num_layers * directions, x.shape[0], self.hidden_size)
        given = hx if self.states > 1 else (hx,)
        if isinstance(input, Tensor) and input.ndim == 2:
            given = tuple(state[:, None] for state in given)
        batch = None if isinstance(input, Tensor) else input.batch_sizes
        data = (x if self.batch_first else x.transpose(0, 1)) if batch is None else input.data
        self.check_forward_args(data, tuple(given) if self.states > 1 else given[0], batch)  # pyright: ignore[reportArgumentType]
        return torch.stack(tuple(given))

    def _layers(self, x: Tensor, lengths: Tensor | None, initial: Tensor) -> tuple[Tensor, Tensor]:
        lengths = None if lengths is None else lengths.to(x.device)
        mask = None if lengths is None else torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        directions = 2 if self.bidirectional else 1
        final = []
        for layer in range(self.num_layers):
            found = []
            for direction in range(directions):
                place, suffix = layer * directions + direction, f"_l{layer}{'_reverse' if direction else ''}"
                turned = _reversed(x, lengths) if direction else x
                hidden, last = self._scan(turned, mask, initial[:, place], suffix)
                found.append(_reversed(hidden, lengths) if direction else hidden)
                final.append(last)
            x = found[0] if directions == 1 else torch.cat(found, -1)
            if layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        if mask is not None:
            x = torch.where(mask[..., None], x, 0.0)
        return x, torch.stack(final, 1)

    def _scan(self, x: Tensor, mask: Tensor | None, initial: Tensor, suffix: str) -> tuple[Tensor, Tensor]:
        """One layer in one direction: hidden states (batch, length, hidden) and the last states (states, batch, hidden)."""
        weights, bias = self._gates(suffix)
        inputs = affine(x, getattr(self, f"weight_ih{suffix}")).unflatten(-1, (-1, 1, self.hidden_size))
        states = initial[:, :, None, None]
        hidden, last, *_ = scan_states(inputs, weights[:, None], bias[:, None], states, self.cell, self.backend, mask=mask)
        return hidden[:, :, 0], last[:, :, 0, 0]

    @property
    def cell(self) -> str:
        """Its name in `assay.ops.recurrent_cells`."""
        return self.mode.lower()

    def _gates(self, suffix: str) -> tuple[Tensor, Tensor]:
        """R (gates, hidden, hidden) and the bias (gates, hidden) of the cell, from PyTorch's parameters."""
        raise NotImplementedError

    def _blocks(self, name: str, gates: int) -> Tensor:
        """A parameter's rows by gates; zeros for a bias that is not there."""
        parameter = getattr(self, name, None)
        if parameter is None:
            return next(self.parameters()).new_zeros(gates, self.hidden_size)
        return parameter.unflatten(0, (gates, self.hidden_size))

    def _packed(self, y: Tensor, lengths: Tensor, like: PackedSequence) -> PackedSequence:
        order = like.sorted_indices
        data = pack_padded_sequence(*((y, lengths) if order is None else (y[order], lengths[order.cpu()])), batch_first=True).data
        return PackedSequence(data, like.batch_sizes, order, like.unsorted_indices)

    def _outwards(self, final: Tensor) -> Any:
        return tuple(final) if self.states > 1 else final[0]


class LSTM(_DropIn, nn.LSTM):
    """`torch.nn.LSTM`, as fast as `assay.ops.recurrent_scan`; arguments, shapes and errors as there, but ``proj_size`` must be 0."""

    states = 2

    def _gates(self, suffix: str) -> tuple[Tensor, Tensor]:
        return self._blocks(f"weight_hh{suffix}", 4), self._blocks(f"bias_ih{suffix}", 4) + self._blocks(f"bias_hh{suffix}", 4)


class GRU(_DropIn, nn.GRU):
    """`torch.nn.GRU`, as fast as `assay.ops.recurrent_scan`; arguments, shapes and errors as there."""

    def _gates(self, suffix: str) -> tuple[Tensor, Tensor]:
        weights = self._blocks(f"weight_hh{suffix}", 3)
        outer, inner = self._blocks(f"bias_ih{suffix}", 3), self._blocks(f"bias_hh{suffix}", 3)
        both = outer + inner
        return torch.cat([weights[2:], weights[:2]]), torch.stack([inner[2], both[0], both[1], outer[2]])


class RNN(_DropIn, nn.RNN):
    """`torch.nn.RNN`, as fast as `assay.ops.recurrent_scan`; arguments, shapes and errors as there, and a nonlinearity more.

    With ``nonlinearity="sigmoid"``: ``h_t = σ(W x_t + b + U h_{t−1} + c)``, the logistic function of the first simple recurrent networks.

    Source: Elman (1990), Finding structure in time.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        known = {"sigmoid": "tanh"}  # PyTorch's constructor refuses what it lacks
        super().__init__(*(known.get(value, value) for value in args), **{name: known.get(value, value) for name, value in options.items()})
        if "sigmoid" in (*args[3:4], options.get("nonlinearity")):
            self.nonlinearity, self.backend = "sigmoid", "auto"

    def _served(self, input: Tensor | PackedSequence, hx: Any) -> bool:
        if self.nonlinearity != "sigmoid":
            return super()._served(input, hx)
        data, packed = (input.data, True) if isinstance(input, PackedSequence) else (input, False)
        if (not packed and data.ndim not in (2, 3)) or data.shape[-1] != self.input_size:
            raise ValueError(f"input must have 2 or 3 dimensions, the last of {self.input_size}, got shape {tuple(data.shape)}")
        return True

    @property
    def cell(self) -> str:
        """Its name in `assay.ops.recurrent_cells`."""
        return {"tanh": "elman", "relu": "elman-relu", "sigmoid": "elman-sigmoid"}[self.nonlinearity]

    def _gates(self, suffix: str) -> tuple[Tensor, Tensor]:
        return self._blocks(f"weight_hh{suffix}", 1), self._blocks(f"bias_ih{suffix}", 1) + self._blocks(f"bias_hh{suffix}", 1)


def _reversed(x: Tensor, lengths: Tensor | None) -> Tensor:
    """(batch, length, …) from the last real position to the first; padding stays behind."""
    if lengths is None:
        return x.flip(1)
    place = torch.arange(x.shape[1], device=x.device)
    order = torch.where(place < lengths[:, None], lengths[:, None] - 1 - place, place)
    return x.gather(1, order[..., None].expand_as(x))
