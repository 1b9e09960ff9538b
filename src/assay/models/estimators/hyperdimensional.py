"""`Hyperdimensional`: classes as sums of long random codes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from assay.contracts import Batch, Image, Series, Signature, Table, Task
from assay.models.estimators.base import FittedEstimator, array, features_of, gather, is_single_class, spread, subsample
from assay.models.estimators.choice import accuracy, best, temperature

DIMENSION = 10_000
PASSES = (0, 1, 3, 10, 30)
ROWS = 10_000
INPUTS = 20_000
_BLOCK = 2_000


class Hyperdimensional(FittedEstimator):
    """An example's code is ``sign(R (x − mean))``, a class the sum of its examples' codes; the nearest class by cosine answers.

    R has 10,000 rows of random signs. Then, over some passes, the code of every example that is answered wrongly is added to its class
    and taken from the one that answered; the number of passes (none among them) is chosen on validation, then the scale of the logits.
    Above 10,000 training rows a random 10,000 are used.

    Source: Kanerva (2009), Hyperdimensional Computing: An Introduction to Computing in Distributed Representation with High-Dimensional
    Random Vectors; the passes are those of Imani et al. (2017), VoiceHD.
    """

    name = "hyperdimensional"

    def accepts(self, signature: Signature) -> str | None:
        """Tables, images or series to one class."""
        kind = signature.input
        if not isinstance(kind, Table | Image | Series):
            return f"it codes a fixed row of numbers, not {type(kind).__name__}"
        inputs = (
            kind.features
            if isinstance(kind, Table)
            else kind.channels * (kind.height * kind.width if isinstance(kind, Image) else kind.length)
        )
        if inputs > INPUTS:
            return f"it holds {DIMENSION:,} random signs for each of at most {INPUTS:,} inputs, not for {inputs:,}"
        return None if is_single_class(signature) else "it predicts one class for each example"

    def learn(self, task: Task, seed: int) -> dict[str, Any]:
        """Draw the signs, sum the codes, correct for each number of passes, keep the best on validation."""
        train, validation = subsample(gather(task, "train"), ROWS, seed), gather(task, "validation")
        rows = features_of(task.signature, train)
        projection = np.random.default_rng(seed).choice(np.array([-1, 1], dtype=np.int8), (DIMENSION, rows.shape[1]))
        mean = rows.mean(0)
        codes, held_out = code(rows, projection, mean), code(features_of(task.signature, validation), projection, mean)
        truth = array(validation["target"])
        seen, target = np.unique(array(train["target"]), return_inverse=True)

        def logits(classes: NDArray[Any]) -> NDArray[Any]:
            return spread(cosine(held_out, classes), seen, task.signature.output.size)

        passes, classes = best(PASSES, lambda passes: class_codes(codes, target, passes), lambda classes: accuracy(logits(classes), truth))
        scale = temperature(cosine(held_out, classes), np.searchsorted(seen, truth).clip(max=len(seen) - 1))
        return {"projection": projection, "mean": mean, "classes": classes, "seen": seen, "scale": scale, "passes": passes}

    def predict(self, batch: Batch) -> NDArray[Any]:
        """Logits (batch, classes)."""
        assert self.signature is not None  # __call__ has checked it
        codes = code(features_of(self.signature, batch), self.fitted["projection"], self.fitted["mean"])
        similarity = self.fitted["scale"] * cosine(codes, self.fitted["classes"])
        return spread(similarity, self.fitted["seen"], self.signature.output.size)


def code(rows: NDArray[Any], projection: NDArray[np.int8], mean: NDArray[Any]) -> NDArray[np.int8]:
    """``sign(R (x − mean))`` as ±1, (examples, dimension), a sign of 0 read as +1."""
    centred = (rows - mean).astype(np.float32)
    blocks = [centred @ projection[start : start + _BLOCK].T.astype(np.float32) for start in range(0, len(projection), _BLOCK)]
    return np.concatenate([np.where(block >= 0, 1, -1).astype(np.int8) for block in blocks], 1)


def class_codes(codes: NDArray[np.int8], target: NDArray[Any], passes: int) -> NDArray[np.float32]:
    """The sum of each class's codes, (classes, dimension), corrected over so many passes.

    A pass answers all examples by the classes as they are and then moves every wrong code at once.
    """
    wide = codes.astype(np.float32)
    member = np.eye(int(target.max()) + 1, dtype=np.float32)
    classes = member[target].T @ wide
    for _ in range(passes):
        answer = cosine(wide, classes).argmax(1)
        classes += (member[target] - member[answer]).T @ wide
    return classes


def cosine(codes: NDArray[Any], classes: NDArray[np.float32]) -> NDArray[Any]:
    """Cosines of codes of ±1 and of class codes, (examples, classes)."""
    lengths = np.sqrt(codes.shape[1]) * np.maximum(np.linalg.norm(classes, axis=1), 1e-12)
    return (codes.astype(np.float32) @ classes.T) / lengths
