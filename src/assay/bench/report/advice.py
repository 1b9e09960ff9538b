"""`write_advice`: one self-contained HTML page of `assay.bench.advising.Advice`, with its pictures."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from assay.bench.advising import Advice
from assay.bench.files import write_text
from assay.bench.report import charts, words
from assay.bench.report.page import environment_of, set_apart, source_of


def write_advice(advice: Advice, folder: str | Path) -> Path:
    """Write ``advice.html`` into a folder, which is made; returns the page's path."""
    target = Path(folder) / "advice.html"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, render_advice(advice))
    return target


def render_advice(advice: Advice) -> str:
    """The page as text; all that comes from the user is escaped, and no script runs."""
    environment = environment_of()
    return environment.get_template("advice.html").render(
        advice=advice,
        style=Markup(source_of(environment, "page.css")),
        sentence=set_apart(advice.sentence),
        metric_name=words.metric_name(advice.metric),
        depths=_depths(advice),
        curve=_curve(advice),
    )


def _depths(advice: Advice) -> Markup:
    lines = {
        activation: [(float(trial.depth), trial.value) for trial in advice.trials if trial.activation == activation]
        for activation in dict.fromkeys(trial.activation for trial in advice.trials)
    }
    levels = {trial.name: trial.value for trial in advice.limits[1:]}
    return charts.line_chart(lines, levels, "hidden layers", advice.metric)


def _curve(advice: Advice) -> Markup | None:
    if len(advice.curve) < 2:
        return None
    points = [(float(size), value) for size, value in advice.curve]
    ahead = advice.forecast
    bar = None if ahead is None else (2 * points[-1][0], ahead.value, ahead.low, ahead.high)
    return charts.line_chart({"Θ": points}, {}, "training examples", advice.metric, bar=bar)
