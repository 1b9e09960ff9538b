"""Networks that are constructed, not trained, and how large they must be: what powers of ReLU can do that ReLU cannot.

With the activation ``φ(u) = max(u, 0)² − 2c max(u, 0) + c²``, a PolyReLU, a unit that reads ``l + c`` gives l² exactly wherever
``l ≥ −c``: on a bounded domain a square costs one unit, and so

    xy = ((x + y)² − (x − y)²) / 4,

hence every polynomial of degree d, needs ⌈log₂ d⌉ layers and has no error. ReLU networks come near x² only as ``4^−(depth + 1)`` (Yarotsky,
2017, Error bounds for approximations with deep ReLU networks).

Source of the comparison: Zhuo et al. (2024), Polynomial Composition Activations: Unleashing the Dynamics of Large Language Models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from assay.ops.poly_relu import poly_relu

RELU = (1.0, 0.0)
"""ReLU as coefficients of `assay.ops.poly_relu.poly_relu`: highest power first, then the constant."""


@dataclass(frozen=True)
class Layer:
    """Units ``f(W x + b)`` with ``f(u) = Σ a_p max(u, 0)^p + a_0``; ``coefficients`` are ``(a_r … a_1, a_0)``."""

    weight: Tensor
    bias: Tensor
    coefficients: tuple[float, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., units)."""
        a = x.new_tensor(self.coefficients)
        return poly_relu(x @ self.weight.T.to(x.dtype) + self.bias.to(x.dtype), a[:-1], a[-1:], "reference")


@dataclass(frozen=True)
class Network:
    """Hidden layers and a linear output ``w · h + b``; maps x (..., inputs) to (...)."""

    layers: tuple[Layer, ...]
    weight: Tensor
    bias: float

    def __call__(self, x: Tensor) -> Tensor:
        """The function that it computes, in x's precision."""
        for layer in self.layers:
            x = layer(x)
        return x @ self.weight.to(x.dtype) + self.bias

    @property
    def units(self) -> int:
        """Hidden units over all layers."""
        return sum(len(layer.bias) for layer in self.layers)

    @property
    def depth(self) -> int:
        """Hidden layers."""
        return len(self.layers)


# ------------------------------------------------------------------------------------------------ PolyReLU networks


def square(radius: float | None = 1.0) -> Network:
    """x², exactly: one unit for |x| ≤ ``radius``; two, ``max(x, 0)² + max(−x, 0)²``, for every x where it is None.

    Raises:
        ValueError: a radius that is not positive.
    """
    if radius is None:
        everywhere = Layer(_matrix([[1.0], [-1.0]]), _vector([0.0, 0.0]), (1.0, 0.0, 0.0))
        return Network((everywhere,), _vector([1.0, 1.0]), 0.0)
    return _from_squares([[[1.0]]], [1.0], radius)


def product(radius: float | None = 1.0) -> Network:
    """xy, exactly: two units for |x|, |y| ≤ ``radius``, four for all x and y where it is None.

    Raises:
        ValueError: a radius that is not positive.
    """
    if radius is None:
        forms = _matrix([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])
        return Network((Layer(forms, torch.zeros(4, dtype=torch.float64), (1.0, 0.0, 0.0)),), _vector([0.25, 0.25, -0.25, -0.25]), 0.0)
    return _from_squares([[[1.0, 1.0], [1.0, -1.0]]], [0.25, -0.25], radius)


def cubic_product(radius: float = 1.0) -> Network:
    """x³y, exactly, for |x|, |y| ≤ ``radius``: ``(s² − t²) / 4`` with ``s = x² + xy``, ``t = x² − xy``; five units in two layers.

    Raises:
        ValueError: a radius that is not positive.
    """
    first = [[1.0, 0.0], [1.0, 1.0], [1.0, -1.0]]  # x², (x + y)², (x − y)²
    second = [[1.0, 0.25, -0.25], [1.0, -0.25, 0.25]]  # s and t of those
    return _from_squares([first, second], [0.25, -0.25], radius)


def polynomial(coefficients: Sequence[float], radius: float = 1.0) -> Network:
    """``Σ c_k x^k``, exactly, for |x| ≤ ``radius``, in ⌈log₂ degree⌉ layers.

    Layer by layer all powers up to twice the last are made of squares of sums and differences of those before.

    Args:
        coefficients: ``c_0, c_1 …``; the last is that of the highest power.
        radius: of the domain.

    Raises:
        ValueError: fewer than three coefficients (that needs no unit), or a radius that is not positive.
    """
    degree = len(coefficients) - 1
    if degree < 2:
        raise ValueError(f"a polynomial needs at least three coefficients to need a network, got {len(coefficients)}")
    known = [_vector([1.0, 0.0])]  # x¹ as an affine form of the inputs, the constant last
    layers: list[Tensor] = []
    reached = 1
    while reached < degree:
        wanted = min(2 * reached, degree)
        forms: list[Tensor] = []
        recipes: list[dict[int, float]] = []
        for power in range(1, wanted + 1):
            low, high = power // 2, power - power // 2
            recipe: dict[int, float] = {}
            if low == high:
                recipe[len(forms)] = 1.0
                forms.append(known[low - 1])
            else:  # x^1 itself is 1 · x, a product with the constant
                one = _unit(known[0]) if low == 0 else known[low - 1]
                recipe = {len(forms): 0.25, len(forms) + 1: -0.25}
                forms += [known[high - 1] + one, known[high - 1] - one]
            recipes.append(recipe)
        layers.append(torch.stack(forms))
        known = [_form(recipe, len(forms)) for recipe in recipes]
        reached = wanted
    output = sum(c * form for c, form in zip(coefficients[1:], known, strict=True))
    assert isinstance(output, Tensor)  # there are at least two terms
    return _squaring(layers, output[:-1], float(output[-1]) + coefficients[0], radius)


def _from_squares(layers: list[list[list[float]]], output: list[float], radius: float) -> Network:
    """A network of squares of linear forms: each layer's forms read the squares of the one before."""
    forms = [torch.cat([_matrix(rows), torch.zeros(len(rows), 1, dtype=torch.float64)], 1) for rows in layers]
    return _squaring(forms, _vector(output), 0.0, radius)


def _squaring(forms: list[Tensor], output: Tensor, constant: float, radius: float) -> Network:
    """Layers that square affine forms (units, inputs + 1); each c is the largest |form| on the domain, by interval arithmetic."""
    if not radius > 0:
        raise ValueError(f"radius must be positive, got {radius}")
    low, high = -radius * torch.ones(forms[0].shape[1] - 1, dtype=torch.float64), torch.tensor(radius, dtype=torch.float64)
    high = high.expand_as(low)
    layers = []
    for form in forms:
        weight, bias = form[:, :-1], form[:, -1]
        centre, half = weight @ ((low + high) / 2) + bias, weight.abs() @ ((high - low) / 2)
        reach = float((centre.abs() + half).max())
        layers.append(Layer(weight, bias + reach, (1.0, -2 * reach, reach**2)))
        high = (centre.abs() + half) ** 2
        low = torch.zeros_like(high)
    return Network(tuple(layers), output, constant)


# ------------------------------------------------------------------------------------------------ ReLU networks


def relu_square(depth: int) -> Network:
    """x² on [−1, 1] by a ReLU network of the given depth: the interpolation at 2^(depth − 1) + 1 points a side of 0.

    ``|x| − Σ_{s<depth} g_s(|x|) / 4^s`` with the sawtooth ``g_s = g ∘ … ∘ g``; at most four units a layer. Its error is
    `relu_square_error`.

    Raises:
        ValueError: a depth below 1.
    """
    if depth < 1:
        raise ValueError(f"depth must be at least 1, got {depth}")
    layers = [Layer(_matrix([[1.0], [-1.0]]), _vector([0.0, 0.0]), RELU)]
    sawtooth, sum_so_far = _vector([1.0, 1.0]), _vector([1.0, 1.0])  # both |x| at first, read off the units
    for step in range(1, depth):
        # g(z) = 2 relu(z) − 4 relu(z − ½) + 2 relu(z − 1), and the sum, which is never negative, is handed on
        weight = torch.stack([sawtooth, sawtooth, sawtooth, sum_so_far])
        layers.append(Layer(weight, _vector([0.0, -0.5, -1.0, 0.0]), RELU))
        sawtooth = _vector([2.0, -4.0, 2.0, 0.0])
        sum_so_far = _vector([0.0, 0.0, 0.0, 1.0]) - sawtooth / 4**step
    return Network(tuple(layers), sum_so_far, 0.0)


def relu_square_error(depth: int) -> float:
    """The largest error of `relu_square`: ``4^−depth``, a quarter of it with every layer more."""
    return 4.0**-depth


def relu_size_of_poly_relu(layers: int, width: int, error: float) -> float:
    """Units of a ReLU network that matches a PolyReLU network on a bounded domain, to a constant: ``layers · width · ln²(1/error)``.

    The other way costs nothing: ReLU is PolyReLU with a = (0, 1, 0, 0).

    Raises:
        ValueError: an error that is not between 0 and 1.
    """
    _check_error(error)
    return layers * width * math.log(1 / error) ** 2


def sobolev_size(error: float, dimension: int, smoothness: int, activation: str = "poly-relu") -> float:
    """Units that reach an error on the unit ball of functions with ``smoothness`` derivatives on [−1, 1]^dimension, to a constant.

    ``error^(−dimension / smoothness)``, the optimal rate, with PolyReLU; known constructions with ReLU need ``ln(1/error)`` times as many.

    Raises:
        ValueError: an error that is not between 0 and 1, another activation, or a size below 1.
    """
    _check_error(error)
    if activation not in ("poly-relu", "relu"):
        raise ValueError(f"activation must be poly-relu or relu, got {activation!r}")
    if dimension < 1 or smoothness < 1:
        raise ValueError(f"dimension and smoothness must be at least 1, got {dimension} and {smoothness}")
    return error ** (-dimension / smoothness) * (math.log(1 / error) if activation == "relu" else 1.0)


def _check_error(error: float) -> None:
    if not 0 < error < 1:
        raise ValueError(f"error must be between 0 and 1, got {error}")


def _matrix(rows: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def _vector(values: Sequence[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def _unit(like: Tensor) -> Tensor:
    """The affine form that is 1."""
    one = torch.zeros_like(like)
    one[-1] = 1
    return one


def _form(recipe: dict[int, float], count: int) -> Tensor:
    """A sum of units as an affine form of them, its constant 0 last."""
    form = torch.zeros(count + 1, dtype=torch.float64)
    for place, value in recipe.items():
        form[place] = value
    return form
