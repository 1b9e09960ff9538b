import numpy as np
import onnxruntime
import pytest
import torch

from assay import models
from assay.bench.runs import Run, open_run, write_source
from assay.bench.verbs import export
from assay.contracts import Class, Graph, Image, NextTokens, Series, Signature, Table, Tokens, Values
from assay.errors import UserError
from assay.exporters.example import StepView, step_example
from assay.exporters.onnx import TOLERANCE, to_onnx
from assay.exporters.safetensors import to_safetensors
from assay.exporters.torch_export import to_torch
from assay.nn.memory.titans import MemoryAsContext

SERIES = Signature(Series(3, 16), Class(4))


def runtime(path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def made(name, signature, parameters=6_000, **options):
    torch.manual_seed(0)
    model = models.build(name, signature, parameters, **options).eval()
    for buffer in model.buffers():  # running statistics that are not those of a fresh network
        if buffer.dtype == torch.float32 and buffer.ndim == 1:
            buffer += 0.3 * torch.rand_like(buffer)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "signature", "parameters"),
    [
        ("simplenet", Signature(Image(1, 16, 16), Class(5)), 30_000),
        ("simplenet", SERIES, 20_000),
        ("inception-v4", Signature(Image(3, 32, 32), Class(5)), 150_000),
        ("inception-resnet-v2", Signature(Image(3, 32, 32), Class(5)), 150_000),
        ("lstm", SERIES, 6_000),
        ("gru", Signature(Series(2, 12), Values(2), horizon=3), 6_000),
        ("aaren", SERIES, 6_000),
        ("aaren", Signature(Tokens(20, 16), NextTokens(20)), 6_000),
        ("mlp", Signature(Table(7), Values(2)), 2_000),
    ],
)
def test_onnx_forward_for_batches_of_any_size(name, signature, parameters, tmp_path):
    model = made(name, signature, parameters)
    (path,) = to_onnx(model, tmp_path)
    kind = signature.input
    inputs = {
        Image: lambda n: {"image": torch.randn(n, *(getattr(kind, size) for size in ("channels", "height", "width")))},
        Series: lambda n: {"series": torch.randn(n, kind.length, kind.channels)},
        Tokens: lambda n: {"tokens": torch.randint(20, (n, 16))},
        Table: lambda n: {"table": torch.randn(n, 7)},
    }[type(kind)]
    for size in (1, 5):
        batch = inputs(size)
        with torch.no_grad():
            expected = model(batch).prediction.numpy()
        (found,) = runtime(path).run(None, {key: value.numpy() for key, value in batch.items()})
        np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)
    assert not list(tmp_path.glob("*.partial*"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["aaren", "lstm", "lstm-forget", "gru", "s4d", "lssl", "attention", "sliding-window-attention"])
def test_onnx_step_streams_to_the_forward_prediction(name, tmp_path):
    model = made(name, SERIES)
    (step,) = to_onnx(model, tmp_path, step=True)
    assert not (tmp_path / "model.onnx").exists()  # of a long sequence it would be another, larger file that nobody asked for
    session = runtime(step)
    x = torch.randn(1, 16, 3)
    with torch.no_grad():
        expected = model({"series": x}).prediction.numpy()
        state = [leaf.numpy() for leaf in torch.utils._pytree.tree_leaves(model.initial_state(1))]
    names = [entry.name for entry in session.get_inputs()]
    for t in range(16):
        given = {"x": x[:, t].numpy(), **{f"state_{index}": leaf for index, leaf in enumerate(state)}}
        prediction, *state = session.run(None, {key: value for key, value in given.items() if key in names})
    np.testing.assert_allclose(prediction, expected, atol=TOLERANCE, rtol=0)


def test_a_step_of_a_memory_as_context_is_a_graph():
    """Where a segment ends depends on numbers, a single position does not."""
    torch.manual_seed(0)
    layer, x = MemoryAsContext(4, heads=1, segment=3, layers=1, persistent=1).eval(), torch.randn(1, 4)
    leaves, structure = torch.utils._pytree.tree_flatten(layer.initial_state(1))
    with torch.no_grad():
        program = torch.export.export(StepView(layer, structure), (x, *leaves)).module()
        torch.testing.assert_close(program(x, *leaves)[0], layer.step(x, layer.initial_state(1))[0])


def test_states_that_begin_as_one_tensor_are_two_inputs():
    """A mixer may return the same zeros for both; a graph that took them for one would read the cell where the hidden state belongs."""
    model = made("lstm-forget", SERIES)
    example = step_example(model, SERIES)
    program = torch.export.export(example.view, example.arguments).module()
    later = (torch.randn(1, 3), *(torch.randn_like(leaf) if leaf.is_floating_point() else leaf for leaf in example.arguments[1:]))
    for ours, theirs in zip(program(*later), example.view(*later), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_step_that_drifts_from_the_stream_is_refused(tmp_path, monkeypatch):
    """The step file is run over a whole stream: an error that one step does not show must be found."""
    monkeypatch.setattr("assay.exporters.onnx._difference", lambda want, got: float(np.abs(want - got).max() + 1e-6))
    monkeypatch.setattr("assay.exporters.onnx.TOLERANCE", 1e-6)
    with pytest.raises(UserError, match="differs"):
        to_onnx(made("gru", SERIES), tmp_path, step=True)
    assert not (tmp_path / "step.onnx").exists()


def test_what_cannot_be_traced_is_said_in_the_tracers_own_words(tmp_path):
    class Peeking(torch.nn.Module):
        signature = Signature(Table(3), Class(2))

        def forward(self, batch):
            if batch["table"].sum() > 0:
                raise AssertionError
            return batch

    with pytest.raises(UserError, match=r"cannot be traced: .*data-dependent.*; use --to safetensors"):
        to_torch(Peeking(), tmp_path)


def test_folded_aaren_exports_with_half_the_parameters(tmp_path):
    from assay.models.surgery import apply

    model = made("aaren", SERIES)
    before = models.parameter_count(model)
    folded = apply(model, {"edit": "fold-queries"})
    assert models.parameter_count(folded) < before
    to_onnx(folded, tmp_path)


def test_torch_export_runs_without_the_model(tmp_path):
    model = made("aaren", SERIES)
    (path,) = to_torch(model, tmp_path)
    series = torch.randn(3, 16, 3)
    again = torch.export.load(str(path)).module()(series)
    torch.testing.assert_close(again, model({"series": series}).prediction, atol=1e-5, rtol=0)


def test_safetensors_reload(tmp_path):
    model = made("gru", SERIES)
    to_safetensors(model, tmp_path)
    series = torch.randn(3, 16, 3)
    assert torch.equal(models.load(tmp_path)({"series": series}).prediction, model({"series": series}).prediction)
    with pytest.raises(UserError, match="--to onnx"):
        to_safetensors(model, tmp_path, step=True)


def test_refusals_leave_nothing_behind(tmp_path, monkeypatch):
    simplenet = made("simplenet", Signature(Image(1, 16, 16), Class(5)), 20_000)
    with pytest.raises(UserError, match="stream"):
        to_torch(simplenet, tmp_path, step=True)
    graph = Signature(Graph(4, 10, 20), Class(2))
    with pytest.raises(UserError, match="fixed size"):
        to_onnx(made("dagnn", graph, 500), tmp_path)
    monkeypatch.setattr("assay.exporters.onnx._largest_difference", lambda *arguments: 1.0)
    (tmp_path / "model.pt2").unlink(missing_ok=True)
    with pytest.raises(UserError, match="differs"):
        to_onnx(made("mlp", Signature(Table(3), Class(2)), 500), tmp_path)
    assert not list(tmp_path.iterdir())


def test_export_verb_writes_into_the_run(tmp_path):
    model = made("mlp", Signature(Table(3), Class(2)), 500)
    models.save(model, tmp_path)
    write_source(tmp_path, "somewhere.csv", {}, type("Task", (), {"encoding": {}})())
    run = open_run(tmp_path)
    assert isinstance(run, Run)
    files = export(run, "onnx")
    assert {file.name for file in files} == {"model.onnx", "model.json"}
    assert all(file.parent == tmp_path / "export" for file in files)
    with pytest.raises(UserError, match="did you mean"):
        export(run, "onx")
