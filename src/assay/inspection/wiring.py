"""What a graph's properties tell of the network wired by it: correlations, and regressions judged on graphs they have not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import pearsonr


def property_correlations(properties: Sequence[Mapping[str, float]], values: Sequence[float]) -> pd.DataFrame:
    """Pearson correlation of each property with a measured value, strongest first: columns correlation, low, high (95 %), p_value.

    A property that is the same in all graphs has no correlation and is left out.

    Args:
        properties: one mapping a graph, as `assay.nn.recurrent.layered.graph_properties` gives them.
        values: one measured value a graph, an accuracy for example.

    Raises:
        ValueError: fewer than four graphs, or not as many values as graphs.
    """
    table = _table(properties, values)
    rows = {}
    for name in table:
        found: Any = pearsonr(table[name], np.asarray(values, dtype=float))
        low, high = found.confidence_interval(0.95)
        rows[name] = {"correlation": float(found.statistic), "low": float(low), "high": float(high), "p_value": float(found.pvalue)}
    frame = pd.DataFrame.from_dict(rows, orient="index")
    return frame.sort_values("correlation", key=lambda column: -column.abs())


def property_regressions(
    properties: Sequence[Mapping[str, float]], values: Sequence[float], repeats: int = 10, seed: int = 0
) -> pd.DataFrame:
    """How well three regressors foretell the value from all properties, scaled to [0, 1]: R² on left-out graphs, and the importances.

    R² is that of all left-out predictions together, the mean over ``repeats`` five-fold cross-validations (a single tenth of the graphs,
    as in the thesis, is too few to judge by). Importances are of a fit to all graphs: coefficients for the ridge regression.

    Returns:
        One row a regressor: r2, r2_deviation over the repetitions, then one column a property.

    Raises:
        ValueError: fewer than five graphs, or not as many values as graphs.

    Source: Darji 2024, Investigating Sparsity in Recurrent Neural Networks.
    """
    from sklearn.ensemble import AdaBoostRegressor, RandomForestRegressor
    from sklearn.linear_model import BayesianRidge
    from sklearn.metrics import r2_score
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler

    table, target = _table(properties, values), np.asarray(values, dtype=float)
    if len(table) < 5:
        raise ValueError(f"five-fold cross-validation needs at least 5 graphs, got {len(table)}")
    regressors: dict[str, Any] = {
        "bayesian_ridge": BayesianRidge(),
        "random_forest": RandomForestRegressor(random_state=seed),
        "adaboost": AdaBoostRegressor(random_state=seed),
    }
    rows = {}
    for name, regressor in regressors.items():
        pipeline = make_pipeline(MinMaxScaler(), regressor)
        folds = [KFold(5, shuffle=True, random_state=seed + repeat) for repeat in range(repeats)]
        scores = [float(r2_score(target, cross_val_predict(pipeline, table, target, cv=fold))) for fold in folds]
        fitted: Any = pipeline.fit(table, target)[-1]
        importances = fitted.coef_ if hasattr(fitted, "coef_") else fitted.feature_importances_
        rows[name] = {"r2": np.mean(scores), "r2_deviation": np.std(scores), **dict(zip(table.columns, importances, strict=True))}
    return pd.DataFrame.from_dict(rows, orient="index")


def _table(properties: Sequence[Mapping[str, float]], values: Sequence[float]) -> pd.DataFrame:
    if len(properties) != len(values):
        raise ValueError(f"{len(properties)} graphs but {len(values)} values")
    if len(values) < 4:
        raise ValueError(f"a correlation needs at least 4 graphs, got {len(values)}")
    table = pd.DataFrame(list(properties))
    return table.loc[:, table.nunique() > 1]
