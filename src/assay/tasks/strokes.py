"""Pen strokes: where does the pen go next, and does it lift there; the signs of KanjiVG, stroke after stroke."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from assay.contracts import Batch, Evaluation, NextStroke, Output, Predictor, Series, Signature, SplitName
from assay.errors import MissingExtra
from assay.nn.mixture_density import MixtureDensity
from assay.tasks.base import ArrayTask
from assay.tasks.splitting import divide

SIDE = 109.0
"""The frame that a sign is drawn in, both ways."""
TOLERANCE = 1.0
"""How far a stroke's points may leave its curve; the strokes are drawn 3 wide."""
PIECES = 8
"""Points that a cubic curve is read at, before those that are not needed are left out."""
_TOKEN = re.compile(r"[A-Za-z]|-?(?:\d+\.?\d*|\.\d+)(?:e-?\d+)?")
_PATH = re.compile(r'<path [^>]*?\bd="([^"]*)"')


class StrokeTask(ArrayTask):
    """The pen's next offset at every position, and whether it lifts there: ``series``, ``mask`` → ``target``.

    Positions are (dx, dy, lift), in units of ``encoding["scale"]``, the root mean square of a training offset's numbers; ``series`` is
    ``target`` one position later, after a pen that was lifted at the frame's middle. A prediction is the logit of lifting and the numbers
    of a `MixtureDensity` over the offset, whose components are the task's. The loss is −log p(offset) − log p(lift), in nats a point.

    Args:
        name: short name.
        splits: as `ArrayTask`'s.
        components: of the density.
        options: of `ArrayTask`.

    Shapes: series and target (batch, length, 3); mask (batch, length); prediction (batch, length, 1 + 6 · components).
    """

    def __init__(self, name: str, splits: dict[SplitName, Batch], components: int = 5, **options: Any) -> None:
        self.density = MixtureDensity(2, components)
        signature = Signature(Series(3, splits["train"]["mask"].shape[1]), NextStroke(components), per_position=True)
        super().__init__(name, signature, splits, metric="nll", **options)

    def loss(self, output: Output, batch: Batch) -> Tensor:
        """Mean negative log likelihood of the next offset and lift."""
        offset, lift = self.likelihoods(output.prediction, batch)
        real = batch["mask"].to(offset.device)
        return torch.where(real, offset + lift, 0.0).sum() / real.sum().clamp(min=1)

    def likelihoods(self, prediction: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Negative log likelihoods of offset and lift at every position, each (batch, length).

        Raises:
            ValueError: the prediction's shape does not fit the targets.
        """
        target = batch["target"].to(prediction.device)
        expected = (*target.shape[:-1], self.signature.output.size)
        if prediction.shape != expected:
            raise ValueError(f"prediction has shape {tuple(prediction.shape)} but {expected} is expected")
        offset = -self.density.log_density(prediction[..., 1:], target[..., :2])
        return offset, F.binary_cross_entropy_with_logits(prediction[..., 0], target[..., 2], reduction="none")

    def evaluate(self, predictor: Predictor, split: SplitName, batch_size: int = 256) -> Evaluation:
        """``nll`` and its two parts, in nats a point; scores are nll an example, predictions the expected offsets."""
        parts: dict[str, list[Tensor]] = {"offset": [], "lift": [], "real": [], "expected": []}
        with torch.no_grad():
            for batch in self.batches(split, batch_size):
                prediction = predictor(batch).prediction.float().cpu()
                row = (*self.likelihoods(prediction, batch), batch["mask"], self.density.mean(prediction[..., 1:]))
                for part, value in zip(parts.values(), row, strict=True):
                    part.append(value)
        offset, lift, real, expected = (torch.cat(part) for part in parts.values())
        sums = [torch.where(real, part, 0.0).double().sum(1) for part in (offset, lift)]
        share = len(real) / real.sum().clamp(min=1)  # an example weighs by its number of points
        means = [float((part * share).mean()) for part in sums]
        metrics = {"nll": sum(means), "offset_nll": means[0], "lift_nll": means[1]}
        return Evaluation(metrics, ((sums[0] + sums[1]) * share).numpy(), expected.numpy(), self.groups.get(split))

    def sample(self, model: Any, signs: int, length: int, bias: float = 0.0, seed: int = 0) -> Tensor:
        """Signs that a streaming model writes, (signs, length, 3), each point read back as the next input.

        Source: Graves (2013), Generating sequences with recurrent neural networks; ``bias`` as in `MixtureDensity.sample`.
        """
        generator = torch.Generator().manual_seed(seed)
        state, point, points = model.initial_state(signs), torch.tensor([0.0, 0.0, 1.0]).expand(signs, 3), []
        with torch.no_grad():
            for _ in range(length):
                prediction, state = model.step(point, state)
                offset = self.density.sample(prediction[:, 1:], bias, generator)
                lift = torch.bernoulli(prediction[:, :1].sigmoid(), generator=generator)
                point = torch.cat([offset, lift], -1)
                points.append(point)
        return torch.stack(points, 1)


def kanji_strokes(signs: int | None = None, longest: int = 64, components: int = 5, seed: int = 0) -> StrokeTask:
    """Signs of KanjiVG (kana, kanji, letters) as the pen draws them: each stroke's points, in the order and direction of writing.

    Strokes come as curves; of points along them those are kept that a line through their neighbours would miss by more than 1 % of the
    frame. Offsets begin at the frame's middle and sum to the sign. Forms of one sign (Unicode's compatibility forms) are on one side, its
    other styles of writing are left out. Parts of signs recur in other signs, so that a test sign is new, and its parts are not.

    Source: KanjiVG (Ulrich Apel; CC BY-SA 3.0), read from the installed package ``kanjivg``. Points: Douglas, Peucker (1973), Algorithms
    for the reduction of the number of points required to represent a digitized line.

    Args:
        signs: how many, drawn at random; all by default.
        longest: signs of more points are left out.
        components: of the density that is asked for.
        seed: of the choice and of the division.

    Raises:
        MissingExtra: kanjivg is not installed.
        UserError: too few signs for three parts.
    """
    files = sorted(file for file in kanji_folder().glob("*.svg") if "-" not in file.stem)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(files))[:signs])
    drawn = {chr(int(files[index].stem, 16)): _drawn(files[index]) for index in chosen}
    kept = {name: points for name, points in drawn.items() if 1 < len(points) <= longest}
    forms = np.unique([unicodedata.normalize("NFKC", name) for name in kept], return_inverse=True)[1]
    parts, _ = divide(len(kept), path="kanjivg", seed=seed, groups=forms)
    names, rows = list(kept), list(kept.values())
    scale = float(np.sqrt(np.square(np.concatenate([rows[index][:, :2] for index in parts["train"]])).mean()))
    splits: dict[SplitName, Batch] = {split: _padded([rows[index] for index in part], longest, scale) for split, part in parts.items()}
    return StrokeTask(
        "kanji-strokes",
        splits,
        components,
        description=f"{len(kept):,} signs of {sum(map(len, rows)):,} points and {int(sum(row[:, 2].sum() for row in rows)):,} strokes",
        notes=[f"{len(drawn) - len(kept):,} signs of more than {longest} points are left out."],
        encoding={"scale": scale},
        source={"kind": "strokes", "names": [names[index] for index in parts["test"]]},
    )


def kanji_folder() -> Path:
    """The drawings of the installed kanjivg.

    Raises:
        MissingExtra: kanjivg is not installed.
    """
    try:
        return Path(str(distribution("kanjivg").locate_file("kanji")))
    except PackageNotFoundError:
        raise MissingExtra("kanjivg", "strokes", "The data of pen strokes") from None


@lru_cache(maxsize=16_384)
def _drawn(file: Path) -> np.ndarray:
    """(points, 3): offsets from point to point, the first from the frame's middle, and 1 where a stroke ends."""
    strokes = [simplified(curve_points(path), TOLERANCE) for path in _PATH.findall(file.read_text(encoding="utf-8"))]
    lifts = np.concatenate([np.arange(len(stroke)) == len(stroke) - 1 for stroke in strokes])
    offsets = np.diff(np.concatenate(strokes), axis=0, prepend=SIDE / 2)
    return np.column_stack([offsets, lifts])


def curve_points(path: str) -> np.ndarray:
    """(points, 2): a stroke's curves, SVG's commands M, C and S and their relative forms, each curve at equal steps of its parameter.

    Raises:
        ValueError: another command.
    """
    tokens = _TOKEN.findall(path)
    starts = [index for index, token in enumerate(tokens) if token.isalpha()]
    here, control, points = np.zeros(2), np.zeros(2), []
    t = np.arange(1, PIECES + 1)[:, None] / PIECES
    for start, stop in zip(starts, [*starts[1:], len(tokens)], strict=True):
        command, numbers = tokens[start], np.array(tokens[start + 1 : stop], dtype=float)
        if command.upper() not in ("M", "C", "S"):
            raise ValueError(f"a stroke is of M, C and S, this has {command!r}: {path}")
        for ends in numbers.reshape(-1, {"M": 1, "C": 3, "S": 2}[command.upper()], 2):
            ends = ends + here if command.islower() else ends
            if command.upper() == "M":
                here = control = ends[0]
                points.append(here[None])
                continue
            first = ends[0] if command.upper() == "C" else 2 * here - control  # S goes on in the direction it came from
            control, end = ends[-2:]
            points.append((1 - t) ** 3 * here + 3 * t * (1 - t) ** 2 * first + 3 * t**2 * (1 - t) * control + t**3 * end)
            here = end
    return np.concatenate(points)


def simplified(points: np.ndarray, tolerance: float) -> np.ndarray:
    """The points of a line, (points, 2), that are needed for it to stay within ``tolerance`` of all.

    Source: Douglas, Peucker (1973): the point furthest from the line between the ends is kept if it is too far, and either side alike.
    """
    along, away = points[-1] - points[0], points - points[0]
    share = np.clip(away @ along / max(float(along @ along), 1e-12), 0, 1)
    distance = np.linalg.norm(away - share[:, None] * along, axis=1)
    furthest = int(distance.argmax())
    if distance[furthest] <= tolerance:
        return points[[0, -1]]
    return np.concatenate([simplified(points[: furthest + 1], tolerance)[:-1], simplified(points[furthest:], tolerance)])


def _padded(rows: list[np.ndarray], length: int, scale: float) -> Batch:
    """Tensors of a split: targets, the same one position later as input, and which are real."""
    target, mask = np.zeros((len(rows), length, 3), dtype=np.float32), np.zeros((len(rows), length), dtype=bool)
    for index, row in enumerate(rows):
        target[index, : len(row)] = row / (scale, scale, 1)
        mask[index, : len(row)] = True
    series = np.roll(target, 1, axis=1)
    series[:, 0] = (0, 0, 1)
    return {"series": torch.from_numpy(series * mask[..., None]), "target": torch.from_numpy(target), "mask": torch.from_numpy(mask)}
