"""The delta rule against a loop in numpy, and as the memory that it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from assay.ops import delta_rule as module
from assay.ops import linear_attention
from assay.ops.delta_rule import delta_rule


def draw(length: int, forgetting: float | None = 1.0, batch: int = 2, heads: int = 3):
    generator = torch.Generator().manual_seed(length)
    queries, keys = (torch.randn(batch, heads, length, 4, generator=generator, dtype=torch.float64) for _ in "qk")
    values = torch.randn(batch, heads, length, 5, generator=generator, dtype=torch.float64)
    strength, decay = (torch.rand(batch, heads, length, generator=generator, dtype=torch.float64) for _ in "ba")
    state = torch.randn(batch, heads, 4, 5, generator=generator, dtype=torch.float64)
    return [queries, F.normalize(keys, dim=-1), values, strength, None if forgetting is None else -forgetting * decay, state]


def loop(queries, keys, values, strength, log_decay, state):
    a = np.ones(strength.shape) if log_decay is None else np.exp(log_decay.numpy())
    q, k, v, b, s = (x.numpy() for x in (queries, keys, values, strength, state))
    outputs = np.zeros_like(v)
    for row, head in np.ndindex(*q.shape[:2]):
        matrix = s[row, head]
        for t in range(q.shape[2]):
            key = k[row, head, t]
            kept = matrix - b[row, head, t] * np.outer(key, key @ matrix)
            matrix = a[row, head, t] * kept + b[row, head, t] * np.outer(key, v[row, head, t])
            outputs[row, head, t] = q[row, head, t] @ matrix
    return torch.from_numpy(outputs)


@pytest.mark.parametrize("forgetting", [None, 0.01, 3.0, 500.0])
@pytest.mark.parametrize("implementation", ["recurrent", "chunked", "auto"])
def test_outputs_are_those_of_a_loop(forgetting: float | None, implementation: str) -> None:
    for length in (1, 2, 63, 64, 65, 150):
        arguments = draw(length, forgetting)
        found, _ = delta_rule(*arguments, implementation=implementation)
        torch.testing.assert_close(found, loop(*arguments), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("forgetting", [None, 0.5, 500.0])
def test_chunks_give_the_gradients_of_single_positions(forgetting: float | None) -> None:
    arguments = draw(130, forgetting)
    given = [x.requires_grad_() for x in arguments if x is not None]
    mask = torch.rand(2, 130, generator=torch.Generator().manual_seed(0)) < 0.8
    results = []
    for implementation in ("recurrent", "chunked"):
        outputs, state = delta_rule(*arguments, mask, implementation)
        results.append((outputs, state, *torch.autograd.grad(outputs.square().sum() + state.square().sum(), given)))
    for mine, theirs in zip(*results, strict=True):
        assert (mine - theirs).abs().max() <= 1e-11 * max(1.0, float(theirs.detach().abs().max()))


def test_gradcheck_over_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 3)
    given = tuple(x.requires_grad_() for x in draw(7, batch=1, heads=1))
    assert torch.autograd.gradcheck(lambda *arguments: delta_rule(*arguments, implementation="chunked"), given)


def test_every_written_value_is_read_back_by_its_orthogonal_key() -> None:
    keys = torch.eye(16, dtype=torch.float64)[None, None]
    values, strength = torch.randn(1, 1, 16, 3, dtype=torch.float64), torch.ones(1, 1, 16, dtype=torch.float64)
    _, state = delta_rule(keys, keys, values, strength)
    torch.testing.assert_close(keys[0, 0] @ state[0, 0], values[0, 0], atol=1e-14, rtol=0)


def test_a_key_written_again_holds_the_last_value_alone() -> None:
    # plain linear attention would hold the sum; and equal keys are the worst case of the triangular system
    torch.manual_seed(0)
    keys = F.normalize(torch.randn(4), dim=0).expand(1, 1, 200, 4)
    values = torch.randn(1, 1, 200, 3)
    found, _ = delta_rule(keys, keys, values, torch.ones(1, 1, 200))
    torch.testing.assert_close(found, values, atol=1e-4, rtol=0)


def test_no_strength_writes_nothing() -> None:
    queries, keys, values, strength, decay, state = draw(70, 0.1)
    _, last = delta_rule(queries, keys, values, torch.zeros_like(strength), decay, state)
    torch.testing.assert_close(last, decay.sum(2).exp()[..., None, None] * state, atol=1e-14, rtol=1e-12)


def test_segments_of_a_long_sequence_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = draw(150)
    expected, last = delta_rule(*arguments)
    monkeypatch.setattr(linear_attention, "SEGMENT", 40)
    found, end = delta_rule(*arguments)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(end, last, atol=1e-12, rtol=1e-12)


def test_any_chunking_gives_the_same() -> None:
    *arguments, state = draw(150)
    expected, last = delta_rule(*arguments, state)
    for sizes in ((75, 75), (1, 64, 85), (0, 149, 1)):
        carried, parts = state, []
        for pieces in zip(*(x.split(sizes, 2) for x in arguments), strict=True):
            y, carried = delta_rule(*pieces, carried)
            parts.append(y)
        torch.testing.assert_close(torch.cat(parts, 2), expected, atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(carried, last, atol=1e-12, rtol=1e-12)


def test_masked_positions_are_as_if_they_were_not_there() -> None:
    *arguments, state = draw(80)
    mask = torch.rand(2, 80, generator=torch.Generator().manual_seed(3)) < 0.6
    found, last = delta_rule(*arguments, state, mask)
    for row in range(2):
        alone, end = delta_rule(*(x[row : row + 1, :, mask[row]] for x in arguments), state[row : row + 1])
        torch.testing.assert_close(found[row][:, mask[row]], alone[0], atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(last[row], end[0], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"strength": torch.ones(1, 2)}, r"strength must have shape \(1, 2, 3\), got \(1, 2\)"),
        ({"log_decay": torch.ones(1, 2, 3, 4)}, "log_decay must have shape"),
        ({"state": torch.ones(1, 2, 4, 4)}, "state must have shape"),
        ({"implementation": "scan"}, "implementation must be one of"),
    ],
)
def test_bad_arguments_are_refused(change: dict, words: str) -> None:
    arguments = {"queries": torch.ones(1, 2, 3, 4), "keys": torch.ones(1, 2, 3, 4), "values": torch.ones(1, 2, 3, 6)}
    with pytest.raises(ValueError, match=words):
        delta_rule(**(arguments | {"strength": torch.ones(1, 2, 3)} | change))
