"""Prefix attention against a masked softmax, in every form; and the two traps that wrong implementations fall into."""

from __future__ import annotations

import doctest
import math

import pytest
import torch
import torch.nn.functional as F

from assay.ops import attention_views
from assay.ops import prefix_attention as module
from assay.ops.prefix_attention import IMPLEMENTATIONS, PrefixState, combine, initial_prefix_state, leaf, output, prefix_attention

FORMS = [name for name in IMPLEMENTATIONS if name != "auto"]
LENGTHS = (1, 2, 15, 17, 64, 257)


def draw(length: int, scale: float = 1.0, dtype: torch.dtype = torch.float64, batch: int = 2, heads: int = 3, width: int = 4):
    generator = torch.Generator().manual_seed(length)
    scores = scale * torch.randn(batch, heads, length, generator=generator, dtype=torch.float64)
    values = torch.randn(batch, heads, length, width, generator=generator, dtype=torch.float64)
    return scores.to(dtype), values.to(dtype)


def masked_softmax(scores: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    length = scores.shape[-1]
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
    return scores[:, :, None, :].expand(-1, -1, length, -1).masked_fill(hidden, -math.inf).softmax(-1) @ values


@pytest.mark.parametrize("implementation", FORMS)
@pytest.mark.parametrize("scale", [1.0, 50.0, 400.0])
def test_outputs_and_gradients_are_those_of_a_masked_softmax(implementation: str, scale: float) -> None:
    for length in LENGTHS:
        scores, values = (x.requires_grad_() for x in draw(length, scale))
        weight = torch.randn_like(values)
        expected, found = masked_softmax(scores, values), prefix_attention(scores, values, implementation=implementation)[0]
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
        gradients = [torch.autograd.grad((y * weight).sum(), (scores, values)) for y in (found, expected)]
        for mine, theirs in zip(*gradients, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)


@pytest.mark.parametrize("implementation", FORMS)
def test_any_chunking_gives_the_same(implementation: str) -> None:
    scores, values = draw(200, 20.0)
    expected, final = prefix_attention(scores, values, implementation="recurrent")
    for sizes in ((100, 100), (1, 16, 183), (199, 1), (64, 0, 64, 72)):
        state, parts = None, []
        for s, v in zip(scores.split(sizes, 2), values.split(sizes, 2), strict=True):
            y, state = prefix_attention(s, v, state, implementation=implementation)
            parts.append(y)
        torch.testing.assert_close(torch.cat(parts, 2), expected, atol=1e-12, rtol=0)
        for mine, theirs in zip(state, final, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-10, rtol=1e-12)


def test_more_than_one_chunk_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    # long sequences are worked on in chunks; a small chunk makes a short sequence take that path, gradients included
    monkeypatch.setattr(module, "BLOCK", 4)
    monkeypatch.setattr(module, "CHUNK", 12)
    scores, values = (x.requires_grad_() for x in draw(31, 10.0))
    expected, found = masked_softmax(scores, values), prefix_attention(scores, values)[0]
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    for mine, theirs in zip(*(torch.autograd.grad(y.square().sum(), (scores, values)) for y in (found, expected)), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-12, rtol=0)


def test_gradcheck_of_the_own_backward_through_a_continued_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 3)
    scores, values = (x.requires_grad_() for x in draw(7, batch=1, heads=2, width=2))
    maximum = torch.randn(1, 2, dtype=torch.float64)
    total = (torch.rand(1, 2, dtype=torch.float64) + 1).requires_grad_()
    weighted = torch.randn(1, 2, 2, dtype=torch.float64, requires_grad=True)

    def continued(scores: torch.Tensor, values: torch.Tensor, total: torch.Tensor, weighted: torch.Tensor):
        first, state = prefix_attention(scores, values, PrefixState(maximum, total, weighted))
        return first, prefix_attention(scores.flip(2), values, state)[0]

    assert torch.autograd.gradcheck(continued, (scores, values, total, weighted))


def test_combination_is_associative_commutative_and_has_an_identity() -> None:
    generator = torch.Generator().manual_seed(0)
    for trial in range(50):
        a, b, c = (
            PrefixState(
                torch.randn(2, 1, generator=generator, dtype=torch.float64) * 30,
                torch.rand(2, 1, generator=generator, dtype=torch.float64) + 0.1,
                torch.randn(2, 1, 3, generator=generator, dtype=torch.float64),
            )
            for _ in range(3)
        )
        if trial % 3 == 0:
            b = b._replace(maximum=a.maximum.clone())  # equal maxima
        for mine, theirs in zip(combine(combine(a, b), c), combine(a, combine(b, c)), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-14)
        for mine, theirs in zip(combine(a, b), combine(b, a), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
        nothing = initial_prefix_state(2, 1, 3, torch.float64)
        for whole in (combine(a, nothing), combine(nothing, a)):
            for mine, theirs in zip(whole, a, strict=True):
                torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    empty = combine(nothing, nothing)
    assert not any(part.isnan().any() for part in empty)
    assert output(empty).eq(0).all()


@pytest.mark.parametrize("implementation", FORMS)
def test_last_output_is_pytorchs_attention_of_the_query_over_all_tokens(implementation: str) -> None:
    query, keys = torch.randn(1, 2, 1, 8, dtype=torch.float64), torch.randn(1, 2, 40, 8, dtype=torch.float64)
    values = torch.randn(1, 2, 40, 8, dtype=torch.float64)
    scores = (query @ keys.transpose(-1, -2))[:, :, 0] / math.sqrt(8)
    found = prefix_attention(scores, values, implementation=implementation)[0][:, :, -1:]
    torch.testing.assert_close(found, F.scaled_dot_product_attention(query, keys, values), atol=1e-12, rtol=0)


@pytest.mark.parametrize("implementation", FORMS)
def test_equal_scores_give_the_running_mean_and_a_common_shift_changes_nothing(implementation: str) -> None:
    scores, values = draw(70)
    mean = values.cumsum(2) / torch.arange(1, 71)[:, None]
    torch.testing.assert_close(prefix_attention(torch.zeros_like(scores), values, implementation=implementation)[0], mean)
    plain, shifted = (prefix_attention(s, values, implementation=implementation)[0] for s in (scores, scores + 1000.0))
    torch.testing.assert_close(plain, shifted, atol=1e-10, rtol=0)


@pytest.mark.parametrize("implementation", FORMS)
def test_an_enormous_score_takes_over_for_ever_without_nan(implementation: str) -> None:
    scores, values = draw(90, dtype=torch.float32)
    scores[:, :, 40] = 1e4
    found = prefix_attention(scores, values, implementation=implementation)[0]
    assert found.isfinite().all()
    torch.testing.assert_close(found[:, :, 40:], values[:, :, 40:41].expand(-1, -1, 50, -1))


def test_trap_of_mixed_maxima() -> None:
    # exp(s − cummax s) summed by cumsum mixes terms scaled by different maxima: seen in public code, wrong by O(1)
    scores, values = draw(50, 3.0)
    weight = torch.exp(scores - scores.cummax(-1).values)
    wrong = (weight[..., None] * values).cumsum(2) / weight.cumsum(2)[..., None]
    expected = masked_softmax(scores, values)
    assert (wrong - expected).abs().max() > 0.1
    torch.testing.assert_close(prefix_attention(scores, values)[0], expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("implementation", FORMS)
def test_trap_of_one_common_maximum(implementation: str) -> None:
    # with the maximum of the whole sequence, early prefixes underflow to 0 / 0 once a later score is 88 higher (float32)
    scores, values = draw(40, dtype=torch.float32)
    scores[:, :, 20:] += 200
    weight = torch.exp(scores - scores.amax(-1, keepdim=True))
    assert ((weight[..., None] * values).cumsum(2) / weight.cumsum(2)[..., None]).isnan().any()
    found = prefix_attention(scores.requires_grad_(), values, implementation=implementation)[0]
    torch.testing.assert_close(found, masked_softmax(scores.double(), values.double()).float(), atol=1e-5, rtol=0)
    (gradient,) = torch.autograd.grad(found.square().sum(), scores)  # exp before masking would overflow here, and give NaN
    assert gradient.isfinite().all()


@pytest.mark.parametrize("implementation", FORMS)
def test_masked_positions_are_the_identity(implementation: str) -> None:
    scores, values = draw(60)
    mask = torch.rand(2, 60, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[:, :3] = False
    mask[:, 3] = True
    found, state = prefix_attention(scores, values, mask=mask, implementation=implementation)
    assert found[:, :, :3].eq(0).all()  # nothing real yet: zero, not NaN
    for row in range(2):
        real = mask[row]
        alone, final = prefix_attention(scores[row : row + 1, :, real], values[row : row + 1, :, real])
        torch.testing.assert_close(found[row : row + 1, :, real], alone, atol=1e-12, rtol=0)
        torch.testing.assert_close(output(state)[row], output(final)[0], atol=1e-12, rtol=0)
        repeated = torch.arange(60)[real][real.cumsum(0)[3:] - 1]
        torch.testing.assert_close(found[row, :, 3:], found[row][:, repeated], atol=1e-12, rtol=0)


@pytest.mark.parametrize("implementation", FORMS)
def test_all_masked_and_empty_sequences(implementation: str) -> None:
    scores, values = draw(20)
    found, state = prefix_attention(
        scores.requires_grad_(), values, mask=torch.zeros(2, 20, dtype=torch.bool), implementation=implementation
    )
    assert found.eq(0).all()
    assert state.total.eq(0).all()
    (gradient,) = torch.autograd.grad(found.sum(), scores)
    assert gradient.eq(0).all()
    empty, _ = prefix_attention(scores[:, :, :0], values[:, :, :0], implementation=implementation)
    assert empty.shape == (2, 3, 0, 4)


@pytest.mark.parametrize("implementation", FORMS)
def test_nan_is_not_hidden(implementation: str) -> None:
    scores, values = draw(40)
    scores[:, :, 20] = math.nan
    found = prefix_attention(scores, values, implementation=implementation)[0]
    assert found[:, :, 20:].isnan().all()
    assert implementation == "blocked" or found[:, :, :20].isfinite().all()


def test_float64_state_keeps_counting_where_float32_stops() -> None:
    # after 2^24 tokens of equal score an increment of one is lost in float32
    for dtype, expected in ((torch.float32, 2.0**24), (torch.float64, 2.0**24 + 40)):
        state = PrefixState(torch.zeros(1, 1, dtype=dtype), torch.full((1, 1), 2.0**24, dtype=dtype), torch.zeros(1, 1, 2, dtype=dtype))
        for _ in range(40):
            _, state = prefix_attention(torch.zeros(1, 1, 1), torch.ones(1, 1, 1, 2), state)
        assert float(state.total) == expected
        assert state.total.dtype == dtype


def test_half_precision_values_have_a_float32_state() -> None:
    scores, values = draw(30)
    found, state = prefix_attention(scores.bfloat16(), values.bfloat16())
    assert found.dtype == torch.bfloat16
    assert state.total.dtype == torch.float32
    expected = masked_softmax(scores.bfloat16().double(), values.bfloat16().double())
    torch.testing.assert_close(found.double(), expected, atol=2e-2, rtol=0)


@pytest.mark.parametrize(
    ("scores", "values", "options", "words"),
    [
        ((2, 3, 5), (2, 3, 6, 4), {}, "scores must have shape"),
        ((2, 3, 5), (2, 3, 5, 4), {"implementation": "fast"}, "'fast'"),
        ((2, 3, 5), (2, 3, 5, 4), {"mask": torch.ones(2, 4, dtype=torch.bool)}, "mask must have shape"),
        ((2, 3, 5), (2, 3, 5, 4), {"state": initial_prefix_state(2, 3, 7)}, "state's weighted sum"),
    ],
)
def test_wrong_shapes_are_refused(scores, values, options, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        prefix_attention(torch.zeros(scores), torch.zeros(values), **options)


def test_leaf_of_a_masked_score_is_the_identity() -> None:
    nothing = leaf(torch.tensor([[-math.inf]]), torch.ones(1, 1, 3))
    for mine, theirs in zip(nothing, initial_prefix_state(1, 1, 3), strict=True):
        assert torch.equal(mine, theirs)


def test_views_do_what_their_examples_say() -> None:
    torch.manual_seed(0)
    result = doctest.testmod(attention_views, extraglobs={"torch": torch})
    assert result.attempted >= 9
    assert result.failed == 0
