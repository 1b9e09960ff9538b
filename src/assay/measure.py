"""What a network costs: parameters, bytes, floating-point operations, latency, resident memory, streaming state."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.utils.rnn import PackedSequence
from torch.utils.flop_counter import FlopCounterMode

FlopFormula = Callable[[nn.Module, tuple[Any, ...], Any], int]
"""``(module, positional arguments of its forward, its output) -> operations``."""

_MODULE_FORMULAS: dict[type[nn.Module], FlopFormula] = {}


def parameter_count(module: nn.Module) -> int:
    """Numbers a module learns, shared ones once; frozen ones count too, for they must be kept."""
    return sum(parameter.numel() for parameter in module.parameters())


def parameter_bytes(module: nn.Module) -> int:
    """Bytes of parameters and buffers, shared tensors once."""
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def state_bytes(state: Any) -> int:
    """Bytes of all tensors in a state: any nesting of tuples, lists, mappings and dataclasses."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(state_bytes(value) for value in state.values())
    if isinstance(state, (tuple, list)):
        return sum(state_bytes(value) for value in state)
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        return sum(state_bytes(getattr(state, field.name)) for field in dataclasses.fields(state))
    return 0


# ------------------------------------------------------------------------------------------------ operations


def register_flops(module_class: type[nn.Module], formula: FlopFormula) -> None:
    """Give a module class its own operation count, in place of what the operator counter sees inside it.

    Args:
        module_class: instances of exactly this class, or of a subclass without a formula of its own.
        formula: ``(module, arguments, output) -> operations`` of one forward call; a multiply-add is two operations.
    """
    _MODULE_FORMULAS[module_class] = formula


def count_flops(function: Callable[..., Any], *args: Any) -> int:
    """Floating-point operations of one call: matrix products, convolutions, attention, Fourier transforms, sparse products, gathers.

    A multiply-add is two operations; element-wise work is not counted, as in `torch.utils.flop_counter`, whose count this is with the
    gaps filled: ``nn.LSTM/GRU/RNN`` (a fused kernel counts as nothing there), FFTs, attention on a CPU, sparse products by their
    non-zeros, and whatever `register_flops` was told of. The call changes nothing: a module runs in evaluation mode, without gradient,
    and the random state is put back.

    Args:
        function: a module or any function of tensors.
        args: its arguments.
    """
    counter = FlopCounterMode(display=False, custom_mapping=_operator_formulas())
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(enabled=True))
        if isinstance(function, nn.Module):
            stack.enter_context(_evaluating(function))
        stack.enter_context(torch.inference_mode(False))  # the counter's own hooks fail inside it
        stack.enter_context(torch.no_grad())
        corrections = stack.enter_context(_module_formulas_over(counter))
        stack.enter_context(counter)
        function(*args)
    return int(counter.get_total_flops() + sum(corrections))


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def _module_formulas_over(counter: FlopCounterMode) -> Iterator[list[int]]:
    """While open, collects formula minus operator count for every call of a module that has a formula (outermost only)."""
    corrections: list[int] = []
    open_calls: list[tuple[nn.Module, int]] = []

    def enter(module: nn.Module, _args: Any) -> None:
        if not open_calls and _formula_of(module) is not None:
            open_calls.append((module, counter.get_total_flops()))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if open_calls and open_calls[-1][0] is module:
            _, before = open_calls.pop()
            formula = _formula_of(module)
            assert formula is not None  # only such modules are opened
            corrections.append(formula(module, args, output) - (counter.get_total_flops() - before))

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield corrections
    finally:
        for handle in handles:
            handle.remove()


def _formula_of(module: nn.Module) -> FlopFormula | None:
    return next((_MODULE_FORMULAS[kind] for kind in type(module).__mro__ if kind in _MODULE_FORMULAS), None)


def _recurrent_flops(module: nn.Module, args: tuple[Any, ...], _output: Any) -> int:
    """Per step, layer and direction: ``2 · gates · hidden · (input + recurrent width)``, and the projection of a projected LSTM."""
    assert isinstance(module, nn.RNNBase)
    x = args[0]
    steps = len(x.data) if isinstance(x, PackedSequence) else math.prod(x.shape[:-1])
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    directions = 2 if module.bidirectional else 1
    width = module.proj_size or module.hidden_size
    total = 0
    for layer in range(module.num_layers):
        inputs = module.input_size if layer == 0 else width * directions
        one = 2 * gates * module.hidden_size * (inputs + width) + 2 * module.hidden_size * module.proj_size
        total += directions * steps * one
    return total


register_flops(nn.RNNBase, _recurrent_flops)


def _operator_formulas() -> dict[Any, Any]:
    aten = torch.ops.aten
    formulas: dict[Any, Any] = {
        aten._fft_r2c: _Raw(_real_transform_flops),
        aten._fft_c2r: _Raw(_real_transform_flops),
        aten._fft_c2c: _Raw(lambda x, dims, *_rest, out_val=None: _transform_flops(x.shape, dims)),
        aten._scaled_dot_product_flash_attention_for_cpu: _Raw(_attention_flops),
        aten.mm: _Raw(_product_flops),
        aten.addmm: _Raw(lambda _bias, a, b, out_val=None, **_options: _product_flops(a, b)),
        aten.linalg_solve_triangular: _Raw(lambda a, b, out_val=None, **_options: a.shape[-1] * b.numel()),
        aten.index_add: _Raw(lambda _into, _dim, _index, source, out_val=None, **_options: 2 * source.numel()),
        aten.index_add_: _Raw(lambda _into, _dim, _index, source, out_val=None, **_options: 2 * source.numel()),
        aten.scatter_add: _Raw(lambda _into, _dim, _index, source, out_val=None: 2 * source.numel()),
        aten.scatter_add_: _Raw(lambda _into, _dim, _index, source, out_val=None: 2 * source.numel()),
    }
    return formulas


class _Raw:
    """A formula that the counter gives tensors instead of shapes."""

    _get_raw = True

    def __init__(self, formula: Callable[..., float]) -> None:
        self.formula = formula

    def __call__(self, *args: Any, **kwargs: Any) -> int:
        return int(self.formula(*args, **kwargs))


def _transform_flops(shape: Any, dims: Any) -> float:
    """``5 N log2 N`` a complex transform of N points, the usual count of radix-2 (Cooley and Tukey, 1965)."""
    points = math.prod(shape[dim] for dim in dims)
    return 5 * math.prod(shape) * math.log2(max(points, 2))


def _real_transform_flops(x: Tensor, dims: Any, *_rest: Any, out_val: Any = None) -> float:
    """Half of a complex transform over the longer of the two sides."""
    real = x if not x.is_complex() else out_val
    return _transform_flops(real.shape, dims) / 2


def _attention_flops(query: Tensor, key: Tensor, value: Tensor, *_rest: Any, out_val: Any = None, **_options: Any) -> int:
    """Scores and weighted sum: ``2 · batch · heads · queries · keys · (key width + value width)``."""
    batch, heads, queries, width = query.shape
    return 2 * batch * heads * queries * key.shape[-2] * (width + value.shape[-1])


def _product_flops(a: Tensor, b: Tensor, out_val: Any = None, **_options: Any) -> int:
    """``2 · rows · inner · columns``, with the stored entries in place of rows · inner where the left side is sparse."""
    entries = a.numel() if a.layout == torch.strided else a._nnz()
    return 2 * entries * b.shape[-1]


# ------------------------------------------------------------------------------------------------ time and memory


def latency(function: Callable[[], Any], repeats: int = 50, warmup: int = 5) -> tuple[float, float]:
    """Median and 95th percentile of one call, in milliseconds.

    Args:
        function: called with no argument; fix the number of threads before (``torch.set_num_threads``).
        repeats: timed calls, at least 2.
        warmup: calls before them that are not timed.

    Raises:
        ValueError: fewer than two repeats.
    """
    if repeats < 2:
        raise ValueError(f"repeats must be at least 2, got {repeats}")
    for _ in range(warmup):
        function()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times), statistics.quantiles(times, n=20, method="inclusive")[-1]


def machine() -> str:
    """The processor, how many of it may be used, and the accelerator, in a few words: a time means little without them."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    words = [_processor_name(), f"{processors} processor{'' if processors == 1 else 's'}"]
    if torch.cuda.is_available():
        words.append(torch.cuda.get_device_name())
    return ", ".join(words)


def _processor_name() -> str:
    """The name that the maker gave it, where the system tells; else the architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def processor_seconds(function: Callable[[], Any]) -> float:
    """Processor time of one call, all threads: with one thread, the time it needs whatever else the machine does."""
    started = time.process_time()
    function()
    return time.process_time() - started


def wall_seconds(function: Callable[[], Any]) -> float:
    """Wall time of one call: what several threads are for."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def medians(
    rivals: Mapping[str, Callable[[], Any]],
    repeats: int,
    clock: Callable[[Callable[[], Any]], float] = processor_seconds,
    threads: int = 1,
    warm: int = 1,
) -> dict[str, float]:
    """Median milliseconds of each rival's call; they take turns, so that a busy moment hits them all.

    Args:
        rivals: calls by name.
        repeats: timed calls of each.
        clock: seconds of one call.
        threads: PyTorch's while it lasts; processor time counts every thread, so that with one it is the work done.
        warm: calls of each before them that are not timed.
    """
    times: dict[str, list[float]] = {name: [] for name in rivals}
    with fixed_threads(threads):
        for turn in range(-warm, repeats):
            for name, function in rivals.items():
                taken = clock(function)
                if turn >= 0:
                    times[name].append(1e3 * taken)
    return {name: statistics.median(taken) for name, taken in times.items()}


@contextmanager
def fixed_threads(count: int) -> Iterator[None]:
    """PyTorch on so many threads, and then on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def resident_bytes() -> int:
    """Bytes of this process that lie in physical memory now."""
    status = Path("/proc/self/statm")
    if status.exists():
        import resource

        return int(status.read_text().split()[1]) * resource.getpagesize()
    return peak_resident_bytes()


def peak_resident_bytes() -> int:
    """The most bytes of this process that lay in physical memory at once, since its start or the last `reset_peak`."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def reset_peak() -> bool:
    """Start `peak_resident_bytes` afresh; False where the system cannot (then it keeps counting from the process's start)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True
