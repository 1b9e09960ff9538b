"""Baselines of series: MiniRocket for classes, the seasonal-naive forecast."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifierCV
from sklearn.preprocessing import StandardScaler

from assay.contracts import Batch, Series, Signature, Task, Values
from assay.errors import require
from assay.models.estimators.base import FittedEstimator, array, gather, is_single_class, spread, two_sided
from assay.models.estimators.choice import quiet, temperature

KERNELS = 10_000
SHORTEST = 9
"""MiniRocket's kernels have nine weights, so shorter series are stretched to nine steps."""
PEAKS = 5


class MiniRocket(FittedEstimator):
    """Shares of positive values of 10,000 fixed convolutions, then a ridge classifier (aeon's transform).

    Series of unequal lengths are resampled to the longest by linear interpolation. The ridge penalty comes from leave-one-out
    error on the training split, as published; the scale of the logits from validation.

    Source: Dempster, Schmidt, Webb, MiniRocket: A Very Fast (Almost) Deterministic Transform for Time Series Classification, 2021.
    """

    name = "minirocket"

    def __init__(self) -> None:
        super().__init__()
        self._transform: tuple[Any, Any] | None = None  # rebuilt from ``fitted`` on first use

    def accepts(self, signature: Signature) -> str | None:
        """Series to one class."""
        if not isinstance(signature.input, Series):
            return f"it reads series, not {type(signature.input).__name__}"
        return None if is_single_class(signature) else "it predicts one class for each series"

    def learn(self, task: Task, seed: int) -> dict[str, Any]:
        """Fit the transform's biases and the ridge classifier on the training split."""
        train, validation = gather(task, "train"), gather(task, "validation")
        transform = _transform_class()(n_kernels=KERNELS, random_state=seed)
        y, truth = array(train["target"]), array(validation["target"])
        raw = transform.fit_transform(equal_lengths(train))
        scaler = StandardScaler().fit(np.asarray(raw))
        with quiet():
            ridge = RidgeClassifierCV(alphas=np.logspace(-3, 3, 10)).fit(scaler.transform(np.asarray(raw)), y)
        seen = np.asarray(ridge.classes_)
        fitted: dict[str, Any] = {f"transform_{index}": part for index, part in enumerate(transform.parameters)}
        weights = np.atleast_2d(np.asarray(ridge.coef_)) / np.asarray(scaler.scale_)
        fitted |= {
            "weights": weights,
            "bias": np.atleast_1d(np.asarray(ridge.intercept_)) - weights @ np.asarray(scaler.mean_),
            "scale": 1.0,
            "seen": seen,
        }
        self.signature, self.fitted = task.signature, fitted
        logits = self.predict(validation)
        return fitted | {"scale": temperature(logits, truth)}

    def predict(self, batch: Batch) -> NDArray[Any]:
        """Logits (batch, classes)."""
        assert self.signature is not None  # __call__ has checked it
        x = equal_lengths(batch)
        if self._transform is None or self._transform[0] is not self.fitted["weights"]:
            self._transform = self.fitted["weights"], self._rebuilt(x[:1])
        scores = np.asarray(self._transform[1].transform(x)) @ self.fitted["weights"].T + self.fitted["bias"]
        decision = two_sided(scores[:, 0] * 2) if scores.shape[1] == 1 else scores
        return spread(self.fitted["scale"] * decision, self.fitted["seen"], self.signature.output.size)

    def _rebuilt(self, example: NDArray[Any]) -> Any:
        """The fitted transform: fitted to any one series for its shapes, then given the biases that were learned."""
        transform = _transform_class()(n_kernels=KERNELS).fit(np.repeat(example, 2, axis=0))
        transform.parameters = tuple(self.fitted[f"transform_{index}"] for index in range(len(transform.parameters)))
        return transform


def _transform_class() -> Any:
    require("aeon", extra="series", purpose="MiniRocket")
    from aeon.transformations.collection.convolution_based import MiniRocket as Transform

    return Transform


def equal_lengths(batch: Batch) -> NDArray[Any]:
    """Series as (batch, channels, length), each masked one stretched to the full length by linear interpolation."""
    series = array(batch["series"]).astype(np.float32)
    count, length, channels = series.shape
    wanted = max(length, SHORTEST)
    if "mask" not in batch and wanted == length:
        return np.ascontiguousarray(series.transpose(0, 2, 1))
    mask = array(batch["mask"]) if "mask" in batch else np.ones((count, length), dtype=bool)
    stretched = np.zeros((count, channels, wanted), dtype=np.float32)
    for row in range(count):
        real = series[row][mask[row]]
        places = np.linspace(0, len(real) - 1, wanted)
        for channel in range(channels if len(real) else 0):
            stretched[row, channel] = np.interp(places, np.arange(len(real)), real[:, channel])
    return stretched


class SeasonalNaive(FittedEstimator):
    """Repeats what was observed one season ago: ŷ_{t+h} = y_{t+h−s·⌈h/s⌉}.

    The season s of a channel is one of the highest peaks of the training windows' autocorrelation, or 1 (repeat the last value): the
    one with the smallest error on the training split. The forecast's channels must be the input's first ones.
    """

    name = "seasonal-naive"

    def accepts(self, signature: Signature) -> str | None:
        """Forecasts of the input's own channels."""
        if not isinstance(signature.input, Series) or not isinstance(signature.output, Values) or not signature.horizon:
            return "it repeats a season of a series, so it needs a forecast"
        if signature.input.channels < signature.output.size:
            return "it can only repeat channels that it has observed"
        return None

    def learn(self, task: Task, seed: int) -> dict[str, Any]:
        """Find each channel's season."""
        batch = gather(task, "train")
        series, target = array(batch["series"]).astype(np.float64), array(batch["target"])
        stride = max(1, len(series) // 2_000)
        series, target = series[::stride], target[::stride]
        seasons = []
        for channel in range(target.shape[-1]):
            one, truth = series[..., channel : channel + 1], target[..., channel : channel + 1]
            candidates = [1, *autocorrelation_peaks(one)]
            errors = [float(np.square(repeat_season(one, season, truth.shape[1]) - truth).mean()) for season in candidates]
            seasons.append(candidates[int(np.argmin(errors))])
        return {"seasons": seasons}

    def predict(self, batch: Batch) -> NDArray[Any]:
        """Values (batch, horizon, count)."""
        assert self.signature is not None  # __call__ has checked it
        assert self.signature.horizon is not None  # `accepts` asks for a forecast
        series, horizon = array(batch["series"]), self.signature.horizon
        repeated = [repeat_season(series[..., i : i + 1], season, horizon) for i, season in enumerate(self.fitted["seasons"])]
        return np.concatenate(repeated, -1)


def autocorrelation_peaks(series: NDArray[Any], count: int = PEAKS) -> list[int]:
    """Lags of the highest local maxima of the autocorrelation, averaged over windows and channels, highest first.

    Each window (batch, length, channels) is freed of its linear trend; a sum over n − lag products is divided by n − lag.
    """
    length = series.shape[1]
    time = np.arange(length) - (length - 1) / 2
    centred = series - series.mean(1, keepdims=True)
    slope = (centred * time[None, :, None]).sum(1, keepdims=True) / max(float((time**2).sum()), 1e-12)
    residual = centred - slope * time[None, :, None]
    spectrum = np.fft.rfft(residual, 2 * length, axis=1)
    products = np.fft.irfft(np.abs(spectrum) ** 2, axis=1)[:, :length].mean((0, 2))
    correlation = products / np.arange(length, 0, -1)
    lags = np.arange(2, length - 1)  # the last lag has a single product, and no right neighbour
    peaks = lags[(correlation[lags] > correlation[lags - 1]) & (correlation[lags] >= correlation[lags + 1])]
    return [int(lag) for lag in peaks[np.argsort(-correlation[peaks])][:count]]


def repeat_season(series: NDArray[Any], season: int, horizon: int) -> NDArray[Any]:
    """The last ``season`` observed steps of each channel, repeated over the horizon."""
    return series[:, series.shape[1] - season + np.arange(horizon) % season]
