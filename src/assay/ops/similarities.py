"""How alike two layers see the same examples: centred kernel alignment (CKA), its debiased form, and representational similarity (RSA).

Everything rests on one object, a layer's *kernel*: a (examples, examples) matrix of length one that says how alike each two examples are in
the layer. The similarity of two layers is the inner product of their kernels. With ``K = X Xᵀ`` of activations X (examples, numbers):

- ``cka``: ``H K H``, ``H = I − 1 1ᵀ / n`` (Kornblith, Norouzi, Lee, Hinton, 2019, Similarity of Neural Network Representations Revisited);
- ``cka-debiased``: K without its diagonal, centred so that the product of two is the unbiased estimate of their dependence, from which
  ``cka`` is far where layers have more numbers than there are examples (Székely, Rizzo, 2014, Partial Distance Correlation with Methods
  for Dissimilarities; Nguyen, Raghu, Kornblith, 2021, Do Wide and Deep Networks Learn the Same Things?);
- ``rsa``: cosines of each two examples, less their mean: the product is Pearson's correlation of the cosines, diagonal included
  (Kriegeskorte, Mur, Bandettini, 2008, Representational Similarity Analysis);
- ``cka-log-norm``: that of ``cka``, but of the length of the layer's standard deviation ``σ = ‖H X‖ / √(n p)`` over all its p numbers, so
  that a distance can hold the scale too: ``1 − CKA + (log σ_X − log σ_Y)²`` (Assay's own).

The first three ignore the scale of the activations; all ignore turning or mirroring them, and all but ``rsa`` shifting them. Half precision
is computed in float32. A layer that is the same for all examples has a kernel of zeros, with zero gradient: it is like no other layer, nor
like itself. Values of ``cka`` depend on the number of examples: compare them at one number only. What is not finite stays so.

Of layers with more than k = ``project_to`` numbers the kernel can be taken from a `random_projection` to k, where that saves work. With
``t = tr K``, ``f = ‖K‖`` and u the length of what K is centred to (u = f for ``cka``), a similarity c of layers X and Y then has, to second
order, an error of a root mean square, over projections, of at most

``a_X + a_Y + (ε_X + ε_Y)² / 2``, ``a = √(2 / k) f / u``, ``ε = √((t² + f²) / k) / u``,

zero for a layer that is not projected: a is what the errors of K do along the other kernel, ε what they add to its length. Errors of two
layers of the same size are of the same projection, so that equal layers stay equal. The gradient is that of the exact kernel at the
projected one's similarity: projected itself it would be right on average alone, at a cosine of some ``√(k / p)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from assay.ops.random_projection import project, saves_work

Kind = Literal["cka", "cka-debiased", "rsa", "cka-log-norm"]
KINDS: tuple[str, ...] = get_args(Kind)
Form = Literal["auto", "gram", "feature"]
LEAST = 8
"""Examples below which no similarity is worth its name."""
PROJECTED = 4096
"""Numbers that methods and probes project wider layers to, unless they are told otherwise."""

_ROUNDING = 16
"""Multiples of the machine's precision below which a variation is rounding."""


def kernel(x: Tensor, kind: Kind = "cka", mask: Tensor | None = None, project_to: int = 0) -> Tensor:
    """The kernel of a layer, (..., examples, examples), of length one, or for ``cka-log-norm`` of length σ: see the module for the kinds.

    Args:
        x: activations (..., examples, numbers); leading dimensions are kernels of their own.
        kind: ``cka``, ``cka-debiased``, ``rsa`` or ``cka-log-norm``.
        mask: (..., examples), False for examples that are to be left out: their rows and columns are zeros.
        project_to: numbers that more of them are projected to at random where that saves work; 0: never. The module has the error.

    Raises:
        ValueError: an unknown kind, a negative number to project to, or (without a mask) fewer than `LEAST` examples.
    """
    _check_kind(kind)
    check_projection(project_to)
    if mask is None:
        _check_count(x.shape[-2])
    with torch.autocast(x.device.type, enabled=False):
        x = _precise(x)
        if kind == "rsa":
            cosines, real = _cosines(x, mask, project_to), _real(x, mask)
            pairs = real[..., :, None] * real[..., None, :]
            mean = cosines.sum((-2, -1), keepdim=True) / pairs.sum((-2, -1), keepdim=True).clamp(min=1)
            return _of_length_one((cosines - mean) * pairs, cosines)
        gram, taken_off = _centred_gram(x, mask, project_to)
        trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
        unit = gram * _inverse(trace.detach(), taken_off)[..., None, None]
        matrix = _of_length_one(_u_centred(unit, _real(x, mask)) if kind == "cka-debiased" else unit, unit)
        if kind == "cka-log-norm":
            matrix = matrix * _root(trace / (_real(x, mask).sum(-1).clamp(min=1) * x.shape[-1]))[..., None, None]
        return matrix


def similarity(first: Tensor, second: Tensor) -> Tensor:
    """The similarity (...,) of two layers by their `kernel`s of length one, ``Σ_ij k_ij l_ij``."""
    return (first * second).sum((-2, -1))


def linear_cka(x: Tensor, y: Tensor, form: Form = "auto", debiased: bool = False) -> Tensor:
    """``CKA = ⟨K, L⟩ / (‖K‖ ‖L‖)`` of two layers, K and L their centred kernels; a scalar.

    The same number comes from kernels (``gram``, n² (p + q) operations) and from features (``feature``, n (p² + p q + q²)), since
    ``⟨X Xᵀ, Y Yᵀ⟩ = ‖Xᵀ Y‖²``; ``auto`` takes the cheaper.

    Args:
        x: (examples, ...), flattened to p numbers.
        y: (examples, ...), flattened to q numbers.
        form: which of the two ways.
        debiased: without the diagonals, as the kernel ``cka-debiased``.

    Raises:
        ValueError: different numbers of examples, fewer than `LEAST`, or an unknown form.
    """
    _check_pair(x, y)
    x, y = x.flatten(1), y.flatten(1)
    count, p, q = len(x), x.shape[1], y.shape[1]
    if form not in get_args(Form):
        raise ValueError(f"form must be one of {', '.join(get_args(Form))}, got {form!r}")
    if form == "gram" or (form == "auto" and p * p + p * q + q * q >= count * (p + q)):
        kind: Kind = "cka-debiased" if debiased else "cka"
        return similarity(kernel(x, kind), kernel(y, kind))
    with torch.autocast(x.device.type, enabled=False):
        x, y = (_with_length_one(*_centred(_precise(values), None)) for values in (x, y))
        both, own_x, own_y = (_dependence(a, b, debiased) for a, b in ((x, y), (x, x), (y, y)))
        nothing = torch.minimum(own_x, own_y) <= _ROUNDING * torch.finfo(x.dtype).eps / count  # at least 1 / n where it is more than that
        scale = torch.where(nothing, 1.0, own_x) * torch.where(nothing, 1.0, own_y)
        return torch.where(nothing, 0.0, both / scale.sqrt())


def debiased_cka(x: Tensor, y: Tensor, form: Form = "auto") -> Tensor:
    """`linear_cka` from unbiased estimates of the dependence: near 0 for unrelated layers, whatever their width; may be negative."""
    return linear_cka(x, y, form, debiased=True)


def rsa(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's correlation of the cosines of each two examples in x (examples, ...) and in y (examples, ...); a scalar.

    Raises:
        ValueError: as `linear_cka`.
    """
    _check_pair(x, y)
    return similarity(kernel(x.flatten(1), "rsa"), kernel(y.flatten(1), "rsa"))


def representational_distance(
    x: Tensor, y: Tensor, kind: Kind = "cka", mask: Tensor | None = None, per_token: bool = False, project_to: int = 0
) -> Tensor:
    """``1 − similarity`` of two layers, a scalar, differentiable in both; by position, the sum of that over positions.

    Of the kind ``cka-log-norm`` it is ``1 − CKA + (log σ_X − log σ_Y)²``; a layer without variation has no scale that could differ.

    Args:
        x: (examples, ...); all but the first dimension is flattened. By position: (examples, length, ...).
        y: (examples, ...), or (examples, length, ...), of the same examples.
        kind: ``cka``, ``cka-debiased``, ``rsa`` or ``cka-log-norm``.
        mask: (examples, length), True = real. Padding is set to zero before a layer with positions is flattened; by position, only the
            examples that are real there are compared, and positions where fewer than `LEAST` are do not count.
        per_token: compare position by position.
        project_to: as in `kernel`.

    Raises:
        ValueError: an unknown kind, a negative number to project to, different examples, fewer than `LEAST`; by position: different
            lengths, no length, or no position with so many real examples.
    """
    _check_kind(kind)
    _check_pair(x, y)
    if not per_token and mask is None and not project_to and kind in ("cka", "cka-debiased"):
        return 1 - linear_cka(x, y, debiased=kind == "cka-debiased")
    if per_token and (x.ndim < 3 or y.ndim < 3 or x.shape[1] != y.shape[1]):
        raise ValueError(f"per_token compares (examples, length, …) of one length, got {tuple(x.shape)} and {tuple(y.shape)}")
    first, second = (layer_kernel(values, kind, mask, per_token, project_to) for values in (x, y))
    return kernel_distance(first, second, token_counts(mask) if per_token else None, kind)


def layer_kernel(x: Tensor, kind: Kind = "cka", mask: Tensor | None = None, per_token: bool = False, project_to: int = 0) -> Tensor:
    """The kernel (examples, examples) of activations (examples, ...), or one a position (length, examples, examples).

    ``mask`` is as in `representational_distance`; it counts where x has positions, and is ignored by layers without. ``project_to`` is
    as in `kernel`.
    """
    positions = mask is not None and x.ndim > 2 and x.shape[:2] == mask.shape
    if per_token:
        return kernel(x.flatten(2).transpose(0, 1), kind, mask.T if mask is not None and positions else None, project_to)
    if mask is not None and positions:
        x = torch.where(mask.view(*mask.shape, *[1] * (x.ndim - 2)), x, 0.0)
    return kernel(x.flatten(1), kind, None, project_to)


def kernel_distance(first: Tensor, second: Tensor, counts: Tensor | None = None, kind: Kind = "cka") -> Tensor:
    """``Σ (1 − similarity)`` over the kernels of two layers; those of positions with fewer than `LEAST` real examples do not count.

    Of the kind ``cka-log-norm``, ``Σ (1 − similarity + (log σ_X − log σ_Y)²)``: see `representational_distance`.

    Args:
        first: (examples, examples), or (length, examples, examples), from `layer_kernel`.
        second: alike.
        counts: real examples by position, (length,), or None for all.
        kind: of the kernels.

    Raises:
        ValueError: shapes differ, or no position counts.
    """
    if first.shape != second.shape:
        raise ValueError(f"layers with kernels {tuple(first.shape)} and {tuple(second.shape)} have different examples or positions")
    distance = _scaled_distance(first, second) if kind == "cka-log-norm" else 1 - similarity(first, second)
    if counts is None:
        return distance.sum()
    if not bool((counts >= LEAST).any()):
        raise ValueError(f"no position has {LEAST} real examples: the most are {int(counts.max())}; use larger batches")
    return torch.where(counts >= LEAST, distance, 0.0).sum()


def token_counts(mask: Tensor | None) -> Tensor | None:
    """Real examples at each position of a mask (examples, length): (length,)."""
    return None if mask is None else mask.sum(0)


class AccumulatedAlignment:
    """Debiased CKA of every layer of one network with every layer of another, over as many batches as come.

    ``CKA_ij = Σ_b h(K_ib, L_jb) / √(Σ_b h(K_ib, K_ib) Σ_b h(L_jb, L_jb))``, h the unbiased estimate ``⟨Ã, B̃⟩ / (n (n − 3))``: the batches'
    estimates average, which those of biased CKA do not. Computed in float64.

    Source: Nguyen, Raghu, Kornblith (2021), Do Wide and Deep Networks Learn the Same Things?

    Args:
        project_to: as in `kernel`; `error` has what it may cost.

    Raises:
        ValueError: a negative number to project to.
    """

    def __init__(self, project_to: int = 0) -> None:
        check_projection(project_to)
        self.project_to = project_to
        self.batches = 0
        self.sums: dict[str, Tensor] = {}
        """Over batches: the dependences of ``both`` networks' layers, the squared kernels of each alone, and their errors (2, layers)."""

    def add(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
        """Take in one batch: the layers of both networks, each (examples, ...).

        Raises:
            ValueError: no layer, layers of different numbers of examples, fewer than `LEAST`, or another number of layers than before.
        """
        if not first or not second:
            raise ValueError("there is no layer to compare")
        count = len(first[0])
        _check_count(count)
        (a, a_error), (b, b_error) = (self._stacked(layers, count) for layers in (first, second))
        new = {"both": a @ b.T, "first": a.square().sum(1), "second": b.square().sum(1), "first errors": a_error, "second errors": b_error}
        if self.sums and self.sums["both"].shape != new["both"].shape:
            raise ValueError(f"{tuple(self.sums['both'].shape)} layers were compared before, now {tuple(new['both'].shape)}")
        self.sums = {name: self.sums.get(name, 0) + value for name, value in new.items()}
        self.batches += 1

    def matrix(self) -> Tensor:
        """Similarities (layers of the first, layers of the second), float64.

        Raises:
            ValueError: nothing was added.
        """
        self._check_added()
        own = self.sums["first"][:, None] * self.sums["second"]
        return torch.where(own == 0, 0.0, self.sums["both"] / torch.where(own == 0, 1.0, own).sqrt())

    def error(self) -> Tensor:
        """What projection may have put `matrix` off by, (layers of the first, layers of the second): the module's bound.

        It is taken from the projected kernels; zero where neither layer was projected, infinite where an error is all that is left.

        Raises:
            ValueError: nothing was added.
        """
        self._check_added()
        (a, own), (b, other) = (_relative_errors(self.sums[name], self.sums[f"{name} errors"]) for name in ("first", "second"))
        return a[:, None] + b + (own[:, None] + other).square() / 2

    def _check_added(self) -> None:
        if not self.sums:
            raise ValueError("no batch was added: there is nothing to compare")

    def _stacked(self, layers: Sequence[Tensor], count: int) -> tuple[Tensor, Tensor]:
        vectors, errors = zip(*(self._dependences(layer, count) for layer in layers), strict=True)
        return torch.stack(vectors), torch.stack(errors, 1)

    def _dependences(self, layer: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The U-centred kernel as a vector whose squared length is the unbiased estimate; the squared errors along a kernel, and of all."""
        if len(layer) != count:
            raise ValueError(f"all layers must have the same examples, got {count} and {len(layer)}")
        x = layer.detach().flatten(1)
        projected = saves_work(count, x.shape[1], self.project_to)
        x = (project(_precise(x), self.project_to) if projected else x).double()
        centred = x - x.mean(0)
        if float(centred.norm()) <= _ROUNDING * torch.finfo(x.dtype).eps * float(x.norm()):
            centred = torch.zeros_like(x)
        gram, pairs = _gram(centred), count * (count - 3)
        squared = torch.stack([2 * gram.square().sum(), gram.trace().square() + gram.square().sum()]) / pairs
        errors = squared / self.project_to if projected else torch.zeros_like(squared)
        return _u_centred(gram, x.new_ones(count)).flatten() / pairs**0.5, errors


# ------------------------------------------------------------------------------------------------ inside


def _precise(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _gram(x: Tensor) -> Tensor:
    return x @ x.transpose(-2, -1)


def _real(x: Tensor, mask: Tensor | None) -> Tensor:
    """1 for examples that count, 0 for the others, (..., examples)."""
    return x.new_ones(x.shape[:-1]) if mask is None else mask.to(x.dtype)


def _centred(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """x (..., examples, numbers) less its mean over real examples, and the squared length of what was taken off, (...,)."""
    if mask is None:
        mean = x.mean(-2, keepdim=True)
        return x - mean, x.shape[-2] * mean.detach().square().sum((-2, -1))
    weight = _real(x, mask)[..., None]
    x = torch.where(mask[..., None], x, 0.0)
    mean = x.sum(-2, keepdim=True) / weight.sum(-2, keepdim=True).clamp(min=1)
    return (x - mean) * weight, weight.sum((-2, -1)) * mean.detach().square().sum((-2, -1))


def _inverse(squared: Tensor, taken_off: Tensor) -> Tensor:
    """1 / a squared length; 0 where it is rounding beside what was taken off.

    It is a constant for the gradient: no similarity changes with the scale of the activations.
    """
    constant = squared <= (_ROUNDING * torch.finfo(squared.dtype).eps) ** 2 * (squared + taken_off)
    return torch.where(constant, 0.0, 1 / torch.where(constant, 1.0, squared))


def _centred_gram(x: Tensor, mask: Tensor | None, project_to: int) -> tuple[Tensor, Tensor]:
    """``H K H``, and the squared length of what centring took off."""
    if saves_work(x.shape[-2], x.shape[-1], project_to):
        gram, taken_off = _ProjectedGram.apply(x, mask, project_to, True)
        return gram, taken_off
    centred, taken_off = _centred(x, mask)
    return _gram(centred), taken_off


def _cosines(x: Tensor, mask: Tensor | None, project_to: int) -> Tensor:
    """Cosines of each two examples, zeros where one is left out or a row of zeros."""
    real = _real(x, mask)
    if not saves_work(x.shape[-2], x.shape[-1], project_to):
        return _gram(_with_unit_rows(x) * real[..., None])
    gram, _ = _ProjectedGram.apply(x, mask, project_to, False)
    length = _root(gram.diagonal(dim1=-2, dim2=-1))
    scale = torch.where(length == 0, 0.0, real / torch.where(length == 0, 1.0, length))
    return gram * scale[..., :, None] * scale[..., None, :]


class _ProjectedGram(torch.autograd.Function):
    """``X Xᵀ``, or ``H X Xᵀ H``, by projected rows, and the squared length that centring took off; the gradient is the exact one's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor | None, width: int, centre: bool) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, mask)
        ctx.centre = centre
        rows = project(x, width)
        rows, taken_off = _centred(rows, mask) if centre else (rows, x.new_zeros(x.shape[:-2]))
        ctx.mark_non_differentiable(taken_off)
        return _gram(rows), taken_off

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        x, mask = ctx.saved_tensors
        weight = gradients[0] + gradients[0].transpose(-2, -1)
        if ctx.centre:
            # H moves from the wide activations onto the small matrix, from both sides
            weight = _centred(_centred(weight, mask)[0].transpose(-2, -1), mask)[0]
        return weight @ (x if mask is None else torch.where(mask[..., None], x, 0.0)), None, None, None


def _root(squared: Tensor) -> Tensor:
    """The square root, whose gradient at zero is zero."""
    return torch.where(squared > 0, torch.where(squared > 0, squared, 1.0).sqrt(), 0.0)


def _scaled_distance(first: Tensor, second: Tensor) -> Tensor:
    """``1 − similarity + (log σ_X − log σ_Y)²`` of kernels whose lengths are σ."""
    one, other = (_root(matrix.square().sum((-2, -1))) for matrix in (first, second))
    nothing = (one == 0) | (other == 0)
    one, other = torch.where(nothing, 1.0, one), torch.where(nothing, 1.0, other)
    return 1 - similarity(first, second) / (one * other) + (one.log() - other.log()).square()


def _relative_errors(squared: Tensor, errors: Tensor) -> tuple[Tensor, Tensor]:
    """a and ε of the module for layers with projected kernels of this squared length, which errors have lengthened."""
    exact = squared - errors[1]
    share = torch.where(errors == 0, 0.0, torch.where(exact > 0, errors / torch.where(exact > 0, exact, 1.0), torch.inf)).sqrt()
    return share[0], share[1]


def _with_length_one(centred: Tensor, taken_off: Tensor) -> Tensor:
    return centred * _inverse(centred.detach().square().sum(), taken_off).sqrt()


def _with_unit_rows(x: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x * torch.where(length == 0, 0.0, 1 / torch.where(length == 0, 1.0, length))


def _u_centred(gram: Tensor, real: Tensor) -> Tensor:
    """``Ã_ij = K_ij − Σ_l K_il / (n − 2) − Σ_l K_lj / (n − 2) + Σ_lm K_lm / ((n − 1)(n − 2))`` off the diagonal, of which no sum takes any
    part; ``Ã_ii = 0``.
    """
    pairs = real[..., :, None] * real[..., None, :] * (1 - torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device))
    count = real.sum(-1)[..., None, None].clamp(min=4)
    gram = gram * pairs
    rows = gram.sum(-1, keepdim=True) / (count - 2)
    total = gram.sum((-2, -1), keepdim=True) / ((count - 1) * (count - 2))
    return (gram - rows - rows.transpose(-2, -1) + total) * pairs


def _of_length_one(matrix: Tensor, source: Tensor) -> Tensor:
    """The matrix over its Frobenius norm; zeros where it is rounding beside what it was made of."""
    length = torch.linalg.vector_norm(matrix, dim=(-2, -1), keepdim=True)
    size = torch.linalg.vector_norm(source.detach(), dim=(-2, -1), keepdim=True)
    nothing = length <= _ROUNDING * torch.finfo(matrix.dtype).eps * size
    return matrix * torch.where(nothing, 0.0, 1 / torch.where(nothing, 1.0, length))


def _dependence(x: Tensor, y: Tensor, debiased: bool) -> Tensor:
    """``⟨K, L⟩`` of centred features, or of their U-centred kernels: as the features are centred, off-diagonal row sums are −K_ii."""
    both = (x.T @ y).square().sum()
    if not debiased:
        return both
    count = len(x)
    k, m = x.square().sum(1), y.square().sum(1)
    return both - (count / (count - 2)) * (k @ m) + k.sum() * m.sum() / ((count - 1) * (count - 2))


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")


def check_projection(project_to: int) -> None:
    """Refuse a number to project to that is below zero."""
    if project_to < 0:
        raise ValueError(f"project_to must be at least 0 (0: never), got {project_to}")


def _check_count(count: int) -> None:
    if count < LEAST:
        raise ValueError(f"a similarity needs at least {LEAST} examples, got {count}")


def _check_pair(x: Tensor, y: Tensor) -> None:
    if x.ndim < 2 or y.ndim < 2:
        raise ValueError(f"layers must be (examples, …), got {tuple(x.shape)} and {tuple(y.shape)}")
    if len(x) != len(y):
        raise ValueError(f"layers must have the same examples, got {len(x)} and {len(y)}")
    _check_count(len(x))
