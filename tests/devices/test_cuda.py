"""What runs on a graphics processor gives what it gives here: kernels, every mixer, every network, training."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from assay import models, registry
from assay.bench.runs import open_run
from assay.bench.verbs import evaluate, train
from assay.models.example import example_batch
from assay.ops.poly_norm import poly_norm
from assay.ops.recurrent_cells import CELLS
from assay.ops.recurrent_scan import recurrent_scan
from assay.ops.sigmoid_attention import sigmoid_attention
from assay.tasks import open as open_task
from assay.testing.examples import SIGNATURES
from assay.training import fit
from assay.training.distributed import make_fabric

if not torch.cuda.is_available():
    pytest.skip("there is no CUDA device", allow_module_level=True)

SCANS = [(1, 1, 1, 16), (1, 7, 1, 16), (33, 50, 4, 32), (16, 200, 2, 64)]


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the ten bits of TF32, which cuDNN's recurrent layers take where they may."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def normal(*sizes: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to("cuda", dtype)


def error(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over the norm of what is expected; NaN passes no bound."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm().clamp(min=1e-12))


# ------------------------------------------------------------------------------------------------ kernels in Triton


@pytest.mark.parametrize("shape", SCANS)
@pytest.mark.parametrize("function", list(CELLS))
def test_recurrent_scan_in_triton_is_the_reference(function: str, shape: tuple[int, int, int, int]) -> None:
    cell, (batch, length, heads, size) = CELLS[function], shape
    given = [normal(batch, length, cell.inputs, heads, size), normal(cell.recurrent, heads, size, size, seed=1) / size**0.5]
    given += [normal(cell.biases, heads, size, seed=2), normal(cell.states, batch, 1, heads, size, seed=3)]
    if function == "slstm":
        given[3][2] = given[3][2].abs() + 1  # its normaliser is never below 1
    flow = normal(batch, length, heads, size, seed=4)

    def run(backend: Any, dtype: torch.dtype) -> list[Tensor]:
        leaves = [x.to(dtype).requires_grad_() for x in given]
        states, last = recurrent_scan(*leaves, function, backend)
        return [states, *torch.autograd.grad((states[0] * flow.to(dtype)).sum() + last[0].sum(), leaves)]

    for found, expected in zip(run("triton", torch.float32), run("reference", torch.float64), strict=True):
        assert error(found, expected) < 2e-4


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
@pytest.mark.parametrize("rich", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_sigmoid_attention_in_triton_is_the_plain_form(causal: bool, rich: bool, dtype: torch.dtype, bound: float) -> None:
    queries, keys, values = (normal(2, heads, 333, 64, seed=place).to(dtype) for place, heads in enumerate((4, 2, 2)))
    options: dict[str, Any] = {"causal": causal, "bias": -5.8}
    if rich:
        seen = torch.rand(2, 1, 333, 333, generator=torch.Generator().manual_seed(5)).cuda() < 0.5
        options |= {"window": 100, "mask": seen[:, 0, 0], "slopes": torch.rand(4, device="cuda"), "visible": seen}

    def run(implementation: Any, dtype: torch.dtype) -> list[Tensor]:
        leaves = [x.to(dtype).requires_grad_() for x in (queries, keys, values)]
        y = sigmoid_attention(*leaves, **options, implementation=implementation)
        return [y, *torch.autograd.grad((y * normal(*y.shape, seed=9).to(dtype)).sum(), leaves)]

    for found, expected in zip(run("triton", dtype), run("plain", torch.float64), strict=True):
        assert error(found, expected) < bound


@pytest.mark.parametrize("length", [1, 2])
def test_sigmoid_attention_in_triton_takes_one_position(length: int) -> None:
    """What is one is a constant to the compiler, and its arithmetic another."""
    given = [normal(1, 1, length, 16, seed=place, dtype=torch.float32).requires_grad_() for place in range(3)]
    outputs = [sigmoid_attention(*given, causal=True, implementation=name) for name in ("triton", "plain")]
    for found, expected in zip(*(torch.autograd.grad(y.square().sum(), given) for y in outputs), strict=True):
        assert error(found, expected) < 1e-5
    assert error(*outputs) < 1e-5


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
@pytest.mark.parametrize("size", [7, 1000, 11_008])
def test_poly_norm_in_triton_is_the_reference(size: int, dtype: torch.dtype, bound: float) -> None:
    x, flow = normal(50, size).to(dtype), normal(50, size, seed=1).to(dtype)
    weight, bias = normal(3, seed=2).float(), normal(1, seed=3).float()

    def run(implementation: Any, dtype: torch.dtype) -> list[Tensor]:
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        leaves = [x.to(dtype).requires_grad_(), weight.to(wide).requires_grad_(), bias.to(wide).requires_grad_()]
        y = poly_norm(*leaves, implementation=implementation)
        return [y, *torch.autograd.grad((y * flow.to(dtype)).sum(), leaves)]

    for found, expected in zip(run("triton", dtype), run("reference", torch.float64), strict=True):
        assert error(found, expected) < bound


# ------------------------------------------------------------------------------------------------ mixers and networks


def reads(mixer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The further inputs that a mixer asks for."""
    generator = torch.Generator().manual_seed(1)
    more = {
        "tokens": torch.randint(7, x.shape[:2], generator=generator),
        "relation": torch.randint(3, (*x.shape[:2], x.shape[1]), generator=generator),
    }
    return {name: more[name].to(x.device) for name in getattr(mixer, "inputs", ())}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", registry.names("mixer"))
def test_mixer_gives_on_the_device_what_it_gives_here(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    here = registry.resolve("mixer", name)(64).to(dtype).eval()
    there = copy.deepcopy(here).cuda()
    x = normal(2, 96, 64).to("cpu", dtype)
    mask = torch.arange(96)[None] < torch.tensor([[96], [70]])
    outputs = []
    for module, device in ((here, "cpu"), (there, "cuda")):
        leaf = x.to(device).requires_grad_()
        more = {key: value.to(device) for key, value in reads(here, x).items()}
        y = module(leaf, mask=mask.to(device), **more).masked_fill(~mask.to(device)[..., None], 0)
        outputs.append([y.detach().cpu(), *(g.cpu() for g in torch.autograd.grad(y.square().sum(), leaf))])
    for found, expected in zip(outputs[1], outputs[0], strict=True):
        assert error(found, expected) < {torch.float64: 1e-9, torch.float32: 2e-3}[dtype]


@pytest.mark.parametrize("name", registry.names("mixer"))
def test_mixer_streams_on_the_device(name: str) -> None:
    torch.manual_seed(0)
    mixer = registry.resolve("mixer", name)(32).double().eval().cuda()
    if not mixer.causal or "relation" in getattr(mixer, "inputs", ()):
        pytest.skip("it does not stream")
    x = normal(2, 40, 32)
    more = reads(mixer, x)
    with torch.no_grad():
        whole = mixer(x, **more)
        state, pieces = mixer.initial_state(2), []
        piece, state = mixer.scan(x[:, :37], state, **{key: value[:, :37] for key, value in more.items()})
        pieces.append(piece)
        for t in range(37, 40):
            y, state = mixer.step(x[:, t], state, **{key: value[:, t] for key, value in more.items()})
            pieces.append(y[:, None])
    assert error(torch.cat(pieces, 1), whole) < 1e-9


@pytest.mark.parametrize("name", registry.names("model"))
def test_network_trains_on_the_device(name: str) -> None:
    family = models.family(name)
    for title, signature in SIGNATURES.items():
        if family.accepts(signature) is not None:
            continue
        torch.manual_seed(0)
        here = models.build(name, signature, 6_000).double().eval()
        there = copy.deepcopy(here).cuda()
        batch = example_batch(signature, 3)
        found = there({key: value.cuda().double() if value.is_floating_point() else value.cuda() for key, value in batch.items()})
        expected = here({key: value.double() if value.is_floating_point() else value for key, value in batch.items()})
        assert error(found.prediction.cpu(), expected.prediction) < 1e-8, title
        found.prediction.square().sum().backward()
        assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in there.parameters()), title


# ------------------------------------------------------------------------------------------------ training and what follows


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_training_on_the_device_learns(precision: str) -> None:
    task = open_task("digits")
    torch.manual_seed(0)
    model = models.build("resnet", task.signature, 30_000)
    fabric = make_fabric(precision=precision)
    fabric.launch()
    history = fit(model, task, steps=150, fabric=fabric)
    assert next(model.parameters()).is_cuda
    assert history.best_validation > 0.85


def test_a_run_made_on_the_device_opens_and_predicts(tmp_path: Any) -> None:
    run = train("digits", "lstm", steps=60, output=tmp_path / "run")
    assert 0.3 < evaluate(run.folder)["accuracy"] <= 1
    assert open_run(run.folder).model is not None
