"""The learning memory against loops over its equations, in its limits, and in any pieces."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch
import torch.nn.functional as F

from assay.ops import surprise_scan as module
from assay.ops.delta_rule import delta_rule
from assay.ops.linear_attention import linear_attention
from assay.ops.surprise_scan import apply_memory, gradient_factors, initial_surprise, surprise_scan

CHUNK = 5


def draw(length: int, depth: int = 2, batch: int = 2, heads: int = 2, width: int = 3, hidden: int = 4):
    generator = torch.Generator().manual_seed(10 * length + depth)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    sizes = [width, *[hidden] * (depth - 1), width]
    memory = [0.5 * normal(heads, *pair) for pair in pairwise(sizes)]
    queries, keys, values = (normal(batch, heads, length, width) for _ in "qkv")
    step = 0.1 * torch.rand(batch, heads, length, generator=generator, dtype=torch.float64)
    return memory, [queries, keys, values, step, normal(batch, heads, length), normal(batch, heads, length)]


def loop(memory, queries, keys, values, step, forget, momentum, chunk, gain=None):
    """The paper's equations, a row, a head and a position at a time, with autograd."""
    outputs = torch.zeros_like(values)

    def through(weights, x):
        y = apply_memory(weights, x)
        return y if gain is None else x + (1 + gain[head]) * F.layer_norm(y, y.shape)

    for row, head in product(*map(range, queries.shape[:2])):
        weights = [layer[head].clone() for layer in memory]
        surprise = [torch.zeros_like(layer) for layer in weights]
        for t in range(queries.shape[2]):
            if t % chunk == 0:
                anchor = [layer.detach().requires_grad_() for layer in weights]
            loss = (through(anchor, keys[row, head, t]) - values[row, head, t]).square().sum()
            gradients = torch.autograd.grad(loss, anchor)
            eta, alpha = momentum[row, head, t].sigmoid(), forget[row, head, t].sigmoid()
            surprise = [eta * s - step[row, head, t] * u for s, u in zip(surprise, gradients, strict=True)]
            weights = [(1 - alpha) * layer + s for layer, s in zip(weights, surprise, strict=True)]
            outputs[row, head, t] = through(weights, queries[row, head, t])
    return outputs.detach()


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("chunk", [1, CHUNK])
@pytest.mark.parametrize("implementation", ["recurrent", "chunked"])
def test_outputs_are_those_of_a_loop(depth: int, chunk: int, implementation: str) -> None:
    memory, arguments = draw(12, depth)
    found, _ = surprise_scan(*arguments, initial_surprise(memory, 2, chunk), chunk=chunk, implementation=implementation)
    torch.testing.assert_close(found, loop(memory, *arguments, chunk), atol=1e-11, rtol=0)


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("implementation", ["recurrent", "chunked"])
def test_a_normalised_residual_is_that_of_a_loop(depth: int, implementation: str) -> None:
    memory, arguments = draw(12, depth)
    gain = torch.tensor([[0.5, -0.2, 0.1], [0.0, 2.0, -1.5]], dtype=torch.float64)
    options = {"chunk": CHUNK, "implementation": implementation}
    found, _ = surprise_scan(*arguments, initial_surprise(memory, 2, CHUNK), gain=gain, **options)
    torch.testing.assert_close(found, loop(memory, *arguments, CHUNK, gain), atol=1e-11, rtol=0)
    with pytest.raises(ValueError, match=r"gain must have shape .* \(2, 3\), got \(2, 4\)"):
        surprise_scan(*arguments, initial_surprise(memory, 2, CHUNK), gain=torch.zeros(2, 4), **options)


def run(memory, arguments, forget=True, momentum=True, mask=None, sizes=None, **options):
    """Outputs and the last state's tensors, in pieces of the given sizes."""
    gates = [arguments[4] if forget else None, arguments[5] if momentum else None]
    state = initial_surprise(memory, len(arguments[0]), options["chunk"], forget, momentum)
    start, parts = 0, []
    for size in sizes or (arguments[0].shape[2],):
        piece = slice(start, start + size)
        given = [None if x is None else x[:, :, piece] for x in (*arguments[:4], *gates)]
        y, state = surprise_scan(*given, state, None if mask is None else mask[:, piece], **options)
        parts.append(y)
        start += size
    return torch.cat(parts, 2), [*state.weights, *state.surprise, state.pending, state.count.double()]


VARIANTS = [
    {"gates": gates, "read": read, "forget": forget, "momentum": momentum, "largest_gradient": limit}
    for gates, read in (("token", "token"), ("token", "after"), ("token", "before"), ("chunk", "after"), ("chunk", "before"))
    for forget, momentum in ((True, True), (False, True), (True, False))
    for limit in (None, 0.3)
]


@pytest.mark.parametrize("options", VARIANTS, ids=lambda options: "-".join(map(str, options.values())))
def test_chunks_pieces_and_single_positions_agree_in_every_variant(options: dict) -> None:
    memory, arguments = draw(17)
    mask = torch.rand(2, 17, generator=torch.Generator().manual_seed(1)) < 0.7
    for real in (None, mask):
        expected, last = run(memory, arguments, mask=real, chunk=CHUNK, implementation="recurrent", **options)
        for sizes in ((17,), (3, 1, 0, 11, 2)):
            found, end = run(memory, arguments, mask=real, chunk=CHUNK, sizes=sizes, **options)
            torch.testing.assert_close(found, expected, atol=1e-11, rtol=0)
            for mine, theirs in zip(end, last, strict=True):
                torch.testing.assert_close(mine, theirs, atol=1e-11, rtol=0)


def test_float32_stays_within_1e_5() -> None:
    memory, arguments = draw(60)
    expected, _ = run(memory, arguments, chunk=16)
    found, _ = run([layer.float() for layer in memory], [x.float() for x in arguments], chunk=16)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_factors_multiply_to_the_gradients_of_autograd(depth: int) -> None:
    memory, (_, keys, values, *_) = draw(6, depth)
    weights = [layer[0] for layer in memory]

    def loss(layers, key, value):
        return (apply_memory(layers, key[None])[0] - value).square().sum()

    expected = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(weights, keys[0, 0], values[0, 0])
    inputs, errors = gradient_factors(weights, keys[0, 0], values[0, 0])
    for a, g, theirs in zip(inputs, errors, expected, strict=True):
        torch.testing.assert_close(a[:, :, None] * g[:, None, :], theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("limit", [None, 0.5])
def test_gradcheck_through_the_inner_descent(limit: float | None) -> None:
    memory, arguments = draw(4, batch=1, heads=1, width=2, hidden=2)
    given = tuple(x.requires_grad_() for x in (*memory, *arguments))

    def outputs(first, second, *rest):
        return surprise_scan(*rest, initial_surprise([first, second], 1, 3), chunk=3, largest_gradient=limit)[0]

    assert torch.autograd.gradcheck(outputs, given)


def test_the_reference_gives_the_same_outer_gradients() -> None:
    memory, arguments = draw(9, batch=1)
    given = [x.requires_grad_() for x in (*memory, *arguments)]
    mine, theirs = (
        torch.autograd.grad(run(memory, arguments, chunk=4, implementation=way)[0].square().sum(), given)
        for way in ("chunked", "recurrent")
    )
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


def test_without_gates_and_anchored_at_zero_it_is_linear_attention() -> None:
    # gradient at M_0 = 0 for the whole row: −θ ∇ = 2 θ kᵀ v
    memory, (queries, keys, values, *_) = draw(11, 1)
    state = initial_surprise([torch.zeros_like(memory[0])], 2, 11, False, False)
    found, _ = surprise_scan(queries, keys, values, torch.full_like(keys[..., 0], 0.5), None, None, state, chunk=11)
    torch.testing.assert_close(found, linear_attention(queries, keys, values)[0], atol=1e-12, rtol=0)


def test_linear_with_fresh_anchors_it_is_the_delta_rule() -> None:
    memory, (queries, keys, values, step, *_) = draw(11, 1)
    keys = F.normalize(keys, dim=-1)
    state = initial_surprise(memory, 2, 1, False, False)
    found, _ = surprise_scan(queries, keys, values, step, None, None, state, chunk=1)
    expected, _ = delta_rule(queries, keys, values, 2 * step, None, memory[0].expand(2, -1, -1, -1))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_forgetting_everything_leaves_the_surprise_of_the_moment() -> None:
    memory, (queries, keys, values, step, _, momentum) = draw(4, 1)
    all_gone = torch.full_like(step, torch.inf)
    _, state = surprise_scan(queries, keys, values, step, all_gone, momentum, initial_surprise(memory, 2, 2), chunk=2)
    torch.testing.assert_close(state.weights[0], state.surprise[0], atol=1e-12, rtol=0)


def test_lasting_momentum_without_steps_moves_the_memory_by_the_old_surprise() -> None:
    memory, (queries, keys, values, step, *_) = draw(4, 1)
    start = initial_surprise(memory, 2, 2)
    start = start._replace(surprise=(torch.ones_like(start.weights[0]),))
    always, never = torch.full_like(step, torch.inf), torch.full_like(step, -torch.inf)
    _, state = surprise_scan(queries, keys, values, torch.zeros_like(step), never, always, start, chunk=2)
    torch.testing.assert_close(state.surprise[0], start.surprise[0], atol=1e-12, rtol=0)
    torch.testing.assert_close(state.weights[0], start.weights[0] + 4, atol=1e-12, rtol=0)


def test_fewer_positions_than_a_chunk_write_nothing_but_are_kept() -> None:
    memory, arguments = draw(4)
    state = initial_surprise(memory, 2, CHUNK)
    _, after = surprise_scan(*arguments, state, chunk=CHUNK)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(after.weights, state.weights, strict=True))
    assert after.count.tolist() == [4, 4]
    torch.testing.assert_close(after.pending[..., :3], arguments[1], atol=0, rtol=0)


def test_a_long_gradient_is_cut_to_its_limit_and_a_short_one_is_left() -> None:
    memory, (queries, keys, values, step, *_) = draw(1, 2)
    for scale, limit in ((1.0, 1e-3), (1.0, 1e6)):
        state = initial_surprise(memory, 2, 1, False, False)
        _, after = surprise_scan(queries, keys, scale * values, step, None, None, state, chunk=1, largest_gradient=limit)
        _, free = surprise_scan(queries, keys, scale * values, step, None, None, state, chunk=1)
        moved, unlimited = (
            torch.cat([(new - old).flatten(2) for new, old in zip(s.weights, state.weights, strict=True)], 2).norm(dim=2) / step[..., 0]
            for s in (after, free)
        )
        torch.testing.assert_close(moved, unlimited.clamp(max=limit), atol=1e-9, rtol=1e-9)


def test_extreme_gates_in_a_long_chunk_stay_finite() -> None:
    memory, (queries, keys, values, step, *_) = draw(200, 1)
    extreme = torch.where(torch.arange(200) % 2 == 0, 80.0, -80.0).expand_as(step)
    given = [x.float().requires_grad_() for x in (queries, F.normalize(keys, dim=-1), values, 0.01 * step, extreme, extreme)]
    state = initial_surprise([layer.float() for layer in memory], 2, 100)
    outputs, _ = surprise_scan(*given, state, chunk=100)
    assert torch.isfinite(outputs).all()
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(outputs.sum(), given))


def test_rows_read_together_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, arguments = draw(23)
    expected, last = run(memory, arguments, chunk=CHUNK)
    monkeypatch.setattr(module, "POSITIONS", 2 * CHUNK)
    found, end = run(memory, arguments, chunk=CHUNK)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    assert all((mine - theirs).abs().max() < 1e-12 for mine, theirs in zip(end, last, strict=True))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chunk": 0}, "chunk must be at least 1, got 0"),
        ({"read": "now"}, "read must be one of token, after, before, got 'now'"),
        ({"gates": "chunk"}, "read must be after or before, got 'token'"),
        ({"largest_gradient": 0.0}, "largest_gradient must be above 0, got 0.0"),
        ({"step": torch.ones(2, 2)}, r"step must have shape \(2, 2, 3\), got \(2, 2\)"),
        ({"momentum": None}, "momentum False, got True"),
        ({"mask": torch.ones(2, 4, dtype=torch.bool)}, r"mask must have shape \(2, 3\), got \(2, 4\)"),
        ({"values": torch.ones(2, 2, 4, 3)}, "queries and keys must have shape"),
        ({"chunk": 7}, r"pending \(2, 2, 6, 9\), got \(2, 2, 4, 9\)"),
        ({"batch": 3}, "must map"),
    ],
)
def test_bad_arguments_are_refused(change: dict, words: str) -> None:
    memory, arguments = draw(3)
    named = dict(zip(("queries", "keys", "values", "step", "forget", "momentum"), arguments, strict=True))
    state = initial_surprise(memory, change.pop("batch", 2), CHUNK)
    with pytest.raises(ValueError, match=words):
        surprise_scan(**({**named, "state": state, "chunk": CHUNK} | change))
