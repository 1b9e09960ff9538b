"""How alike two layers see the same examples: centred kernel alignment (CKA), its debiased form, and representational similarity (RSA).

Everything rests on one object, a layer's *kernel*: a (examples, examples) matrix of length one that says how alike each two examples are in
the layer. The similarity of two layers is the inner product of their kernels. With ``K = X Xᵀ`` of activations X (examples, numbers):

- ``cka``: ``H K H``, ``H = I − 1 1ᵀ / n`` (Kornblith, Norouzi, Lee, Hinton, 2019, Similarity of Neural Network Representations Revisited);
- ``cka-debiased``: K without its diagonal, centred so that the product of two is the unbiased estimate of their dependence, from which
  ``cka`` is far where layers have more numbers than there are examples (Székely, Rizzo, 2014, Partial Distance Correlation with Methods
  for Dissimilarities; Nguyen, Raghu, Kornblith, 2021, Do Wide and Deep Networks Learn the Same Things?);
- ``rsa``: cosines of each two examples, less their mean: the product is Pearson's correlation of the cosines, diagonal included
  (Kriegeskorte, Mur, Bandettini, 2008, Representational Similarity Analysis).

All three ignore the scale of the activations and turning or mirroring them, the first two also shifting them. Half precision is computed in
float32. A layer that is the same for all examples has a kernel of zeros, with zero gradient: it is like no other layer, nor like itself.
Values of ``cka`` depend on the number of examples: compare them at one number only. What is not finite stays so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

Kind = Literal["cka", "cka-debiased", "rsa"]
KINDS: tuple[str, ...] = get_args(Kind)
Form = Literal["auto", "gram", "feature"]
LEAST = 8
"""Examples below which no similarity is worth its name."""

_ROUNDING = 16
"""Multiples of the machine's precision below which a variation is rounding."""


def kernel(x: Tensor, kind: Kind = "cka", mask: Tensor | None = None) -> Tensor:
    """The kernel of a layer, (..., examples, examples), of length one: see the module for the three kinds.

    Args:
        x: activations (..., examples, numbers); leading dimensions are kernels of their own.
        kind: ``cka``, ``cka-debiased`` or ``rsa``.
        mask: (..., examples), False for examples that are to be left out: their rows and columns are zeros.

    Raises:
        ValueError: an unknown kind, or (without a mask) fewer than `LEAST` examples.
    """
    _check_kind(kind)
    if mask is None:
        _check_count(x.shape[-2])
    with torch.autocast(x.device.type, enabled=False):
        x = _precise(x)
        if kind == "rsa":
            real = _real(x, mask)
            cosines = _gram(_with_unit_rows(x) * real[..., None])
            pairs = real[..., :, None] * real[..., None, :]
            mean = cosines.sum((-2, -1), keepdim=True) / pairs.sum((-2, -1), keepdim=True).clamp(min=1)
            return _of_length_one((cosines - mean) * pairs, cosines)
        gram = _centred_gram(x, mask)
        return _of_length_one(gram if kind == "cka" else _u_centred(gram, _real(x, mask)), gram)


def similarity(first: Tensor, second: Tensor) -> Tensor:
    """The similarity (...,) of two layers by their `kernel`s, ``Σ_ij k_ij l_ij``."""
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


def representational_distance(x: Tensor, y: Tensor, kind: Kind = "cka", mask: Tensor | None = None, per_token: bool = False) -> Tensor:
    """``1 − similarity`` of two layers, a scalar, differentiable in both; by position, the sum of that over positions.

    Args:
        x: (examples, ...); all but the first dimension is flattened. By position: (examples, length, ...).
        y: (examples, ...), or (examples, length, ...), of the same examples.
        kind: ``cka``, ``cka-debiased`` or ``rsa``.
        mask: (examples, length), True = real. Padding is set to zero before a layer with positions is flattened; by position, only the
            examples that are real there are compared, and positions where fewer than `LEAST` are do not count.
        per_token: compare position by position.

    Raises:
        ValueError: an unknown kind, different examples, fewer than `LEAST`; by position: different lengths, no length, or no position with
            so many real examples.
    """
    _check_kind(kind)
    _check_pair(x, y)
    if not per_token and mask is None and kind != "rsa":
        return 1 - linear_cka(x, y, debiased=kind == "cka-debiased")
    if per_token and (x.ndim < 3 or y.ndim < 3 or x.shape[1] != y.shape[1]):
        raise ValueError(f"per_token compares (examples, length, …) of one length, got {tuple(x.shape)} and {tuple(y.shape)}")
    first, second = (layer_kernel(values, kind, mask, per_token) for values in (x, y))
    return kernel_distance(first, second, token_counts(mask) if per_token else None)


def layer_kernel(x: Tensor, kind: Kind = "cka", mask: Tensor | None = None, per_token: bool = False) -> Tensor:
    """The kernel (examples, examples) of activations (examples, ...), or one a position (length, examples, examples).

    ``mask`` is as in `representational_distance`; it counts where x has positions, and is ignored by layers without.
    """
    positions = mask is not None and x.ndim > 2 and x.shape[:2] == mask.shape
    if per_token:
        return kernel(x.flatten(2).transpose(0, 1), kind, mask.T if mask is not None and positions else None)
    if mask is not None and positions:
        x = torch.where(mask.view(*mask.shape, *[1] * (x.ndim - 2)), x, 0.0)
    return kernel(x.flatten(1), kind)


def kernel_distance(first: Tensor, second: Tensor, counts: Tensor | None = None) -> Tensor:
    """``Σ (1 − similarity)`` over the kernels of two layers; those of positions with fewer than `LEAST` real examples do not count.

    Args:
        first: (examples, examples), or (length, examples, examples), from `layer_kernel`.
        second: alike.
        counts: real examples by position, (length,), or None for all.

    Raises:
        ValueError: shapes differ, or no position counts.
    """
    if first.shape != second.shape:
        raise ValueError(f"layers with kernels {tuple(first.shape)} and {tuple(second.shape)} have different examples or positions")
    distance = 1 - similarity(first, second)
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
    """

    def __init__(self) -> None:
        self.batches = 0
        self._cross: Tensor | float = 0.0
        self._first: Tensor | float = 0.0
        self._second: Tensor | float = 0.0

    def add(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
        """Take in one batch: the layers of both networks, each (examples, ...).

        Raises:
            ValueError: no layer, layers of different numbers of examples, fewer than `LEAST`, or another number of layers than before.
        """
        if not first or not second:
            raise ValueError("there is no layer to compare")
        count = len(first[0])
        _check_count(count)
        a, b = (torch.stack([self._dependences(layer, count) for layer in layers]) for layers in (first, second))
        cross = a @ b.T
        if isinstance(self._cross, Tensor) and self._cross.shape != cross.shape:
            raise ValueError(f"{tuple(self._cross.shape)} layers were compared before, now {tuple(cross.shape)}")
        self._cross, self._first, self._second = self._cross + cross, self._first + a.square().sum(1), self._second + b.square().sum(1)
        self.batches += 1

    def matrix(self) -> Tensor:
        """Similarities (layers of the first, layers of the second), float64.

        Raises:
            ValueError: nothing was added.
        """
        if not (isinstance(self._cross, Tensor) and isinstance(self._first, Tensor) and isinstance(self._second, Tensor)):
            raise ValueError("no batch was added: there is nothing to compare")
        own = self._first[:, None] * self._second
        return torch.where(own == 0, 0.0, self._cross / torch.where(own == 0, 1.0, own).sqrt())

    @staticmethod
    def _dependences(layer: Tensor, count: int) -> Tensor:
        """The U-centred kernel as a vector whose squared length is the unbiased estimate."""
        if len(layer) != count:
            raise ValueError(f"all layers must have the same examples, got {count} and {len(layer)}")
        x = layer.detach().flatten(1).double()
        real = x.new_ones(count)
        centred = x - x.mean(0)
        if float(centred.norm()) <= _ROUNDING * torch.finfo(x.dtype).eps * float(x.norm()):
            centred = torch.zeros_like(x)
        return _u_centred(_gram(centred), real).flatten() / (count * (count - 3)) ** 0.5


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


def _centred_gram(x: Tensor, mask: Tensor | None) -> Tensor:
    """``H K H`` at trace one."""
    centred, taken_off = _centred(x, mask)
    gram = _gram(centred)
    return gram * _inverse(gram.detach().diagonal(dim1=-2, dim2=-1).sum(-1), taken_off)[..., None, None]


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


def _check_count(count: int) -> None:
    if count < LEAST:
        raise ValueError(f"a similarity needs at least {LEAST} examples, got {count}")


def _check_pair(x: Tensor, y: Tensor) -> None:
    if x.ndim < 2 or y.ndim < 2:
        raise ValueError(f"layers must be (examples, …), got {tuple(x.shape)} and {tuple(y.shape)}")
    if len(x) != len(y):
        raise ValueError(f"layers must have the same examples, got {len(x)} and {len(y)}")
    _check_count(len(x))
