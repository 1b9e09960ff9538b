"""The full linear state space: published kernels, scipy's discretisations, three equal views, steps, rates; the layer made of it."""

from __future__ import annotations

import contextlib
import copy
import io
import itertools
import logging
import warnings
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.signal import cont2discrete
from torch import nn

from assay.contracts import Class, Series, Signature
from assay.measure import parameter_count, state_bytes
from assay.models import build
from assay.nn import LSSL, LinearStateSpace, set_rate, state_space_groups
from assay.nn.kept import Kept
from assay.nn.state_space import linear as module
from assay.nn.state_space.discretisation import discretise
from assay.ops.krylov import krylov
from assay.ops.long_convolution import long_convolution
from assay.testing import check_mixer
from assay.theory.hippo import MEASURES, hippo, structured_hippo

VARIANTS = {
    "fixed": partial(LSSL, state=4, learned="none", learned_step=False),
    "outputs of each channel's own system": partial(LSSL, state=6, outputs=3, learned="each", measure="legt"),
    "dense, held": partial(LSSL, state=5, measure="random", alpha="zoh", longest=0.01),
    "backward Euler": partial(LSSL, state=4, measure="lmu", alpha=1.0),
    "stabilised": partial(LSSL, state=4, measure="legt", stabilise=True, even=True, activation="silu", dropout=0.2),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_option_keeps_the_contract(name: str) -> None:
    check_mixer(VARIANTS[name])


def system_of(channels: int = 4, state: int = 16, **options) -> LinearStateSpace:
    torch.manual_seed(0)
    return LinearStateSpace(channels, state, **options).double()


# ------------------------------------------------------------------------------------------------ discretisation


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (0.5, [0.597881, 0.024159, -0.059685, -0.007623, 0.047934, 0.072540]),
        (1.0, [0.400022, 0.132066, 0.044879, 0.028328]),
        (0.0, [1.070451, -0.424192, -0.324595, 0.006743]),
    ],
)
def test_kernels_are_those_of_the_official_matrices(alpha: float, expected: list[float]) -> None:
    """LegS, N = 8, Δ = 0.05, C = 1."""
    step = torch.tensor([0.05], dtype=torch.float64)
    matrix, vector = discretise(*hippo("legs", 8), step, alpha, structured_hippo("legs", 8).solve)
    found = krylov(matrix, vector, len(expected), torch.ones(1, 8, dtype=torch.float64))[0, 0]
    np.testing.assert_allclose(found.numpy(), expected, atol=5.1e-7)


@pytest.mark.parametrize("measure", ["legs", "legt", "lagt", "random"])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0, "zoh"])
def test_discretisation_is_scipys(measure: str, alpha) -> None:
    torch.manual_seed(1)
    a, b = hippo(measure, 6)
    steps = torch.tensor([0.003, 0.1, 0.7], dtype=torch.float64)
    solve = None if measure == "random" else structured_hippo(measure, 6).solve
    matrix, vector = discretise(a, b, steps, alpha, solve)
    for index, step in enumerate(steps.tolist()):
        system = (a.numpy(), b.numpy()[:, None], np.ones((1, 6)), np.zeros((1, 1)))
        options = {"method": "zoh"} if alpha == "zoh" else {"method": "gbt", "alpha": alpha}
        expected = cont2discrete(system, step, **options)
        np.testing.assert_allclose(matrix[index].numpy(), expected[0], atol=1e-12)
        np.testing.assert_allclose(vector[index].numpy(), expected[1][:, 0], atol=1e-12)


def test_no_step_changes_nothing() -> None:
    matrix, vector = discretise(*hippo("legs", 8), torch.tensor([1e-12], dtype=torch.float64))
    torch.testing.assert_close(matrix[0], torch.eye(8, dtype=torch.float64), atol=1e-9, rtol=0)
    assert vector.abs().max() < 1e-11


# ------------------------------------------------------------------------------------------------ three views


@pytest.mark.parametrize("length", [1, 63, 64, 65, 257])
@pytest.mark.parametrize("measure", ["legs", "legt"])
def test_recurrence_convolution_and_chunks_are_one(measure: str, length: int) -> None:
    system = system_of(measure=measure, outputs=2)
    x = torch.randn(2, length, 4, dtype=torch.float64)
    state, steps = system.initial_state(2), []
    for u in x.unbind(1):
        y, state = system.step(u, state)
        steps.append(y)
    chunks, last = system.scan(x, system.initial_state(2))
    direct = long_convolution(x.repeat_interleave(2, -1), system.kernel(length), "direct") + (x[..., None] * system.skip).flatten(2)
    for found in (system(x), chunks, torch.stack(steps, 1)):
        torch.testing.assert_close(found, direct, atol=1e-10, rtol=0)
    torch.testing.assert_close(last, state, atol=1e-11, rtol=0)


def continuous(system: LinearStateSpace, u: torch.Tensor, parts: int) -> torch.Tensor:
    """Every step cut into ``parts`` with the input held, (channels, length)."""
    fine = copy.deepcopy(system)
    with torch.no_grad():
        fine.log_step -= np.log(parts)
        return (fine(u.repeat_interleave(parts, 1)) - u.repeat_interleave(parts, 1) * fine.skip[:, 0])[0, parts - 1 :: parts].T


@pytest.mark.parametrize(("alpha", "order"), [(0.5, 2), (0.0, 1), (1.0, 1)])
def test_finer_steps_converge_to_the_differential_equation(alpha: float, order: int) -> None:
    """Against the exact solution of the held input: the error falls with the square of the step for α = ½, else with the step."""
    u = torch.randn(1, 40, 2, dtype=torch.float64)
    options = {"state": 4, "shortest": 0.05, "longest": 0.1}
    exact = continuous(system_of(2, alpha="zoh", **options), u, 1)
    errors = [float((continuous(system_of(2, alpha=alpha, **options), u, parts) - exact).abs().max()) for parts in (8, 16, 32)]
    for coarse, fine in itertools.pairwise(errors):
        assert 2**order * 0.85 < coarse / fine < 2**order * 1.2


def test_a_state_is_handed_over_with_its_gradient() -> None:
    """Back-propagation through a chunk's end is that through the whole."""
    system, x = system_of(3, 8), torch.randn(2, 150, 3, dtype=torch.float64)
    parameters = [parameter for parameter in system.parameters() if parameter.requires_grad]
    first, state = system.scan(x[:, :70], system.initial_state(2))
    chunked = torch.cat([first, system.scan(x[:, 70:], state)[0]], 1)
    mine, theirs = (torch.autograd.grad(y.square().sum(), parameters) for y in (chunked, system(x)))
    for one, other in zip(mine, theirs, strict=True):
        assert (one - other).abs().max() < 1e-9 * max(1.0, float(other.abs().max()))


def test_a_long_stream_keeps_its_digits_in_float32() -> None:
    system, x = system_of(8, 64), torch.randn(1, 4000, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = system(x)
        system.float()
        assert (system(x.float()) - expected).abs().max() < 1e-4 * expected.abs().max()
        assert (system.scan(x.float(), system.initial_state(1))[0] - expected).abs().max() < 1e-4 * expected.abs().max()


# ------------------------------------------------------------------------------------------------ steps and rates


def test_a_rate_is_a_step_size() -> None:
    system, x = system_of(), torch.randn(1, 90, 4, dtype=torch.float64)
    slower = copy.deepcopy(system)
    with torch.no_grad():
        slower.log_step += np.log(1.7)
        expected, before = slower(x), system(x)
        assert not torch.allclose(expected, before)
        set_rate(system, 1.7)
        torch.testing.assert_close(system(x), expected)  # and not the kernel kept from before
        torch.testing.assert_close(system.scan(x, system.initial_state(1))[0], expected)
        set_rate(system, 1)
        assert torch.equal(system(x), before)


def test_a_published_rate_changes_the_matrix_alone_and_is_whole() -> None:
    system = system_of(2, 5)
    (_, inputs), (_, twice) = system.discretised(), (setattr(system, "rate", 2), system.discretised())
    set_rate(system, 2.3, as_published=True)
    found = system.discretised()
    torch.testing.assert_close(found[0], twice[0], atol=0, rtol=0)
    torch.testing.assert_close(found[1], inputs, atol=0, rtol=0)
    set_rate(system, 2)
    torch.testing.assert_close(system.discretised()[1], twice[1], atol=0, rtol=0)


def test_half_the_samples_at_twice_the_step_give_the_same_function() -> None:
    """On a slow signal; without the rate they do not."""
    torch.manual_seed(0)
    layer = LSSL(3, state=8, shortest=1e-3, longest=1e-2).double()
    t = torch.arange(2000, dtype=torch.float64)
    x = torch.stack([(t / period).sin() for period in (97, 150, 220)], -1)[None]
    with torch.no_grad():
        whole, half = layer(x)[:, 1::2], x[:, 1::2]
        size = whole.std()
        assert (layer(half) - whole)[:, 500:].std() > 0.2 * size
        set_rate(layer, 2)
        assert (layer(half) - whole)[:, 500:].std() < 0.02 * size


def test_what_is_kept_is_made_again_when_a_parameter_changes() -> None:
    system, x = system_of(), torch.randn(1, 20, 4, dtype=torch.float64)
    with torch.no_grad():
        system(x), system.step(x[:, 0], system.initial_state(1))
        for parameter in (system.output, system.log_step, system.system.shift):
            parameter.mul_(0.9)
            fresh = copy.deepcopy(system)
            fresh._kept = Kept()
            assert torch.equal(system(x), fresh(x))
            assert torch.equal(system.step(x[:, 0], system.initial_state(1))[0], fresh.step(x[:, 0], fresh.initial_state(1))[0])


@pytest.mark.parametrize("options", [{}, {"measure": "random", "learned": "each"}, {"alpha": 0.0}, {"alpha": 1.0, "outputs": 2}])
def test_irregular_steps(options: dict) -> None:
    """Equal gaps are the plain layer; a gap g is the plain layer with the step g Δ."""
    system, x = system_of(2, 4, **options), torch.randn(2, 12, 2, dtype=torch.float64)
    y, state = system.irregular(x, torch.ones(2, 12))
    expected, last = system.scan(x, system.initial_state(2))
    torch.testing.assert_close(y, expected, atol=1e-11, rtol=0)
    torch.testing.assert_close(state, last, atol=1e-11, rtol=0)
    gaps = torch.ones(2, 12)
    gaps[0, 6:] = 2.5
    first, state = system.scan(x[:1, :6], system.initial_state(1))
    system.rate = 2.5
    second, _ = system.scan(x[:1, 6:], state)
    system.rate = 1.0
    torch.testing.assert_close(system.irregular(x, gaps)[0][0], torch.cat([first, second], 1)[0], atol=1e-11, rtol=0)


# ------------------------------------------------------------------------------------------------ the layer


def test_layer_is_the_system_then_a_map() -> None:
    torch.manual_seed(0)
    layer, x = LSSL(6, state=4, outputs=2), torch.randn(2, 20, 6)
    torch.testing.assert_close(layer(x), layer.output_projection(F.gelu(layer.system(x))))


def test_counts_of_parameters_and_state() -> None:
    width, state = 8, 16
    own = 2 * width + width * state + width * width + width  # Δ, D, C, W and c
    assert parameter_count(LSSL(width, state)) == own + 7 * state
    assert parameter_count(LSSL(width, state, learned="each")) == own + 7 * state * width
    assert parameter_count(LSSL(width, state, measure="random")) == own + state * state + state
    fixed = LSSL(width, state, learned="none", learned_step=False)
    assert sum(parameter.numel() for parameter in fixed.parameters() if parameter.requires_grad) == own - width
    assert state_bytes(LSSL(width, state).initial_state(2)) == 2 * width * state * 4


@pytest.mark.parametrize("measure", MEASURES)
def test_every_measure_starts_where_it_should(measure: str) -> None:
    torch.manual_seed(0)
    system = LinearStateSpace(3, 8, measure=measure)
    torch.manual_seed(0)
    matrix, vector = hippo(measure, 8)
    found = system.system.continuous()
    assert (found[0] - matrix).abs().max() < 1e-4 * matrix.abs().max()  # Chebyshev's T has pivots of 1e-3, which lose digits of float32
    torch.testing.assert_close(found[1], vector, atol=1e-6, rtol=1e-6)
    step = system.log_step.exp()
    assert 1e-3 <= step.min() <= step.max() <= 0.1 * 1.0001


def test_spectral_radius_sees_what_grows() -> None:
    system = system_of(2, 8)
    assert system.spectral_radius() < 1
    with torch.no_grad():
        system.system.left.mul_(-1)
    assert system.spectral_radius() > 1


def test_what_grows_is_divided_by_its_growth_and_nothing_else_is() -> None:
    torch.manual_seed(0)
    system = LinearStateSpace(3, 6, learned="each", even=True, stabilise=True).double()
    torch.testing.assert_close(system.log_step.exp().detach(), torch.tensor([1e-3, 1e-2, 1e-1], dtype=torch.float64))
    x = torch.randn(1, 400, 3, dtype=torch.float64)
    before = system(x)
    with torch.no_grad():
        system.system.left[1].mul_(-1)
        plain = copy.deepcopy(system)
        plain.stabilise = False
        assert plain.spectral_radius() > 1
        assert system.spectral_radius() == pytest.approx(1)
        after = system(x)
    assert torch.equal(after[..., [0, 2]], before[..., [0, 2]])
    assert after.isfinite().all()
    with pytest.raises(ValueError, match="irregular steps go without stabilise"):
        system.irregular(x, torch.ones(1, 400))


def test_a_pivot_that_training_brings_near_zero_is_said() -> None:
    system = system_of(2, 4)
    with torch.no_grad():
        system.system.diagonal[1] = 1e-9
    with pytest.warns(UserWarning, match=r"a pivot of A's tridiagonal matrix below 1e-06"):
        system.kernel(3)


def test_groups_hold_every_parameter_once_and_move_the_system_as_far_as_said() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(LSSL(4, state=8), LSSL(4, state=8, learned="none"))
    groups = state_space_groups(model, 1e-2)
    assert [group["lr"] for group in groups] == [1e-2, 1e-3, pytest.approx(1e-3)]
    assert [group["weight_decay"] for group in groups] == [0.01, 0, 0]
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)
    before = model[0].system.system.form().shift.detach()
    model(torch.randn(4, 50, 4)).square().mean().backward()
    torch.optim.Adam(groups).step()
    moved = (model[0].system.system.form().shift - before).detach().abs().max()
    assert float(moved) == pytest.approx(1e-4, rel=0.01)


def test_a_shared_system_learns_slowly_and_stays_stable() -> None:
    """The same step of an optimiser moves A a tenth as far as C."""
    torch.manual_seed(0)
    layer, x = LSSL(4, state=8), torch.randn(4, 100, 4)
    before = [part.clone() for part in layer.system.system.form()]
    optimiser = torch.optim.Adam(layer.parameters(), lr=1e-2)
    layer(x).square().mean().backward()
    optimiser.step()
    moved = max(float((now - then).detach().abs().max()) for now, then in zip(layer.system.system.form(), before, strict=True))
    assert moved == pytest.approx(1e-3, rel=0.01)
    assert layer.system.spectral_radius() < 1


def test_rates_reach_every_block_of_a_model() -> None:
    model = build("lssl", Signature(Series(1, 50), Class(3)), 5_000, state=8)
    set_rate(model, 0.5)
    parts = [part for part in model.modules() if isinstance(part, LinearStateSpace)]
    assert [part.rate for part in parts] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: LSSL(0), "must be at least 1, got 0, 64 and 1"),
        (lambda: LSSL(4, state=0), "got 4, 0 and 1"),
        (lambda: LSSL(4, alpha=1.5), r"alpha must lie in \[0, 1\] or be 'zoh', got 1.5"),
        (lambda: LSSL(4, alpha=-0.1), "got -0.1"),
        (lambda: LSSL(4, alpha="foh"), "got 'foh'"),
        (lambda: LSSL(4, shortest=0.0), "ordered, above 0 and finite, got 0.0 and 0.1"),
        (lambda: LSSL(4, shortest=0.2), "got 0.2 and 0.1"),
        (lambda: LSSL(4, measure="fourier"), "measure must be one of legs, .* got 'fourier'"),
        (lambda: LSSL(4, learned="all"), "learned must be one of none, shared, each, got 'all'"),
        (lambda: LSSL(4)(torch.zeros(2, 5, 3)), r"\(batch, length, 4\), got \(2, 5, 3\)"),
        (lambda: set_rate(LSSL(4), 0), "rate must be above 0, got 0"),
        (lambda: set_rate(nn.Linear(2, 2), 2), "Linear has no LinearStateSpace"),
        (lambda: set_rate(LSSL(4), -1, as_published=True), "rate must be above 0, got -1"),
        (lambda: state_space_groups(nn.Linear(2, 2), 1e-2), "Linear has no LinearStateSpace"),
        (lambda: state_space_groups(LSSL(2), 0.0), "rates must be above 0"),
        (lambda: LinearStateSpace(2).irregular(torch.zeros(1, 3, 2), torch.ones(1, 2)), r"gaps must have shape \(1, 3\), got \(1, 2\)"),
        (lambda: LinearStateSpace(2).irregular(torch.zeros(1, 1, 2), torch.zeros(1, 1)), "gaps must be above 0, got 0"),
        (lambda: LinearStateSpace(2, alpha="zoh").irregular(torch.zeros(1, 1, 2), torch.ones(1, 1)), "got 'zoh'"),
    ],
)
def test_bad_arguments_are_refused(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_a_singular_start_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = structured_hippo("legs", 4)._replace(diagonal=torch.tensor([1.0, 1e-9, 1, 1], dtype=torch.float64))
    monkeypatch.setattr(module, "structured_hippo", lambda *_: broken)
    with pytest.raises(ValueError, match=r"tridiagonal matrix of legs has a pivot of 1\.0e-09"):
        LinearStateSpace(2, 4)


@pytest.mark.slow
def test_onnx_runtime_gives_the_same() -> None:
    """With an empty place in the middle; the kernel becomes a constant of the graph."""
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    torch.manual_seed(0)
    layer, x = LSSL(4, state=2).eval(), torch.randn(2, 10, 4)
    mask = torch.arange(10).expand(2, 10) != 4
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(layer, (x, mask), dynamo=True, verbose=False)
    assert program is not None
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    names = [entry.name for entry in session.get_inputs()]
    (found,) = session.run(None, {name: value.numpy() for name, value in zip(names, (x, mask), strict=True)})
    with torch.no_grad():
        assert (torch.from_numpy(found) - layer(x, mask))[mask].abs().max() < 1e-5
