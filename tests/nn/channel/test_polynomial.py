"""The polynomial activations: initial values, order of the weights, exchange in trained networks, export."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from assay.nn.channel.feed_forward import FeedForward
from assay.nn.channel.polynomial import PolynomialComposition, PolyNorm, PolyReLU

X = torch.randn(3, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def filled(made: Any) -> Any:
    with torch.no_grad():
        made.double().weight.copy_(torch.tensor([0.5, -0.25, 1.0]).view(-1, *[1] * (made.weight.ndim - 1)))
        made.bias.fill_(0.1)
    return made


@pytest.mark.parametrize("kind", [PolyReLU, PolyNorm, PolynomialComposition])
def test_initial_values_are_one_over_the_order(kind: Any) -> None:
    for order in (1, 2, 3, 4, 5):
        made = kind(order=order)
        assert made.weight.tolist() == pytest.approx([1 / order] * order)
        assert made.bias.tolist() == [0.0]
        assert set(made.state_dict()) == {"weight", "bias"}  # the names of published checkpoints


def test_weights_are_highest_power_first() -> None:
    relu = X.clamp(min=0)
    torch.testing.assert_close(filled(PolyReLU())(X), 0.5 * relu**3 - 0.25 * relu**2 + relu + 0.1)
    peer = nn.RMSNorm(7, eps=1e-6, elementwise_affine=False)
    torch.testing.assert_close(filled(PolyNorm())(X), 0.5 * peer(X**3) - 0.25 * peer(X**2) + peer(X) + 0.1)


@pytest.mark.parametrize("kind", [PolyReLU, PolyNorm])
def test_the_basis_gives_the_same_function_as_the_kernel(kind: Any) -> None:
    made = filled(kind())
    expected = sum(a * b for a, b in zip(made.weight, made.basis(X), strict=True)) + made.bias
    torch.testing.assert_close(made(X), expected)


@pytest.mark.parametrize(
    ("base", "kind", "formula"),
    [
        ("relu", "I", lambda x, p: F.relu(x) ** p),
        ("gelu", "I", lambda x, p: F.gelu(x) ** p),
        ("tanh", "II", lambda x, p: torch.tanh(x**p)),
        ("silu", "II", lambda x, p: F.silu(x**p)),
        ("identity", "I", lambda x, p: x**p),
        (torch.sin, "II", lambda x, p: torch.sin(x**p)),
    ],
)
def test_the_family_against_its_formulas(base: Any, kind: str, formula: Any) -> None:
    made = filled(PolynomialComposition(base, kind=kind))
    torch.testing.assert_close(made(X), 0.5 * formula(X, 3) - 0.25 * formula(X, 2) + formula(X, 1) + 0.1)


def test_both_activations_are_members_of_the_family() -> None:
    torch.testing.assert_close(filled(PolynomialComposition("relu"))(X), filled(PolyReLU())(X))
    norm = nn.RMSNorm(7, eps=1e-6, elementwise_affine=False)
    torch.testing.assert_close(filled(PolynomialComposition(norm, kind="II"))(X), filled(PolyNorm())(X))


def test_a_base_with_parameters_trains() -> None:
    made = PolynomialComposition("prelu")
    made(X.float()).sum().backward()
    assert made.base.weight.grad is not None


def test_from_relu_is_relu() -> None:
    assert torch.equal(PolyReLU.from_relu()(X.float()), F.relu(X.float()))


def test_channels_have_coefficients_of_their_own() -> None:
    made = PolyNorm(channels=7).double()
    with torch.no_grad():
        made.weight[:, 2] = 0
        made.bias[2] = 5
    y = made(X)
    assert torch.equal(y[..., 2], torch.full((3, 5), 5.0, dtype=torch.float64))
    torch.testing.assert_close(y[..., 3], PolyNorm().double()(X)[..., 3])


def test_maps_are_normalised_over_their_channels() -> None:
    maps = torch.randn(2, 7, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = PolyNorm().double()(maps.movedim(1, -1)).movedim(-1, 1)
    torch.testing.assert_close(PolyNorm(dim=1).double()(maps), expected)


@pytest.mark.parametrize(("channels", "order"), [(None, 3), (7, 3), (None, 5)])
def test_fitting_finds_coefficients_that_made_the_data(channels: int | None, order: int) -> None:
    target = PolyReLU(order, channels).double()
    with torch.no_grad():
        for part in (target.weight, target.bias):
            part.normal_(generator=torch.Generator().manual_seed(1))
    made = PolyReLU(order, channels).double()
    assert made.fit(X, target(X).detach()) < 1e-10
    torch.testing.assert_close(made.weight, target.weight, atol=1e-8, rtol=1e-8)


def test_exchanging_a_gelu_reports_its_error() -> None:
    # a function with a negative part cannot be matched by powers of relu; the error says by how much
    made = PolyReLU().double()
    error = made.fit(X, F.gelu(X))
    assert error == pytest.approx(((made(X) - F.gelu(X)).norm() / F.gelu(X).norm()).item())
    assert 0.01 < error < 0.2


def test_a_dimension_of_one_is_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        y = PolyNorm(order=1)(torch.tensor([[2.0], [-3.0]]))
        PolyNorm(order=1)(torch.tensor([[2.0]]))
    torch.testing.assert_close(y, torch.tensor([[1.0], [-1.0]]), atol=1e-5, rtol=0)
    assert len(caplog.records) == 1


def test_a_dimension_split_over_devices_is_refused(tmp_path) -> None:
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        with pytest.raises(ValueError, match="split over devices"):
            PolyNorm()(distribute_tensor(torch.ones(2, 4), mesh, [Shard(1)]))
        assert distribute_tensor(torch.ones(2, 4), mesh, [Replicate()]).shape == (2, 4)
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("name", ["poly-relu", "poly-norm"])
def test_both_export_to_onnx_as_plain_operators(name: str, tmp_path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    layer, x = FeedForward(6, 12, activation=name).eval(), torch.randn(4, 6)
    torch.onnx.export(layer, (x,), tmp_path / "layer.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "layer.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), layer(x).detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PolyReLU(order=0), "order must be from 1 to 5, got 0"),
        (lambda: PolyNorm(order=6), "got 6"),
        (lambda: PolyNorm(eps=-1.0), "eps must be at least 0, got -1"),
        (lambda: PolyReLU(channels=0), "channels must be at least 1, got 0"),
        (lambda: PolynomialComposition(kind="III"), "kind must be I or II, got 'III'"),
        (lambda: PolyReLU().fit(torch.zeros(3), torch.zeros(2)), r"x's shape \(3,\), got \(2,\)"),
    ],
)
def test_bad_arguments_are_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
