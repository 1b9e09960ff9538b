"""The decaying matrix of keys and values against the whole matrix of weights, in every form and for decays of any strength."""

from __future__ import annotations

import math

import pytest
import torch

from assay.ops import linear_attention as module
from assay.ops.linear_attention import linear_attention

KINDS = ("none", "head", "channel")
LENGTHS = (1, 2, 15, 17, 64, 65, 200)


def draw(length: int, kind: str, strength: float = 1.0, dtype: torch.dtype = torch.float64, batch: int = 2, heads: int = 3):
    generator = torch.Generator().manual_seed(length)
    queries, keys = (torch.randn(batch, heads, length, 4, generator=generator, dtype=torch.float64) for _ in "qk")
    values = torch.randn(batch, heads, length, 5, generator=generator, dtype=torch.float64)
    state = torch.randn(batch, heads, 4, 5, generator=generator, dtype=torch.float64)
    decay = -strength * torch.rand(keys.shape if kind == "channel" else keys.shape[:3], generator=generator, dtype=torch.float64)
    return [None if x is None else x.to(dtype) for x in (queries, keys, values, None if kind == "none" else decay, state)]


def weights_written_out(queries, keys, values, log_decay, state):
    """Σ_c q_ic e^{G_ic − G_jc} k_jc for all j ≤ i at once, and what the state before still gives."""
    if log_decay is None:
        log_decay = torch.zeros_like(keys)
    if log_decay.ndim == 3:
        log_decay = log_decay[..., None].expand_as(keys)
    total, length = log_decay.cumsum(2), keys.shape[2]
    past = torch.ones(length, length, dtype=torch.bool).tril()
    between = (total[:, :, :, None] - total[:, :, None]).masked_fill(~past[..., None], -math.inf)
    weights = torch.einsum("bhic,bhjc,bhijc->bhij", queries, keys, between.exp())
    return weights @ values + (queries * total.exp()) @ state


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("implementation", ["recurrent", "chunked", "auto"])
def test_outputs_are_those_of_the_whole_matrix_of_weights(kind: str, implementation: str) -> None:
    for length in LENGTHS:
        arguments = draw(length, kind, 0.2)
        found, _ = linear_attention(*arguments, implementation=implementation)
        torch.testing.assert_close(found, weights_written_out(*arguments), atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", [0.01, 1.0, 5.0, 30.0, 2000.0])  # each way of sharing out the decays, and beyond the type's range
def test_chunks_give_the_values_and_gradients_of_single_positions(kind: str, strength: float) -> None:
    for length in (17, 130):
        leaves = draw(length, kind, strength)
        given = [x.requires_grad_() for x in leaves if x is not None]
        mask = torch.rand(2, length, generator=torch.Generator().manual_seed(0)) < 0.8
        results = []
        for implementation in ("recurrent", "chunked"):
            outputs, state = linear_attention(*leaves, mask, implementation)
            gradients = torch.autograd.grad(outputs.square().sum() + state.square().sum(), given)
            results.append((outputs, state, *gradients))
        for mine, theirs in zip(*results, strict=True):
            assert (mine - theirs).abs().max() <= 1e-11 * max(1.0, float(theirs.detach().abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck_over_several_chunks(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 3)
    arguments = draw(7, kind, batch=1, heads=1)
    given = tuple(x.requires_grad_() for x in arguments if x is not None)

    def chunked(*tensors: torch.Tensor):
        queries, keys, values, *decay, state = tensors
        return linear_attention(queries, keys, values, decay[0] if decay else None, state, implementation="chunked")

    assert torch.autograd.gradcheck(chunked, given)


def test_one_decay_that_dwarfs_the_others_costs_no_digits() -> None:
    # in float32 a difference of two sums near −900 keeps three decimals; what follows the large decay must keep all
    for kind in ("head", "channel"):
        arguments = draw(60, kind, 0.01)
        arguments[3][:, :, 20] = -900.0
        expected = linear_attention(*arguments, implementation="recurrent")[0]
        found = linear_attention(*(x.float() for x in arguments), implementation="chunked")[0]
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("implementation", ["recurrent", "chunked"])
@pytest.mark.parametrize("kind", ["head", "channel"])
def test_a_decay_to_nothing_forgets_everything_before(kind: str, implementation: str) -> None:
    arguments = [x.requires_grad_() for x in draw(100, kind, 0.1)]
    decay = arguments[3].index_fill(2, torch.tensor([50]), -math.inf)
    found, _ = linear_attention(*arguments[:3], decay, arguments[4], implementation=implementation)
    alone, _ = linear_attention(*(x[:, :, 50:] for x in (*arguments[:3], decay)), implementation=implementation)
    torch.testing.assert_close(found[:, :, 50:], alone, atol=1e-10, rtol=0)  # sums that went past −1000
    assert all(torch.isfinite(x).all() for x in torch.autograd.grad(found.sum(), arguments))


@pytest.mark.parametrize("kind", KINDS)
def test_any_chunking_gives_the_same(kind: str) -> None:
    queries, keys, values, decay, state = draw(150, kind)
    expected, last = linear_attention(queries, keys, values, decay, state)
    for sizes in ((75, 75), (1, 64, 85), (0, 149, 1)):
        carried, parts, start = state, [], 0
        for size in sizes:
            part = slice(start, start + size)
            y, carried = linear_attention(
                *(x[:, :, part] for x in (queries, keys, values)), None if decay is None else decay[:, :, part], carried
            )
            parts.append(y)
            start += size
        torch.testing.assert_close(torch.cat(parts, 2), expected, atol=1e-11, rtol=1e-11)
        torch.testing.assert_close(carried, last, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_segments_of_a_long_sequence_change_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = draw(150, kind)
    expected, last = linear_attention(*arguments)
    monkeypatch.setattr(module, "SEGMENT", 40)
    found, end = linear_attention(*arguments)
    torch.testing.assert_close(found, expected, atol=1e-11, rtol=1e-11)
    torch.testing.assert_close(end, last, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_masked_positions_are_as_if_they_were_not_there(kind: str) -> None:
    queries, keys, values, decay, state = draw(80, kind)
    mask = torch.rand(2, 80, generator=torch.Generator().manual_seed(3)) < 0.6
    keys, values = (torch.where(mask[:, None, :, None], x, torch.inf) for x in (keys, values))
    found, last = linear_attention(queries, keys, values, decay, state, mask)
    for row in range(2):
        real = [x[row : row + 1, :, mask[row]] for x in (queries, keys, values)]
        alone, end = linear_attention(*real, None if decay is None else decay[row : row + 1, :, mask[row]], state[row : row + 1])
        torch.testing.assert_close(found[row][:, mask[row]], alone[0], atol=1e-12, rtol=1e-12)
        torch.testing.assert_close(last[row], end[0], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_for_the_gradient_grows_with_the_length_not_its_square(kind: str) -> None:
    kept = []
    for length in (512, 1024):
        queries, keys, values, decay, _ = (None if x is None else x.requires_grad_() for x in draw(length, kind, 0.1, torch.float32, 1, 1))
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, sizes=sizes: sizes.append(x.numel()) or x, lambda x: x):
            linear_attention(queries, keys, values, decay)
        kept.append(sum(sizes))
    assert kept[1] < 2.1 * kept[0]


def test_bfloat16_is_summed_in_float32() -> None:
    arguments = draw(300, "head", 0.01, torch.bfloat16)[:4]
    found, state = linear_attention(*arguments)
    expected, _ = linear_attention(*(x.double() for x in arguments))
    assert (found.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    assert (found - expected).abs().max() < 0.005 * expected.abs().max()  # one rounding of the output


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"keys": torch.ones(1, 2, 3, 5)}, "queries and keys must have shape"),
        ({"values": torch.ones(1, 2, 4, 4)}, "queries and keys must have shape"),
        ({"log_decay": torch.ones(1, 3)}, r"log_decay must have shape \(1, 2, 3\) or \(1, 2, 3, 4\), got \(1, 3\)"),
        ({"state": torch.ones(1, 2, 4, 4)}, r"state must have shape \(1, 2, 4, 6\)"),
        ({"mask": torch.ones(1, 2) > 0}, r"mask must have shape \(1, 3\)"),
        ({"implementation": "scan"}, "implementation must be one of"),
    ],
)
def test_bad_arguments_are_refused(change: dict, words: str) -> None:
    arguments = {"queries": torch.ones(1, 2, 3, 4), "keys": torch.ones(1, 2, 3, 4), "values": torch.ones(1, 2, 3, 6)}
    with pytest.raises(ValueError, match=words):
        linear_attention(**(arguments | change))
