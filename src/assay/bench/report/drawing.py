"""Scales, ticks and SVG elements: what every chart of the report is drawn with. Colours come from the page's style by class."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

FONT = 11.5
"""Text height in the charts, in drawing units (a chart is 420 units wide)."""

_CHARACTER = 0.58 * FONT  # a wide guess of a character's mean width: labels must not touch whatever font the reader has


def tag(name: str, content: Any = "", **attributes: Any) -> Markup:
    """An element; attribute values and plain text are escaped, ``class_`` becomes ``class`` and ``text_anchor`` ``text-anchor``."""
    parts = [f' {key.rstrip("_").replace("_", "-")}="{escape(_short(value))}"' for key, value in attributes.items() if value is not None]
    return Markup(f"<{name}{''.join(parts)}>{escape(content)}</{name}>")


def joined(elements: Iterable[Any]) -> Markup:
    """Elements one after another."""
    return Markup("").join(elements)


def svg(width: float, height: float, content: Any, label: str, class_: str = "chart") -> Markup:
    """A picture that scales to its container; ``label`` is what a screen reader says of it."""
    return tag("svg", content, viewBox=f"0 0 {_short(width)} {_short(height)}", role="img", aria_label=label, class_=class_)


def text_width(text: str) -> float:
    """About how wide a label will be."""
    return _CHARACTER * len(text)


def path(points: Iterable[tuple[float, float]]) -> str:
    """The ``d`` of a polyline; a point that is not finite leaves a gap."""
    commands, pen = [], "M"
    for x, y in points:
        if not (math.isfinite(x) and math.isfinite(y)):
            pen = "M"
            continue
        commands.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
    return "".join(commands)


@dataclass(frozen=True)
class Scale:
    """Maps values to drawing units, linearly or by logarithm.

    Args:
        low: value at ``start``.
        high: value at ``end``.
        start: drawing unit of ``low``.
        end: drawing unit of ``high``.
        logarithmic: equal factors are equal distances.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The drawing unit of a value."""
        low, high = self.low, self.high
        if self.logarithmic:
            value, low, high = (math.log10(max(v, 1e-300)) for v in (value, low, high))
        return self.start + (value - low) / ((high - low) or 1.0) * (self.end - self.start)

    def clamped(self, value: float) -> float:
        """The nearest value on the scale."""
        return min(max(value, self.low), self.high)

    def side(self, value: float) -> int:
        """−1 for a value below the scale, 1 for one above, 0 for one on it."""
        return (value > self.high) - (value < self.low)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round values inside the scale, about ``wanted`` of them."""
        if self.logarithmic:
            return _logarithmic_ticks(self.low, self.high, wanted)
        return _linear_ticks(self.low, self.high, wanted)


def fitted(values: Sequence[float], start: float, end: float, *, logarithmic: bool = False, margin: float = 0.06) -> Scale:
    """A scale that holds all finite values with a margin at both ends; never of zero extent."""
    finite = [float(value) for value in values if math.isfinite(value) and (value > 0 or not logarithmic)] or [1.0]
    low, high = min(finite), max(finite)
    if logarithmic:
        stretch = (high / low) ** margin * 1.12
        return Scale(low / stretch, high * stretch, start, end, True)
    extent = (high - low) or abs(high) * 0.1 or 1.0
    return Scale(low - margin * extent, high + margin * extent, start, end)


def _linear_ticks(low: float, high: float, wanted: int) -> list[float]:
    raw = (high - low) / max(wanted, 1)
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _logarithmic_ticks(low: float, high: float, wanted: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
        ticks = [factor * 10.0**decade for decade in decades for factor in factors if low <= factor * 10.0**decade <= high]
        if len(ticks) >= min(3, wanted):
            return ticks[:: math.ceil(len(ticks) / (wanted + 1))] if len(factors) == 1 else ticks
    return _linear_ticks(low, high, 3)


@dataclass(frozen=True)
class Box:
    """A rectangle in drawing units."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """Area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0) * max(height, 0)

    def distance(self, point: tuple[float, float]) -> float:
        """From a point to the nearest of the rectangle."""
        x, y = point
        return math.hypot(max(self.left - x, 0, x - self.right), max(self.top - y, 0, y - self.bottom))


@dataclass(frozen=True)
class Placed:
    """A label beside its point: where the text stands and how it is anchored."""

    x: float
    y: float
    anchor: str


def placed_labels(points: Sequence[tuple[float, float]], labels: Sequence[str], frame: Box, keep: int = 0) -> list[Placed | None]:
    """Put each label beside its point where it covers least of the other labels and points; earlier ones choose first.

    Behind the first ``keep``, a label that would touch another label, or stand nearer to another point than to its own, is left out: None.
    Equal budgets put all points on one line, where no place is left for every name.
    """
    dots = [Box(x - 7, y - 6, x + 7, y + 6) for x, y in points]
    texts: list[Box] = []
    result: list[Placed | None] = []
    for index, ((x, y), label) in enumerate(zip(points, labels, strict=True)):
        best, best_cost, readable = None, math.inf, False
        for rank, (placed, box) in enumerate(_candidates(x, y, text_width(label))):
            outside = max(0, frame.left - box.left) + max(0, box.right - frame.right)
            outside += max(0, frame.top - box.top) + max(0, box.bottom - frame.bottom)
            covered = sum(box.overlap(other) for other in texts)
            misleads = min(map(box.distance, points)) < box.distance((x, y)) - 1
            cost = covered + sum(box.overlap(dot) for dot in dots if dot != dots[index]) + 40 * outside + 0.8 * rank + 200 * misleads
            if cost < best_cost:
                best, best_cost, readable = (placed, box), cost, not (misleads or covered)
        assert best is not None  # there is always a candidate
        if not readable and index >= keep:
            result.append(None)
            continue
        placed, box = best
        texts.append(Box(box.left - 4, box.top - 2, box.right + 4, box.bottom + 2))
        result.append(placed)
    return result


def _candidates(x: float, y: float, width: float) -> Iterable[tuple[Placed, Box]]:
    half = FONT * 0.55
    for lift in (0, -11, 11, -20, 20, -31, 31, -42, 42):
        side = 9 if abs(lift) < 16 else 4
        yield Placed(x + side, y + lift + FONT * 0.35, "start"), Box(x + side, y + lift - half, x + side + width, y + lift + half)
        yield Placed(x - side, y + lift + FONT * 0.35, "end"), Box(x - side - width, y + lift - half, x - side, y + lift + half)
        if lift:
            yield Placed(x, y + lift + FONT * 0.35, "middle"), Box(x - width / 2, y + lift - half, x + width / 2, y + lift + half)


def _short(value: Any) -> Any:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value
