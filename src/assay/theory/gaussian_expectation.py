"""Expectations ``⟨f⟩_K`` of a function of a Gaussian, z ~ N(0, K), to rounding, also where f has kinks or jumps.

Gauss–Hermite points miss a kink by about one over their number. Here ``u = z / √K`` runs over [−12, 12], cut at every breakpoint of f and
into a few panels more, with Gauss–Legendre points on each:

    ⟨f⟩_K = ∫ f(√K u) e^{−u²/2} du / √(2π) ≈ Σ_i w_i f(z_i).

Beyond ±12 the density is below 1e−31. A second derivative is taken as a distribution: where σ' jumps by j at z_k,
``⟨σ'' f⟩_K`` has the term ``j f(z_k) N(z_k; 0, K)`` beside its regular part.

Source of the use: Roberts, Yaida, Hanin (2022), The Principles of Deep Learning Theory; the rule is the classical composite one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from torch import Tensor, nn

DTYPE = torch.float64
REACH = 12.0
PANELS = 6
_SEARCH = torch.linspace(-20.0, 20.0, 8002, dtype=DTYPE)  # an even count: 0 and other round numbers lie between two points

Pointwise = Callable[[Tensor], Tensor]


class ScalarFunction:
    """A function R → R applied to each number of a tensor, with its first two derivatives and the places where they jump.

    Args:
        function: σ, on float64 tensors of any shape; a module is copied in double precision.
        first: σ'; by default torch's automatic derivative.
        second: σ'' between the breakpoints; by default torch's automatic derivative.
        breakpoints: where σ, σ' or σ'' jump, in increasing order; looked for in [−20, 20] where None.

    Raises:
        ValueError: the function mixes the numbers of its input or changes its shape; breakpoints out of order.
    """

    def __init__(
        self,
        function: Pointwise,
        first: Pointwise | None = None,
        second: Pointwise | None = None,
        breakpoints: Sequence[float] | None = None,
    ) -> None:
        self.function: Pointwise = copy.deepcopy(function).double().eval() if isinstance(function, nn.Module) else function
        self._first, self._second = first, second
        self._refuse_mixing(function)
        self.breakpoints = self._found_breakpoints() if breakpoints is None else tuple(float(place) for place in breakpoints)
        if any(low >= high for low, high in zip(self.breakpoints, self.breakpoints[1:], strict=False)):
            raise ValueError(f"breakpoints must increase, got {self.breakpoints}")

    def __call__(self, z: Tensor) -> Tensor:
        """σ(z), any shape."""
        with torch.no_grad():
            return self.function(z)

    def slopes(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """σ(z) and σ'(z), each of z's shape: half the work of `derivatives`."""
        if self._first is not None:
            return self(z), self._first(z)
        with torch.enable_grad():
            point = z.detach().clone().requires_grad_()
            value = self.function(point)
            slope = torch.autograd.grad(value.sum(), point)[0] if value.requires_grad else torch.zeros_like(z)
        return value.detach(), slope

    def derivatives(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """σ(z), σ'(z) and the regular part of σ''(z), each of z's shape."""
        value = self(z)
        if self._first is not None and self._second is not None:
            return value, self._first(z), self._second(z)
        with torch.enable_grad():
            point = z.detach().clone().requires_grad_()
            slope = self._first(point) if self._first is not None else _derivative(self.function(point), point)
            curvature = self._second(z) if self._second is not None else _derivative(slope, point)
        return value, slope.detach(), curvature.detach()

    @cached_property
    def discontinuous(self) -> bool:
        """Whether σ itself jumps."""
        below, above = self.sides()
        return bool(((above - below)[:, 0].abs() > 1e-6).any())

    def sides(self) -> Tensor:
        """σ, σ' and σ'' just below and just above each breakpoint: (2, breakpoints, 3)."""
        places = torch.tensor(self.breakpoints, dtype=DTYPE)
        gap = 1e-9 * (1 + places.abs())
        return torch.stack([torch.stack(self.derivatives(places + side * gap), -1) for side in (-1, 1)])

    def _refuse_mixing(self, named: Pointwise) -> None:
        probe = torch.linspace(-2.1, 1.9, 12, dtype=DTYPE)
        try:
            whole, part = self(probe), self(probe[::2].clone())
            pointwise = whole.shape == probe.shape and torch.allclose(whole[::2], part, equal_nan=True)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ValueError(f"{_name(named)} is no function of a single number: {str(error).splitlines()[0]}") from error
        if not pointwise:
            raise ValueError(f"{_name(named)} is no function of a single number: it mixes the numbers of its input or changes its shape")

    def _found_breakpoints(self) -> tuple[float, ...]:
        """Cells of a grid over which σ, σ' or σ'' change by far more than in their neighbours, halved until only a jump is left."""
        values = torch.stack(self.derivatives(_SEARCH)).nan_to_num(posinf=0.0, neginf=0.0)
        change = values.diff(dim=1).abs()
        around = torch.maximum(nn.functional.pad(change[:, :-1], (1, 0)), nn.functional.pad(change[:, 1:], (0, 1)))
        suspect = (change > 4 * around) & (change > 1e-7 * values.abs().amax(1, keepdim=True))
        places = {self._halved(order, float(_SEARCH[cell])) for order, cell in suspect.nonzero().tolist()}
        return tuple(sorted(place for place in places if place is not None))

    def _halved(self, order: int, low: float) -> float | None:
        """Where in the cell that begins at ``low`` the derivative of an order jumps, to nine digits; None where it only bends."""
        high = low + float(_SEARCH[1] - _SEARCH[0])
        changes = []
        for _ in range(36):
            middle = (low + high) / 2
            left, centre, right = self.derivatives(torch.tensor([low, middle, high], dtype=DTYPE))[order].tolist()
            changes.append(abs(right - left))
            low, high = (low, middle) if abs(centre - left) > abs(right - centre) else (middle, high)
        return round((low + high) / 2, 9) + 0.0 if changes[-1] > 0.1 * changes[0] else None


def is_pointwise(function: Pointwise) -> bool:
    """Whether a function or module maps each number of a tensor by itself; a module is copied, and never changed."""
    try:
        ScalarFunction(function, breakpoints=())
    except Exception:  # whatever a foreign module does not like of a row of numbers
        return False
    return True


def check_square(sigma: ScalarFunction) -> None:
    """Refuse a function without ``⟨σ²⟩_1`` that is finite at every point all the same: its value changes with the number of points.

    Raises:
        ValueError: half the points change it by more than 1 %.
    """
    coarse, fine = (GaussianExpectation(sigma.breakpoints, points)(lambda z: sigma(z).square(), 1.0) for points in (600, 1200))
    if abs(fine - coarse) > 0.01 * max(abs(fine), abs(coarse)):
        raise ValueError(
            f"the function's mean square is {coarse:.4g} by 600 points and {fine:.4g} by 1,200: it has a pole or turns too fast, and no "
            "Gaussian expectation is told"
        )


@dataclass(frozen=True)
class GaussianExpectation:
    """``⟨f⟩_K``, one and two variables, at the given number of points a variable.

    Args:
        breakpoints: where the functions have kinks or jumps, in z, in increasing order.
        points: Gauss–Legendre points a variable, all panels together.

    Raises:
        ValueError: breakpoints out of order, or too few points for the panels that they make.
    """

    breakpoints: tuple[float, ...] = (0.0,)
    points: int = 1200

    def __post_init__(self) -> None:
        object.__setattr__(self, "breakpoints", tuple(float(place) for place in self.breakpoints))
        if any(low >= high for low, high in zip(self.breakpoints, self.breakpoints[1:], strict=False)):
            raise ValueError(f"breakpoints must increase, got {self.breakpoints}")
        if self.points < 4 * self._panels:
            raise ValueError(f"points must be at least {4 * self._panels}, four a panel, got {self.points}")

    def __call__(self, function: Pointwise, variance: float) -> float:
        """``⟨f⟩_K``.

        Args:
            function: f, on a float64 tensor.
            variance: K ≥ 0; at 0 it is f(0).

        Raises:
            ValueError: K is negative or not finite; f is not finite at a point; it grows faster than the density falls.
        """
        z, weight = self.nodes(variance)
        return self.average(function(z), z, weight)

    def nodes(self, variance: float) -> tuple[Tensor, Tensor]:
        """Points z and weights w, each (points,), with ``⟨f⟩_K = Σ w f(z)``; one point at 0 where K = 0.

        Raises:
            ValueError: K is negative or not finite.
        """
        scale = _deviation(variance)
        if scale == 0:
            return torch.zeros(1, dtype=DTYPE), torch.ones(1, dtype=DTYPE)
        u, weight = self._rule(torch.tensor([place / scale for place in self.breakpoints], dtype=DTYPE))
        return scale * u, weight

    def average(self, values: Tensor, z: Tensor, weight: Tensor) -> float:
        """``Σ w f(z)`` of values f at `nodes`.

        Raises:
            ValueError: a value is not finite, or values at the ends weigh so much that the integral has none.
        """
        if values.shape != z.shape:
            raise ValueError(f"the function makes {tuple(values.shape)} of {tuple(z.shape)}: it is no function of a single number")
        if not bool(values.isfinite().all()):
            place = int((~values.isfinite()).nonzero()[0])
            raise ValueError(f"the function is {float(values[place]):g} at z = {float(z[place]):.6g} and has no Gaussian expectation")
        shares = values * weight
        for end in (0, -1):
            if float(values[end].abs()) > 1e6 and float(shares[end].abs()) > 1e-9 * float(shares.abs().sum()):
                raise ValueError(f"the function is {float(values[end]):.3g} at z = {float(z[end]):.6g}: it outgrows the Gaussian")
        return float(shares.sum())

    def curvature(self, sigma: ScalarFunction, factor: Callable[[Tensor, Tensor, Tensor], Tensor], variance: float) -> float:
        """``⟨σ'' f(z, σ, σ')⟩_K`` with σ'' as a distribution.

        Where σ' jumps from a to b at z_k the term is ``N(z_k; 0, K) ∫_a^b f(z_k, σ, s) ds``: what is left when the kink is rounded off ever
        more sharply.

        Args:
            sigma: its breakpoints should be this object's.
            factor: f, of z, σ(z) and σ'(z); a polynomial in σ' of degree 5 at most.
            variance: K > 0.

        Raises:
            ValueError: as for a call; also σ itself jumps, so that σ'' has no such expectation.
        """
        z, weight = self.nodes(variance)
        value, slope, second = sigma.derivatives(z)
        regular = self.average(second * factor(z, value, slope), z, weight)
        return regular + self.at_jumps(sigma, factor, variance)

    def pair(
        self, first: Pointwise, second: Pointwise, variances: tuple[float, float], correlation: float, points: int | None = None
    ) -> float:
        """``⟨f(z_1) g(z_2)⟩`` of two Gaussians of given variances and correlation.

        ``z_2 = √K_2 (ρ u + √(1 − ρ²) v)``: for each u the range of v is cut where z_2 meets a breakpoint.

        Args:
            first: f.
            second: g.
            variances: K_1 and K_2 ≥ 0.
            correlation: ρ; clipped to [−1, 1], which rounding may leave by a little.
            points: a variable; 300 by default, or this object's where it has fewer.

        Raises:
            ValueError: as for a call; ρ is beyond ±1 by more than 1e−6.
        """
        if not abs(correlation) <= 1 + 1e-6:
            raise ValueError(f"correlation must lie in [-1, 1], got {correlation}")
        one, two = (_deviation(variance) for variance in variances)
        rho = max(-1.0, min(1.0, correlation))
        rest = math.sqrt(max(0.0, (1 - rho) * (1 + rho)))
        rule = GaussianExpectation(self.breakpoints, points or min(self.points, 300))
        if one == 0 or two == 0:
            return rule(first, one**2) * rule(second, two**2)
        if rest < 1e-9:
            both = GaussianExpectation(tuple(sorted({*self.breakpoints, *(rho * b * one / two for b in self.breakpoints)})), self.points)
            return both(lambda z: first(z) * second(rho * z * two / one), one**2)
        places = torch.tensor(self.breakpoints, dtype=DTYPE)
        u, outer = rule._rule(torch.cat([places / one, *_transitions(places / two, rho, rest)]).unique())
        v, inner = rule._rule(((places / two - rho * u[:, None]) / rest).clamp(-REACH, REACH))
        z = two * (rho * u[:, None] + rest * v)
        values = second(z)
        if not bool(values.isfinite().all()):
            bad = float(z[~values.isfinite()][0])
            raise ValueError(f"the function is not finite at z = {bad:.6g} and has no Gaussian expectation")
        return rule.average(first(one * u) * (values * inner).sum(-1), one * u, outer)

    @property
    def _panels(self) -> int:
        segments = len(self.breakpoints) + 1
        return segments * math.ceil(PANELS / segments)

    def _rule(self, breakpoints: Tensor) -> tuple[Tensor, Tensor]:
        """Points and weights (..., points) on [−12, 12] for breakpoints (..., count) in u, in increasing order."""
        segments = breakpoints.shape[-1] + 1
        panels = math.ceil(PANELS / segments)
        x, w = _legendre(max(4, self.points // (segments * panels)))
        end = breakpoints.new_full((*breakpoints.shape[:-1], 1), REACH)
        edges = torch.cat([-end, breakpoints.clamp(-REACH, REACH), end], -1)
        low, width = edges[..., :-1, None], edges.diff(dim=-1)[..., None] / panels
        starts = (low + width * torch.arange(panels, dtype=DTYPE)).flatten(-2)[..., None]
        widths = width.expand(*width.shape[:-1], panels).flatten(-2)[..., None]
        u = (starts + widths * x).flatten(-2)
        return u, (widths * w).flatten(-2) * (-u.square() / 2).exp() / math.sqrt(2 * math.pi)

    def at_jumps(self, sigma: ScalarFunction, factor: Callable[[Tensor, Tensor, Tensor], Tensor], variance: float) -> float:
        """The point masses' part of `curvature`; 0 where σ' does not jump."""
        if not sigma.breakpoints:
            return 0.0
        below, above = sigma.sides()
        if sigma.discontinuous:
            raise ValueError(f"the function jumps at one of {sigma.breakpoints}: its second derivative has no Gaussian expectation")
        place = torch.tensor(sigma.breakpoints, dtype=DTYPE)
        density = (-place.square() / (2 * variance)).exp() / math.sqrt(2 * math.pi * variance)
        x, w = _legendre(4)
        total = torch.zeros((), dtype=DTYPE)
        for share, weight in zip(x, w, strict=True):
            slope = below[:, 1] + share * (above[:, 1] - below[:, 1])
            total = total + weight * (density * (above[:, 1] - below[:, 1]) * factor(place, sigma(place), slope)).sum()
        return float(total)


@cache
def _legendre(count: int) -> tuple[Tensor, Tensor]:
    """Gauss–Legendre points and weights on [0, 1]."""
    x, w = np.polynomial.legendre.leggauss(count)
    return torch.from_numpy((x + 1) / 2), torch.from_numpy(w / 2)


def _transitions(places: Tensor, rho: float, rest: float) -> list[Tensor]:
    """Where the inner average passes a breakpoint of g: for ρ near ±1 within a layer of u of width √(1 − ρ²)."""
    return [(places + side * rest) / rho for side in (-8.0, 0.0, 8.0)] if rho else []


def _deviation(variance: float) -> float:
    if not (variance >= 0 and math.isfinite(variance)):
        raise ValueError(f"variance must be finite and not negative, got {variance}")
    return math.sqrt(variance)


def _derivative(value: Tensor, point: Tensor) -> Tensor:
    """dv/dx element by element; 0 where v does not depend on x, as a constant slope does not."""
    if not value.requires_grad:
        return torch.zeros_like(point)
    (found,) = torch.autograd.grad(value.sum(), point, create_graph=True, allow_unused=True, materialize_grads=True)
    return found


def _name(function: Pointwise) -> str:
    return getattr(function, "__name__", type(function).__name__)
