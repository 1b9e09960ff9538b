"""Costs against closed forms and against torch's own operator counter where that one is right."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from assay import measure


def unrolled_flops(kind, inputs, hidden, batch, length):
    """torch's own count of the same recurrence written with one cell a step: no fused kernel hides it."""
    cell = kind(inputs, hidden)
    state = (torch.zeros(batch, hidden), torch.zeros(batch, hidden)) if kind is nn.LSTMCell else torch.zeros(batch, hidden)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        for _ in range(length):
            state = cell(torch.zeros(batch, inputs), state)
    return counter.get_total_flops()


@pytest.mark.parametrize(("layer", "cell"), [(nn.LSTM, nn.LSTMCell), (nn.GRU, nn.GRUCell), (nn.RNN, nn.RNNCell)])
def test_recurrent_layers_count_as_their_unrolled_cells(layer, cell):
    expected = unrolled_flops(cell, 6, 10, 3, 7)
    assert expected > 0
    assert measure.count_flops(layer(6, 10, batch_first=True), torch.zeros(3, 7, 6)) == expected


def test_a_layer_inside_a_model_is_counted_once_with_the_rest():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent = nn.GRU(4, 8, num_layers=2, bidirectional=True, batch_first=True)
            self.head = nn.Linear(16, 3)

        def forward(self, x):
            return self.head(self.recurrent(x)[0])

    first = 2 * 2 * 5 * 2 * 3 * 8 * (4 + 8)  # batch·length, directions, multiply-add, gates, hidden, (input + hidden)
    second = 2 * 2 * 5 * 2 * 3 * 8 * (16 + 8)
    assert measure.count_flops(Model(), torch.zeros(2, 5, 4)) == first + second + 2 * 2 * 5 * 16 * 3


def test_a_packed_sequence_counts_its_real_steps_only():
    packed = nn.utils.rnn.pack_padded_sequence(torch.zeros(2, 9, 4), [9, 3], batch_first=True)
    assert measure.count_flops(nn.LSTM(4, 5, batch_first=True), packed) == 12 * 2 * 4 * 5 * (4 + 5)


def test_fourier_transforms_are_not_free():
    assert measure.count_flops(torch.fft.fft, torch.zeros(3, 64, dtype=torch.complex64)) == 5 * 3 * 64 * 6
    assert measure.count_flops(torch.fft.rfft, torch.zeros(3, 64)) == 5 * 3 * 64 * 6 / 2
    assert measure.count_flops(torch.fft.irfft, torch.zeros(3, 33, dtype=torch.complex64)) == 5 * 3 * 64 * 6 / 2
    assert measure.count_flops(torch.fft.fft2, torch.zeros(2, 8, 16, dtype=torch.complex64)) == 5 * 2 * 128 * 7


def test_attention_on_a_cpu_counts_like_its_two_products():
    query, key, value = torch.zeros(2, 3, 5, 16), torch.zeros(2, 3, 7, 16), torch.zeros(2, 3, 7, 16)
    plain = measure.count_flops(lambda: (query @ key.mT).softmax(-1) @ value)
    assert measure.count_flops(nn.functional.scaled_dot_product_attention, query, key, value) == plain == 2 * 2 * 3 * 5 * 7 * 32


def test_sparse_products_count_their_entries():
    dense = torch.eye(10)
    assert measure.count_flops(torch.mm, dense, torch.zeros(10, 4)) == 2 * 10 * 10 * 4
    assert measure.count_flops(torch.mm, dense.to_sparse_coo(), torch.zeros(10, 4)) == 2 * 10 * 4


def test_a_registered_formula_replaces_what_the_counter_sees():
    class Part(nn.Linear):
        pass

    measure.register_flops(Part, lambda module, args, output: 123)
    assert measure.count_flops(nn.Sequential(nn.Linear(2, 2), Part(2, 2)), torch.zeros(1, 2)) == 2 * 2 * 2 + 123


def test_counting_leaves_the_module_and_the_random_state_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    model[2].eval()
    before, state = model[1].running_mean.clone(), torch.get_rng_state()
    measure.count_flops(model, torch.ones(8, 4))
    assert model.training
    assert not model[2].training
    assert torch.equal(before, model[1].running_mean)
    assert torch.equal(state, torch.get_rng_state())


def test_counting_works_inside_inference_mode_with_parameters_as_inputs():
    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.query, self.map = nn.Parameter(torch.ones(3)), nn.Linear(3, 3)

        def forward(self, x):
            return x @ self.map(self.query)

    model = Part()
    with torch.inference_mode():
        assert measure.count_flops(model, torch.zeros(1, 3)) > 0


def test_a_triangular_solve_counts_half_a_square_of_multiply_adds_a_column():
    matrix, columns = torch.eye(8), torch.ones(8, 3)
    assert measure.count_flops(lambda: torch.linalg.solve_triangular(matrix, columns, upper=False)) == 8 * 8 * 3


def test_parameters_and_bytes_count_shared_tensors_once():
    layer = nn.Linear(10, 10, bias=False)
    tied = nn.Sequential(layer, layer, nn.BatchNorm1d(10))
    assert measure.parameter_count(tied) == 100 + 20
    assert measure.parameter_bytes(tied) == 4 * (100 + 20 + 20) + 8  # running statistics, and one 64-bit counter


def test_state_bytes_walks_nested_states():
    state = {"layers": [(torch.zeros(2, 3), torch.zeros(4, dtype=torch.float64)), None], "position": torch.tensor(1)}
    assert measure.state_bytes(state) == 24 + 32 + 8


def test_latency_is_the_median_and_percentile_of_the_clock(monkeypatch):
    durations = [1.0, 2.0, 3.0, 4.0, 100.0]
    ticks = iter(np.concatenate([[10.0 * i, 10.0 * i + d / 1e3] for i, d in enumerate(durations)]))
    monkeypatch.setattr(measure.time, "perf_counter", lambda: next(ticks))
    median, tail = measure.latency(lambda: None, repeats=5, warmup=0)
    assert math.isclose(median, 3.0, rel_tol=1e-6)
    assert math.isclose(tail, np.percentile(durations, 95), rel_tol=1e-6)
    with pytest.raises(ValueError, match="got 1"):
        measure.latency(lambda: None, repeats=1)


def test_peak_memory_sees_a_large_array_that_is_gone_again():
    """In a process of its own: where the peak cannot be reset, an earlier test's larger one would hide this array."""
    program = """
import numpy
from assay import measure
measure.reset_peak()
before = measure.resident_bytes()
block = numpy.ones(60_000_000, dtype=numpy.uint8)
del block
print(measure.peak_resident_bytes() - before)
"""
    grown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert int(grown) > 50_000_000


def test_a_machine_is_named_by_its_processor_and_how_many_may_be_used():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from assay import measure; print(measure.machine())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    name, _, rest = told.partition(", 1 processor")
    assert name
    assert not rest.startswith("s")
    assert measure.machine().startswith(name)
