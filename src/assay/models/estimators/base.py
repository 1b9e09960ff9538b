"""`FittedEstimator`: what every classical baseline shares: the contract, reading a task, and files without pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import scipy.sparse
import skops.io
import torch
from numpy.typing import NDArray
from torch import Tensor

from assay.contracts import Batch, Class, Graph, Output, Signature, SplitName, Task
from assay.errors import UserError

GRAPH_KEYS = ("nodes", "edges", "edge_weight")
ABSENT = -30.0
"""Logit of a class that the training split never showed: finite, so that a loss stays finite."""
TRUSTED = frozenset(
    {
        "assay.models.infinite_depth.InfiniteDepthClassifier",
        "assay.models.kernel.NTKClassifier",
        "assay.models.kernel.NTKRegressor",
        "sklearn._loss.link.HalfLogitLink",
        "sklearn._loss.link.IdentityLink",
        "sklearn._loss.link.Interval",
        "sklearn._loss.link.LogitLink",
        "sklearn._loss.link.MultinomialLogit",
        "sklearn._loss.loss.HalfBinomialLoss",
        "sklearn._loss.loss.HalfMultinomialLoss",
        "sklearn._loss.loss.HalfSquaredError",
        "sklearn._loss._loss.CyHalfBinomialLoss",
        "sklearn._loss._loss.CyHalfMultinomialLoss",
        "sklearn._loss._loss.CyHalfSquaredError",
        "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.utils._openmp_helpers._openmp_effective_n_threads",
    }
)
"""Types a fitted estimator's file may hold beside those that skops trusts by itself."""


class FittedEstimator:
    """A model with its own ``fit``, outside the parameter budget. Calling it predicts a batch in the signature's shape.

    A subclass sets ``name``, says what it ``accepts``, and turns a task into ``fitted`` values (`learn`) and a batch into numbers
    (`predict`). ``fitted`` holds arrays, plain values and scikit-learn objects only: that is what `save` writes.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        self.signature: Signature | None = None
        self.fitted: dict[str, Any] = {}

    def accepts(self, signature: Signature) -> str | None:
        """None, or the reason (one clause) why it cannot serve the signature."""
        raise NotImplementedError

    def learn(self, task: Task, seed: int) -> dict[str, Any]:
        """What `predict` needs, from the training split; settings are chosen on the validation split."""
        raise NotImplementedError

    def predict(self, batch: Batch) -> NDArray[Any]:
        """Logits or values for a batch, in the signature's shape."""
        raise NotImplementedError

    def fit(self, task: Task, seed: int = 0) -> FittedEstimator:
        """Learn from the training split; the same seed gives the same estimator.

        Raises:
            UserError: the estimator cannot serve the task's signature.
        """
        reason = self.accepts(task.signature)
        if reason is not None:
            raise UserError(f"{self.name} cannot serve this data: {reason}.")
        self.signature = task.signature
        self.fitted = self.learn(task, seed)
        return self

    def __call__(self, batch: Batch) -> Output:
        """Predict a batch.

        Raises:
            ValueError: the estimator is not fitted.
        """
        if self.signature is None:
            raise ValueError(f"{self.name} is not fitted: call fit(task) first")
        return Output(torch.from_numpy(np.ascontiguousarray(self.predict(batch), dtype=np.float32)))

    def parameter_count(self) -> int:
        """Numbers the fitted estimator holds."""
        return count_numbers(self.fitted)

    def save(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``fitted.skops``, each to a temporary name first and then renamed."""
        if self.signature is None:
            raise ValueError(f"{self.name} is not fitted: call fit(task) before save")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / "fitted.skops.partial"
        partial.write_bytes(skops.io.dumps(self.fitted))
        partial.replace(folder / "fitted.skops")
        recipe = {"kind": "estimator", "name": self.name, "signature": self.signature.to_json(), "options": {}}
        partial = folder / "config.json.partial"
        partial.write_text(json.dumps({"build": recipe, "edits": []}, indent=1))
        partial.replace(folder / "config.json")

    @classmethod
    def load(cls, folder: str | Path) -> FittedEstimator:
        """Read what `save` wrote; types beyond the allow-list are refused.

        Raises:
            UserError: the folder holds no such estimator, or its file names a type that is not allowed.
        """
        folder = Path(folder)
        try:
            recipe = json.loads((folder / "config.json").read_text())["build"]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{folder} holds no readable config.json of an estimator: name a folder that `save` wrote.") from error
        if recipe["name"] != cls.name:
            raise UserError(f"{folder} holds {recipe['name']!r}, not {cls.name!r}.")
        path = folder / "fitted.skops"
        foreign = sorted(set(skops.io.get_untrusted_types(file=path)) - TRUSTED)
        if foreign:
            raise UserError(f"{path} names types that an estimator never holds ({', '.join(foreign[:3])}): it was not loaded.")
        loaded = cls()
        loaded.signature = Signature.from_json(recipe["signature"])
        loaded.fitted = skops.io.load(path, trusted=sorted(TRUSTED))
        return loaded


# ------------------------------------------------------------------------------------------------ reading a task


def gather(task: Task, split: SplitName) -> Batch:
    """One pass over a split as a single batch; a graph, which every batch carries whole, is kept once."""
    parts = list(task.batches(split, 1024))
    return {key: parts[0][key] if key in GRAPH_KEYS else _joined([part[key] for part in parts]) for key in parts[0]}


def _joined(parts: list[Tensor]) -> Tensor:
    """Batches one after the other; shorter ones, which end with their longest example, are filled with zeros (mask False)."""
    if parts[0].ndim < 2 or len({part.shape[1] for part in parts}) == 1:
        return torch.cat(parts)
    longest = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, 0) * (part.ndim - 2) + (0, longest - part.shape[1])) for part in parts])


def features_of(signature: Signature, batch: Batch) -> Any:
    """An example's numbers as one row, (batch, features); node features may be a scipy sparse matrix."""
    if isinstance(signature.input, Graph):
        rows = matrix(batch["nodes"])[batch["selected"].cpu().numpy()]
        return rows
    value = next(batch[key] for key in ("table", "image", "series") if key in batch)
    if "mask" in batch and value.ndim == 3:
        value = torch.where(batch["mask"][..., None], value, 0.0)
    return array(value.flatten(1)).astype(np.float64)


def array(tensor: Tensor) -> NDArray[Any]:
    """A tensor's values on the processor, without gradient."""
    return tensor.detach().cpu().numpy()


def matrix(tensor: Tensor) -> Any:
    """A dense or sparse tensor as an array or a scipy CSR matrix."""
    if tensor.layout == torch.strided:
        return array(tensor).astype(np.float64)
    coordinates = tensor.detach().cpu().to_sparse_coo().coalesce()
    rows, columns = coordinates.indices().numpy()
    return scipy.sparse.csr_matrix((coordinates.values().double().numpy(), (rows, columns)), shape=tuple(tensor.shape))


def subsample(batch: Batch, limit: int, seed: int) -> Batch:
    """At most ``limit`` examples drawn without replacement; the batch itself where it is small enough."""
    count = len(batch["target"])
    if count <= limit:
        return batch
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:limit].sort().values
    return {key: value if key in GRAPH_KEYS else value[chosen] for key, value in batch.items()}


def spread(logits: NDArray[Any], seen: NDArray[Any], classes: int) -> NDArray[Any]:
    """Logits of the classes seen in training as columns of all ``classes``; the others get a very low one."""
    full = np.full((len(logits), classes), ABSENT)
    full[:, np.asarray(seen, dtype=int)] = logits
    return full


def two_sided(decision: NDArray[Any]) -> NDArray[Any]:
    """A binary decision value (batch,) as two logits whose difference it is."""
    return np.stack([-decision / 2, decision / 2], 1) if decision.ndim == 1 else decision


def is_single_class(signature: Signature) -> bool:
    """Whether one class an example is wanted."""
    return isinstance(signature.output, Class) and not signature.per_position and not signature.multi_label


def count_numbers(value: Any) -> int:
    """Numbers in nested dicts, lists, arrays, sparse matrices and scikit-learn objects."""
    if isinstance(value, np.ndarray):
        return int(value.size)
    if scipy.sparse.issparse(value):
        return int(value.nnz)
    if isinstance(value, dict):
        return sum(count_numbers(item) for item in value.values())
    if isinstance(value, list | tuple):
        return sum(count_numbers(item) for item in value)
    if isinstance(value, bool | str) or value is None:
        return 0
    if isinstance(value, int | float | np.number):
        return 1
    learned = {key: item for key, item in getattr(value, "__dict__", {}).items() if key.endswith("_") or key.startswith("_predictors")}
    return count_numbers(learned or (getattr(value, "nodes", None)))
