"""Numbers as a person reads them: three significant digits, thin spaces, units chosen by size."""

from __future__ import annotations

import math

SHARES = {"accuracy", "balanced_accuracy", "f1", "recall"}
"""Measures between 0 and 1, shown with three decimals."""

_THIN = "\u202f"
_MINUS = "\u2212"


def quality(value: float | None, metric: str) -> str:
    """A measure: three decimals for shares, three significant digits otherwise."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if metric in SHARES else number(value)


def interval(low: float | None, high: float | None, metric: str) -> str:
    """An interval: ``0.971 to 0.984``; empty where there is none."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"{quality(low, metric)} to {quality(high, metric)}"


def metric_name(metric: str) -> str:
    """The measure's name in prose."""
    known = {"mse": "mean squared error", "mae": "mean absolute error", "nll": "negative log-likelihood", "f1": "F1"}
    return known.get(metric, metric.replace("_", " "))


def number(value: float | None, digits: int = 3) -> str:
    """``digits`` significant digits, thousands apart, no exponent between 0.001 and a million."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}".replace("-", _MINUS)
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}".replace("-", _MINUS).replace(",", _THIN)


def count(value: float | None) -> str:
    """A count with a unit: ``200 k``, ``1.25 M``."""
    return _scaled(value, 1000, ("", "k", "M", "G", "T", "P", "E"))


def size(value: float | None) -> str:
    """Bytes: ``1.25 MB``."""
    return _scaled(value, 1000, ("B", "kB", "MB", "GB", "TB", "PB"))


def milliseconds(value: float | None) -> str:
    """A latency, given in milliseconds: ``0.42 ms``, ``830 µs``, ``1.2 s``."""
    if value is None or not math.isfinite(value):
        return "–"
    if value < 0.1:
        return f"{number(1000 * value, 2)}{_THIN}µs"
    if value >= 1000:
        return seconds(value / 1000)
    return f"{number(value)}{_THIN}ms"


def seconds(value: float | None) -> str:
    """A duration, given in seconds: ``4.2 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if value is None or not math.isfinite(value):
        return "–"
    if value < 1:
        return f"{number(1000 * value, 2)}{_THIN}ms"
    if value < 90:
        return f"{number(value, 2 if value < 10 else 3)}{_THIN}s"
    whole = round(value)
    if whole < 5400:
        return f"{whole // 60}{_THIN}min {whole % 60}{_THIN}s"
    return f"{whole // 3600}{_THIN}h {whole % 3600 // 60}{_THIN}min"


def shortened(text: str, length: int) -> str:
    """At most ``length`` characters, the middle left out: file names keep their ends."""
    text = " ".join(str(text).split())
    if len(text) <= length:
        return text
    tail = (length - 1) // 3
    return f"{text[: length - 1 - tail]}…{text[len(text) - tail :]}"


def listed(items: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _scaled(value: float | None, base: int, units: tuple[str, ...]) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    power = 0
    scaled = float(value)
    while abs(scaled) >= base * 0.9995 and power < len(units) - 1:
        scaled /= base
        power += 1
    text = f"{scaled:.0f}" if power == 0 else f"{scaled:.3g}" if abs(scaled) < 1000 else f"{scaled:,.0f}"
    return f"{text}{_THIN}{units[power]}" if units[power] else text
