"""Similarities of representations: invariances, two forms, masks, what has no variation, and a sum written out as the oracle."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from assay.ops.similarities import (
    KINDS,
    AccumulatedAlignment,
    Kind,
    debiased_cka,
    kernel,
    linear_cka,
    representational_distance,
    rsa,
    similarity,
)

SCALE_FREE: tuple[Kind, ...] = ("cka", "cka-debiased", "rsa")


def layers(examples: int = 30, p: int = 6, q: int = 9) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(examples, p, generator=generator, dtype=torch.float64)
    mixed = x @ torch.randn(p, q, generator=generator, dtype=torch.float64)
    return x, mixed + 2 * torch.randn(examples, q, generator=generator, dtype=torch.float64) + 1


def written_out(x: Tensor, y: Tensor) -> Tensor:
    """CKA as Kornblith et al. (2019) write it, with the centring matrix."""
    centring = torch.eye(len(x), dtype=x.dtype) - 1 / len(x)

    def hsic(a: Tensor, b: Tensor) -> Tensor:
        return ((centring @ a @ a.T @ centring) * (centring @ b @ b.T @ centring)).sum()

    return hsic(x, y) / (hsic(x, x) * hsic(y, y)).sqrt()


def unbiased(x: Tensor, y: Tensor) -> Tensor:
    """The unbiased estimate of dependence by its three sums (Song et al., 2012, Feature Selection via Dependence Maximization)."""
    n = len(x)
    k, m = x @ x.T, y @ y.T
    k, m = k - k.diag().diag(), m - m.diag().diag()
    mixed = k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(0) @ m.sum(0))
    return ((k * m).sum() + mixed) / (n * (n - 3))


def test_cka_is_the_published_formula_in_either_form() -> None:
    x, y = layers()
    for form in ("gram", "feature", "auto"):
        torch.testing.assert_close(linear_cka(x, y, form), written_out(x, y), rtol=1e-10, atol=0)


def test_debiased_cka_is_the_ratio_of_unbiased_estimates_in_either_form() -> None:
    x, y = layers()
    expected = unbiased(x, y) / (unbiased(x, x) * unbiased(y, y)).sqrt()
    for form in ("gram", "feature"):
        torch.testing.assert_close(debiased_cka(x, y, form), expected, rtol=1e-9, atol=0)


def test_rsa_is_the_correlation_of_cosines() -> None:
    x, y = layers()
    cosines = [torch.nn.functional.cosine_similarity(a[:, None], a[None], dim=-1).flatten() for a in (x, y)]
    torch.testing.assert_close(rsa(x, y), torch.corrcoef(torch.stack(cosines))[0, 1])


def test_unrelated_wide_layers_are_alike_for_cka_and_not_for_debiased_cka() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(16, 2000, generator=generator), torch.randn(16, 2000, generator=generator)
    assert linear_cka(x, y) > 0.9
    assert abs(debiased_cka(x, y)) < 0.3


@pytest.mark.parametrize("kind", SCALE_FREE)
def test_scale_and_rotation_do_not_matter_and_order_of_the_two_neither(kind) -> None:
    x, y = layers()
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).Q
    distance = representational_distance(x, y, kind)
    torch.testing.assert_close(representational_distance(1e3 * x @ rotation, y, kind), distance)
    torch.testing.assert_close(representational_distance(y, x, kind), distance)
    torch.testing.assert_close(representational_distance(x, x, kind), torch.zeros((), dtype=torch.float64), atol=1e-12, rtol=0)
    if kind != "rsa":
        torch.testing.assert_close(representational_distance(x + 100, y, kind), distance, rtol=1e-8, atol=0)


def test_the_scale_aware_distance_is_cka_and_the_squared_log_ratio_of_deviations() -> None:
    """Against both terms written out; turned, shifted and mirrored layers stay as near, scaled ones do not."""
    x, y = layers()
    ratio = (x - x.mean(0)).square().mean().sqrt() / (y - y.mean(0)).square().mean().sqrt()
    distance = representational_distance(x, y, "cka-log-norm")
    torch.testing.assert_close(distance, 1 - written_out(x, y) + ratio.log().square())
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).Q
    torch.testing.assert_close(representational_distance(x @ rotation + 100, y, "cka-log-norm"), distance)
    torch.testing.assert_close(representational_distance(3 * x, x, "cka-log-norm"), torch.tensor(3.0, dtype=torch.float64).log().square())
    torch.testing.assert_close(representational_distance(x, x.repeat(1, 5), "cka-log-norm"), 0 * distance, atol=1e-12, rtol=0)


def test_a_constant_layer_has_no_scale_to_hold() -> None:
    constant = torch.full((16, 5), 3.3, requires_grad=True)
    value = representational_distance(constant, torch.randn(16, 4, generator=torch.Generator().manual_seed(0)), "cka-log-norm")
    assert value == 1
    (gradient,) = torch.autograd.grad(value, constant)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def wide_layers(examples: int = 64, p: int = 4000, q: int = 3000) -> tuple[Tensor, Tensor]:
    """Two layers that share half of what they are made of, the second of another mean."""
    generator = torch.Generator().manual_seed(0)
    source, other = (torch.randn(examples, 20, generator=generator) for _ in range(2))
    mixed = torch.cat([source[:, :10], other[:, 10:]], 1)
    x = (source @ torch.randn(20, p, generator=generator)).relu()
    return x, (mixed @ torch.randn(20, q, generator=generator)).tanh() + 2


@pytest.mark.parametrize("kind", KINDS)
def test_projected_layers_are_as_far_apart_as_the_bound_allows_and_draw_the_same_way(kind) -> None:
    """The exact distance is the oracle, of the value and of the gradient, which projected itself would be at a cosine of 0.5."""
    x, y = wide_layers()
    x.requires_grad_()
    exact, projected = (representational_distance(x, y, kind, project_to=width) for width in (0, 1000))
    assert exact != projected
    squared, bound = 0.0, 0.0
    for layer in (x.detach(), y):
        gram = (layer - layer.mean(0)) @ (layer - layer.mean(0)).T
        if kind == "rsa":
            gram = torch.nn.functional.normalize(layer) @ torch.nn.functional.normalize(layer).T
        length = kernel_length(gram, kind)
        bound += (2 / 1000) ** 0.5 * float(gram.norm()) / length
        squared += (float(gram.trace() ** 2 + gram.square().sum()) / 1000) ** 0.5 / length
    assert abs(float(exact.detach() - projected.detach())) < bound + squared**2 / 2
    gradients = [torch.autograd.grad(value, x)[0].flatten() for value in (exact, projected)]
    assert torch.cosine_similarity(*gradients, dim=0) > 0.8


def kernel_length(gram: Tensor, kind: str) -> float:
    """Of what the products are centred to: u of the bound."""
    if kind == "rsa":
        return float((gram - gram.mean()).norm())
    if kind == "cka-debiased":
        n = len(gram)
        gram = gram - gram.diag().diag()
        rows, total = gram.sum(1) / (n - 2), gram.sum() / ((n - 1) * (n - 2))
        gram = gram - rows - rows[:, None] + total
        return float((gram - gram.diag().diag()).norm())
    return float(gram.norm())


def test_projection_leaves_equal_layers_equal_and_narrow_or_few_ones_exact() -> None:
    x, y = wide_layers()
    assert abs(representational_distance(x, x, project_to=1000)) < 1e-6
    for first, second, width in ((x, y, 4000), (x[:8], y[:8], 1000)):
        assert torch.equal(kernel(first, project_to=width), kernel(first))
        torch.testing.assert_close(representational_distance(first, second, project_to=width), representational_distance(first, second))


def test_by_position_projected_kernels_leave_padding_out() -> None:
    """What is not real may be anything, and gets no gradient."""
    x, _ = wide_layers(96)
    x = x.view(48, 2, 4000).clone()
    mask = torch.arange(48)[:, None] < torch.tensor([48, 40])
    expected = representational_distance(x, x.flip(2)[..., :500], "cka", mask, per_token=True, project_to=1000)
    x[40:, 1] = float("inf")
    x.requires_grad_()
    found = representational_distance(x, torch.where(mask[..., None], x.detach(), 0).flip(2)[..., :500], "cka", mask, True, 1000)
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found, x)
    assert torch.equal(gradient[40:, 1], torch.zeros(8, 4000))
    assert gradient[:40].abs().amax((0, 2)).min() > 0


def test_accumulated_errors_bound_what_projection_does_and_are_zero_without() -> None:
    x, y = wide_layers(128)
    narrow = y[:, :50]
    exact, projected = AccumulatedAlignment(), AccumulatedAlignment(1000)
    for rows in torch.arange(128).split(64):
        for total in (exact, projected):
            total.add([x[rows], narrow[rows]], [y[rows], narrow[rows]])
    difference, error = (exact.matrix() - projected.matrix()).abs(), projected.error()
    assert torch.equal(exact.error(), torch.zeros(2, 2, dtype=torch.float64))
    assert error[1, 1] == difference[1, 1] == 0
    assert (difference[0] < error[0]).all()
    assert error[0, 1] < error[0, 0] < 0.3
    noise = torch.randn(64, 3000, generator=torch.Generator().manual_seed(1))  # the little that its kernel varies is less than the error
    total = AccumulatedAlignment(100)
    total.add([noise], [noise])
    assert total.error() == torch.inf


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(3, 5), (20, 30)])
def test_gradients(kind, sizes) -> None:
    """Few and many numbers beside nine examples: both forms."""
    x, y = (layer.requires_grad_() for layer in layers(9, *sizes))
    assert torch.autograd.gradcheck(lambda a, b: representational_distance(a, b, kind), (x, y))


@pytest.mark.parametrize("kind", KINDS)
def test_by_position_padding_is_left_out(kind) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(20, 5, size, generator=generator, dtype=torch.float64) for size in (3, 4))
    mask = torch.rand(20, 5, generator=generator) > 0.3
    mask[:, 4] = torch.arange(20) < 5  # fewer than eight: the position does not count
    expected = sum(representational_distance(x[mask[:, t], t], y[mask[:, t], t], kind) for t in range(4))
    torch.testing.assert_close(representational_distance(x, y, kind, mask, per_token=True), expected)
    noisy = torch.where(mask[..., None], x, 1e6)
    torch.testing.assert_close(representational_distance(noisy, y, kind, mask, per_token=True), expected)
    torch.testing.assert_close(representational_distance(noisy, y, kind, mask), representational_distance(x, y, kind, mask))


@pytest.mark.parametrize("form", ["gram", "feature"])
@pytest.mark.parametrize("debiased", [False, True])
def test_a_constant_layer_is_like_no_other_and_has_no_gradient(form, debiased) -> None:
    constant = torch.full((16, 5), 3.3, requires_grad=True)
    value = linear_cka(constant, torch.randn(16, 4, generator=torch.Generator().manual_seed(0)), form, debiased)
    assert value == 0
    (gradient,) = torch.autograd.grad(value, constant)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_dead_units_and_equidistant_examples_give_numbers() -> None:
    """Rows of zeros have no cosine; of examples all equally far apart nothing is left without the diagonal."""
    x = torch.zeros(16, 4)
    x[:8] = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(rsa(x, x + 1))
    assert debiased_cka(torch.eye(16), x) == 0


def test_half_precision_is_computed_in_float32_and_autocast_does_not_reach_it() -> None:
    x, y = (layer.to(torch.bfloat16) for layer in layers())
    expected = linear_cka(x.float(), y.float())
    assert linear_cka(x, y).dtype == torch.float32
    torch.testing.assert_close(linear_cka(1000 * x.half(), y), linear_cka((1000 * x.half()).float(), y.float()))
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(linear_cka(x, y), expected)


def test_what_is_not_finite_is_not_hidden() -> None:
    x, y = layers()
    x[0, 0] = float("nan")
    for kind in KINDS:
        assert torch.isnan(representational_distance(x, y, kind))


def test_batches_average_to_what_one_sum_gives() -> None:
    x, y = layers(60)
    accumulated = AccumulatedAlignment()
    for rows in torch.arange(60).split(20):
        accumulated.add([x[rows].float(), y[rows]], [y[rows]])
    sums = {
        pair: sum(float(unbiased(pair[0][rows], pair[1][rows])) for rows in torch.arange(60).split(20)) for pair in ((x, y), (x, x), (y, y))
    }
    expected = sums[x, y] / (sums[x, x] * sums[y, y]) ** 0.5
    torch.testing.assert_close(accumulated.matrix(), torch.tensor([[expected], [1.0]], dtype=torch.float64), rtol=1e-5, atol=0)
    accumulated.add([torch.ones(8, 3), y[:8]], [y[:8]])
    assert torch.isfinite(accumulated.matrix()).all()


def test_kernels_have_length_one() -> None:
    x, y = layers()
    for kind in SCALE_FREE:
        torch.testing.assert_close(kernel(x, kind).norm(), torch.ones((), dtype=torch.float64))
        torch.testing.assert_close(1 - similarity(kernel(x, kind), kernel(y, kind)), representational_distance(x, y, kind))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, y: linear_cka(x[:7], y[:7]), "at least 8 examples, got 7"),
        (lambda x, y: linear_cka(x[:9], y), "the same examples, got 9 and 30"),
        (lambda x, y: linear_cka(x, y, "exact"), "form must be one of auto, gram, feature, got 'exact'"),
        (lambda x, y: representational_distance(x, y, "cosine"), "kind must be one of .*, got 'cosine'"),
        (lambda x, y: representational_distance(x, y, per_token=True), "per_token compares"),
        (lambda x, y: representational_distance(x[:, 0], y), r"layers must be \(examples, …\)"),
        (
            lambda x, y: representational_distance(x[:, None], y[:, None], "cka", torch.arange(30)[:, None] < 5, per_token=True),
            "no position has 8 real examples: the most are 5",
        ),
        (lambda x, y: representational_distance(x, y, project_to=-1), r"project_to must be at least 0 \(0: never\), got -1"),
        (lambda x, y: AccumulatedAlignment(-1), "project_to must be at least 0"),
        (lambda x, y: AccumulatedAlignment().matrix(), "no batch was added"),
        (lambda x, y: AccumulatedAlignment().error(), "no batch was added"),
        (lambda x, y: AccumulatedAlignment().add([], [y]), "no layer"),
        (lambda x, y: AccumulatedAlignment().add([x], [y[:9]]), "the same examples, got 30 and 9"),
    ],
)
def test_what_cannot_be_compared_is_refused(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call(*layers())
