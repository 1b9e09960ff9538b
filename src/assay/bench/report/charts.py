"""The report's charts as SVG: interval strips, Pareto fronts, learning curves, forecasts, scatters, small series."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from assay.bench.report import words
from assay.bench.report.drawing import Box, Scale, fitted, joined, path, placed_labels, svg, tag, text_width

NAME_LENGTH = 24


@dataclass(frozen=True)
class Mark:
    """A model in a chart: its cost ``x``, its quality ``value``."""

    name: str
    x: float
    value: float
    low: float = math.nan
    high: float = math.nan
    baseline: bool = False


def pareto_front(points: Sequence[tuple[float, float]], direction: str) -> list[int]:
    """Indices of the points that no other point beats: none is at most as costly (x) and at least as good (y), and better in one.

    The result runs from the cheapest to the dearest.
    """
    sign = 1.0 if direction == "max" else -1.0
    front: list[int] = []
    best = -math.inf
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -sign * points[i][1])):
        if sign * points[index][1] > best:
            front.append(index)
            best = sign * points[index][1]
    return front


def quality_scale(entries: Sequence[Any], direction: str, start: float, end: float) -> Scale:
    """A scale for values and intervals on which the good models can be told apart.

    What is far worse than the rest (a majority vote, a run that learnt nothing) lies beyond its end and is drawn there as an arrow: past
    the best by more than four times the distance from the best to the middle. Where most are exactly as good as the best, the middle is
    that of the others.
    """
    values = sorted((e.value for e in entries if math.isfinite(e.value)), reverse=direction == "max")
    best, middle = values[0], statistics.median(values)
    half = max(
        (abs(e.high - e.low) / 2 for e in entries if e.value == best and math.isfinite(e.low) and math.isfinite(e.high)), default=0.0
    )
    if middle == best and not half:
        middle = statistics.median([value for value in values if value != best] or [best])
    reach = 4 * max(abs(best - middle), half, 1e-9 * abs(best))
    near = [e for e in entries if math.isfinite(e.value) and abs(e.value - best) <= reach]
    ends = [value for e in near for value in (e.value, e.low, e.high) if math.isfinite(value) and abs(value - best) <= 1.5 * reach]
    return fitted(ends, start, end, margin=0.05)


def strip(entry: Any, scale: Scale, best: float, metric: str) -> Markup:
    """One model's interval on the common scale; the thin line is the best model's value."""
    parts = [tag("line", x1=scale(best), x2=scale(best), y1=0.0, y2=24.0, class_="reference")]
    kind = "baseline" if entry.baseline else "first" if entry.rank == 1 else "other"
    side = scale.side(entry.value)
    if math.isfinite(entry.low) and math.isfinite(entry.high) and not side:
        low, high = scale(scale.clamped(entry.low)), scale(scale.clamped(entry.high))
        parts.append(tag("line", x1=low, x2=high, y1=12.0, y2=12.0, class_=f"interval {kind}"))
    if side:
        x = scale(scale.clamped(entry.value))
        parts.append(tag("path", d=f"M{x:.1f} 7l{5 * side} 5l{-5 * side} 5", class_="arrow"))
    else:
        parts.append(_point(scale(entry.value), 12.0, kind, entry.baseline))
    label = f"{words.quality(entry.value, metric)}, interval {words.interval(entry.low, entry.high, metric)}"
    return svg(220, 24, joined(parts), label, "strip")


def strip_axis(scale: Scale) -> Markup:
    """The axis over the interval strips."""
    parts = []
    for tick in scale.ticks(3):
        parts.append(tag("text", _axis_number(tick), x=scale(tick), y=11.0, text_anchor="middle", class_="tick"))
        parts.append(tag("line", x1=scale(tick), x2=scale(tick), y1=15.0, y2=19.0, class_="axis"))
    return svg(220, 19, joined(parts), "scale of the intervals", "strip axis-strip")


def front_chart(marks: Sequence[Mark], direction: str, metric: str, show: Callable[[float], str], cost: str) -> Markup:
    """Quality against a cost on a logarithmic axis, with the Pareto front drawn and every point named."""
    frame = Box(52, 12, 408, 252)
    marks = [mark for mark in marks if math.isfinite(mark.x) and mark.x > 0 and math.isfinite(mark.value)]
    across = fitted([mark.x for mark in marks], frame.left, frame.right, logarithmic=True)
    up = quality_scale(marks, direction, frame.bottom, frame.top)
    front = pareto_front([(mark.x, mark.value) for mark in marks], direction)
    parts = [_grid(up, frame), _bottom_axis(across, frame, show)]
    steps: list[tuple[float, float]] = []
    for index in front:
        x, y = across(marks[index].x), up(up.clamped(marks[index].value))
        steps += [(x, steps[-1][1]), (x, y)] if steps else [(x, y)]
    if steps:
        parts.append(tag("path", d=path([*steps, (frame.right, steps[-1][1])]), class_="front"))
    spots = [(across(mark.x), up(up.clamped(mark.value))) for mark in marks]
    order = [*front, *sorted(set(range(len(marks))) - set(front), key=lambda index: not up.side(marks[index].value))]
    keep = len(front) + sum(bool(up.side(marks[index].value)) for index in order[len(front) :])  # an arrow's name tells its value
    names = [words.shortened(mark.name, NAME_LENGTH) for mark in marks]
    names = [f"{n} ({words.quality(m.value, metric)})" if up.side(m.value) else n for n, m in zip(names, marks, strict=True)]
    labels = placed_labels([spots[index] for index in order], [names[index] for index in order], frame, keep)
    for index, label in zip(order, labels, strict=True):
        mark, (x, y) = marks[index], spots[index]
        kind = "first" if index in front else "other"
        side = up.side(mark.value)
        if math.isfinite(mark.low) and math.isfinite(mark.high) and not side:
            low, high = up(up.clamped(mark.low)), up(up.clamped(mark.high))
            parts.append(tag("line", x1=x, x2=x, y1=low, y2=high, class_=f"whisker {kind}"))
        tip = f"{mark.name}: {words.quality(mark.value, metric)} at {show(mark.x)}"
        shape = (
            tag("path", d=f"M{x - 5:.1f} {y:.1f}l5 {-5 * side}l5 {5 * side}", class_="arrow") if side else _point(x, y, kind, mark.baseline)
        )
        parts.append(tag("g", shape + tag("circle", cx=x, cy=y, r=9.0, class_="touch"), data_tip=tip))
        if label is not None:
            parts.append(tag("text", names[index], x=label.x, y=label.y, text_anchor=label.anchor, class_=f"label {kind}"))
    parts.append(tag("text", cost, x=(frame.left + frame.right) / 2, y=288.0, text_anchor="middle", class_="axis-name"))
    on_front = words.listed([marks[index].name for index in front]) if front else "none"
    return svg(420, 294, joined(parts), f"{words.metric_name(metric)} against {cost}; on the Pareto front: {on_front}")


def curve_charts(curves: dict[str, list[list[dict[str, float]]]], metric: str) -> list[tuple[str, Markup]]:
    """One small chart a model: its seeds in the accent colour, every other model's behind them in grey."""
    key = f"validation_{metric}"
    lines = {name: [[(p["step"], p.get(key, math.nan)) for p in run if "step" in p] for run in runs] for name, runs in curves.items()}
    values = sorted(y for runs in lines.values() for run in runs for _, y in run if math.isfinite(y))
    if not values:
        return []
    last = max(x for runs in lines.values() for run in runs for x, _ in run)
    low, high = values[int(0.02 * (len(values) - 1))], values[math.ceil(0.98 * (len(values) - 1))]
    frame = Box(44, 8, 252, 122)
    up = fitted([low, high], frame.bottom, frame.top, logarithmic=low > 0 and high / low > 20)
    across = Scale(0, last, frame.left, frame.right)

    def drawn(run: list[tuple[float, float]], kind: str) -> Markup:
        spots = [(across(x), min(max(up(y), frame.top), frame.bottom) if math.isfinite(y) else y) for x, y in run]
        return tag("path", d=path(spots), class_=f"line {kind}")

    charts = []
    for name, runs in lines.items():
        behind = joined(drawn(run, "behind") for other, others in lines.items() if other != name for run in others)
        parts = [_grid(up, frame, 3), behind, *(drawn(run, "seed") for run in runs)]
        parts += [_tip_points(run, across, up, frame, name, seed, metric) for seed, run in enumerate(runs)]
        for tick in (0.0, last):
            anchor = "start" if tick == 0 else "end"
            parts.append(tag("text", words.count(tick), x=across(tick), y=137.0, text_anchor=anchor, class_="tick"))
        parts.append(tag("text", "step", x=(frame.left + frame.right) / 2, y=137.0, text_anchor="middle", class_="axis-name"))
        ends = [words.quality(run[-1][1], metric) for run in runs if run]
        charts.append(
            (name, svg(260, 142, joined(parts), f"{name}: validation {words.metric_name(metric)} by step, ending at {', '.join(ends)}"))
        )
    return charts


def line_chart(
    lines: dict[str, list[tuple[float, float]]],
    levels: dict[str, float],
    across_name: str,
    metric: str,
    bar: tuple[float, float, float, float] | None = None,
) -> Markup:
    """A measure along a quantity on a logarithmic axis: a line a name, dashed levels, and a last point with its interval.

    Args:
        lines: points (x, value) by name.
        levels: values that do not depend on x, by name.
        across_name: what x is.
        metric: what the values are.
        bar: (x, value, low, high) of a forecast.
    """
    frame = Box(52, 12, 320, 222)
    ends = [] if bar is None else [bar]
    across = fitted([x for line in lines.values() for x, _ in line] + [x for x, *_ in ends], frame.left, frame.right, logarithmic=True)
    values = [y for line in lines.values() for _, y in line] + list(levels.values()) + [y for _, *rest in ends for y in rest]
    up = fitted(values, frame.bottom, frame.top)
    parts = [_grid(up, frame), _bottom_axis(across, frame, words.count)]
    labels = []
    for name, value in levels.items():
        parts.append(tag("line", x1=frame.left, x2=frame.right, y1=up(value), y2=up(value), class_="reference"))
        labels.append((up(value), name, "other"))
    for index, (name, line) in enumerate(lines.items()):
        parts.append(tag("path", d=path((across(x), up(y)) for x, y in line), class_=f"line channel-{index}"))
        for x, y in line:
            tip = f"{name}, {x:g} {across_name}: {words.quality(y, metric)}"
            parts.append(tag("g", tag("circle", cx=across(x), cy=up(y), r=3.0, class_=f"point channel-{index}"), data_tip=tip))
        if len(lines) > 1:
            labels.append((up(line[-1][1]), name, f"channel-{index}"))
    for x, value, low, high in ends:
        parts.append(tag("line", x1=across(x), x2=across(x), y1=up(low), y2=up(high), class_="whisker first"))
        parts.append(tag("circle", cx=across(x), cy=up(value), r=4.2, class_="point first"))
    parts += [tag("text", name, x=frame.right + 8, y=y, class_=f"label {kind}") for y, name, kind in _apart(labels)]
    parts.append(tag("text", across_name, x=(frame.left + frame.right) / 2, y=258.0, text_anchor="middle", class_="axis-name"))
    return svg(420, 264, joined(parts), f"{words.metric_name(metric)} against {across_name}: {', '.join([*lines, *levels])}")


def _apart(labels: list[tuple[float, str, str]], least: float = 14.0) -> list[tuple[float, str, str]]:
    """Labels of one column moved down until none touches the one above."""
    placed: list[tuple[float, str, str]] = []
    for y, name, kind in sorted(labels):
        placed.append((max(y + 4, placed[-1][0] + least) if placed else y + 4, name, kind))
    return placed


def forecast_chart(example: dict[str, Any], models: Sequence[str]) -> Markup:
    """What came before, what came then, and what was predicted, on one time axis."""
    history = (example.get("series") or [[]])[0]
    truth = _first_channel(example["truth"])
    forecasts = {name: _first_channel(example["predictions"][name]) for name in models if name in example["predictions"]}
    history = history[-3 * len(truth) :]
    frame = Box(40, 8, 410, 150)
    everything = [*history, *truth, *(value for values in forecasts.values() for value in values)]
    up = fitted(everything, frame.bottom, frame.top)
    across = Scale(0, max(len(history) + len(truth) - 1, 1), frame.left, frame.right)
    begin = len(history)
    parts = [
        _grid(up, frame, 3),
        tag("line", x1=across(begin - 0.5), x2=across(begin - 0.5), y1=frame.top, y2=frame.bottom, class_="reference"),
    ]
    parts.append(tag("path", d=path((across(i), up(v)) for i, v in enumerate(history)), class_="line past"))
    for kind, values in zip(("truth", "seed", "second"), (truth, *forecasts.values()), strict=False):
        joint = [(across(begin - 1), up(history[-1]))] if history and kind == "truth" else []
        parts.append(tag("path", d=path([*joint, *((across(begin + i), up(v)) for i, v in enumerate(values))]), class_=f"line {kind}"))
    return svg(420, 158, joined(parts), "a forecast beside what came")


def scatter_chart(truth: Sequence[float], predicted: Sequence[float], name: str) -> Markup:
    """Predictions against truths with the line of equality; at most 400 points."""
    step = max(1, math.ceil(len(truth) / 400))
    pairs = [(t, p) for t, p in zip(truth[::step], predicted[::step], strict=True) if math.isfinite(t) and math.isfinite(p)]
    frame = Box(46, 10, 290, 224)
    ends = [value for pair in pairs for value in pair]
    across, up = fitted(ends, frame.left, frame.right), fitted(ends, frame.bottom, frame.top)
    parts = [_grid(up, frame, 4), _bottom_axis(across, frame, words.number)]
    low, high = across.low, across.high
    parts.append(tag("line", x1=across(low), y1=up(low), x2=across(high), y2=up(high), class_="reference"))
    parts += [tag("circle", cx=across(t), cy=up(p), r=2.4, class_="dot") for t, p in pairs]
    parts.append(tag("text", "truth", x=(frame.left + frame.right) / 2, y=258.0, text_anchor="middle", class_="axis-name"))
    return svg(300, 264, joined(parts), f"predictions of {name} against the truth, {len(pairs)} test examples")


def spark(channels: Sequence[Sequence[float]], label: str) -> Markup:
    """A small series without axes."""
    up = fitted([value for channel in channels for value in channel], 52, 4)
    parts = []
    for index, channel in enumerate(channels):
        across = Scale(0, max(len(channel) - 1, 1), 3, 117)
        parts.append(tag("path", d=path((across(i), up(v)) for i, v in enumerate(channel)), class_=f"line channel-{index}"))
    return svg(120, 56, joined(parts), label, "spark")


def _first_channel(values: Any) -> list[float]:
    return [float(value[0]) if isinstance(value, (list, tuple)) else float(value) for value in values]


def _point(x: float, y: float, kind: str, baseline: bool) -> Markup:
    if baseline:
        return tag("path", d=f"M{x:.1f} {y - 5:.1f}l5 5l-5 5l-5 -5z", class_=f"point hollow {kind}")
    return tag("circle", cx=x, cy=y, r=4.2, class_=f"point {kind}")


def _tip_points(run: list[tuple[float, float]], across: Scale, up: Scale, frame: Box, name: str, seed: int, metric: str) -> Markup:
    """Invisible, wide points that answer a pointer."""
    spots = []
    for x, y in run:
        if math.isfinite(y):
            tip = f"{name}, seed {seed}, step {x:g}: {words.quality(y, metric)}"
            height = min(max(up(y), frame.top), frame.bottom)
            spots.append(tag("circle", cx=across(x), cy=height, r=5.0, class_="touch", data_tip=tip))
    return joined(spots)


def _grid(up: Scale, frame: Box, wanted: int = 5) -> Markup:
    parts = []
    for tick in up.ticks(wanted):
        y = up(tick)
        parts.append(tag("line", x1=frame.left, x2=frame.right, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", _axis_number(tick), x=frame.left - 6, y=y + 4, text_anchor="end", class_="tick"))
    return joined(parts)


def _bottom_axis(across: Scale, frame: Box, show: Callable[[float], str]) -> Markup:
    parts = [tag("line", x1=frame.left, x2=frame.right, y1=frame.bottom, y2=frame.bottom, class_="axis")]
    free = -math.inf  # where the label before ends: those that would touch it are left out
    for tick in across.ticks(4):
        x, text = across(tick), _without_trailing_zeros(show(tick))
        half = text_width(text) / 2
        if x - half < free:
            continue
        free = x + half + 6
        parts.append(tag("line", x1=x, x2=x, y1=frame.bottom, y2=frame.bottom + 4, class_="axis"))
        parts.append(tag("text", text, x=x, y=frame.bottom + 17, text_anchor="middle", class_="tick"))
    return joined(parts)


def _without_trailing_zeros(text: str) -> str:
    return re.sub(r"(\.\d*?)0+(?=\D|$)", lambda match: match[1].rstrip("."), text)


def _axis_number(value: float) -> str:
    return f"{value:.4g}".replace("-", "\u2212")
