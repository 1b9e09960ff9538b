"""`check_model`: the contract of model families, built networks and estimators."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from assay import models, registry
from assay.contracts import Batch, Events, Image, Output, Pair, Series, Signature, Tokens
from assay.measure import parameter_count
from assay.models.build import is_pattern
from assay.testing.examples import SIGNATURES, example_task, prediction_shape, random_batch
from assay.testing.rules import Report, Rule, difference, require, require_close, run_rules

PARAMETERS = 6_000
BATCH = 4


def check_model(model: Any, signatures: Mapping[str, Signature] | None = None) -> Report:
    """Hold a model to its contract on every tiny signature that it accepts.

    Args:
        model: a registered name, a family (class or instance), an estimator class, or a built network with ``signature``.
        signatures: by what they are called in the report; by default one of every kind.

    Raises:
        CheckFailed: with every broken rule, and by how much.
    """
    return model_report(model, signatures).raise_if_failed(_title(model))


def model_report(model: Any, signatures: Mapping[str, Signature] | None = None) -> Report:
    """The rules of `check_model`, kept or broken, without raising."""
    if isinstance(model, nn.Module):
        return _network_report(model, getattr(model, "signature", None))
    if isinstance(model, str) and (is_pattern(model) or registry.known("model", model) or registry.known("mixer", model)):
        maker: Any = models.family(model)
    elif isinstance(model, str):
        maker = registry.resolve("estimator", model)()
    else:
        maker = model() if isinstance(model, type) else model
    chosen = dict(SIGNATURES if signatures is None else signatures)
    report = run_rules([("accepts(signature) answers None or a reason", lambda: _accepts(maker, chosen))], fatal=1)
    if report.failed:
        return report
    for title, signature in chosen.items():
        if maker.accepts(signature) is None:
            report += _estimator_rules(maker, title, signature) if hasattr(maker, "fit") else _family_rules(model, maker, title, signature)
    return report


def _title(model: Any) -> str:
    return model if isinstance(model, str) else getattr(model, "__name__", type(model).__name__)


def _accepts(maker: Any, signatures: dict[str, Signature]) -> str:
    answers = {title: maker.accepts(signature) for title, signature in signatures.items()}
    for title, answer in answers.items():
        require(answer is None or (isinstance(answer, str) and bool(answer)), f"{title}: accepts gave {answer!r}")
    accepted = [title for title, answer in answers.items() if answer is None]
    require(bool(accepted), "it accepts none of the signatures: " + "; ".join(f"{title}: {answer}" for title, answer in answers.items()))
    return f"serves {', '.join(accepted)}"


# ------------------------------------------------------------------------------------------------ families


def _family_rules(name: Any, maker: Any, title: str, signature: Signature) -> Report:
    torch.manual_seed(0)
    built: dict[str, nn.Module] = {}

    def builds() -> str:
        if isinstance(name, str):
            built["network"] = models.build(name, signature, PARAMETERS)
        else:
            built["network"] = maker.network(signature, maker.coarse[0], maker.fine[0])
        return f"{parameter_count(built['network'])} parameters"

    def grows() -> str:
        if len(maker.coarse) == 1:
            return "it has one size"
        middle = maker.coarse[min(len(maker.coarse) - 1, 7)]
        with torch.device("meta"):
            counts = [parameter_count(maker.network(signature, coarse, maker.fine[0])) for coarse in (maker.coarse[0], middle)]
        require(counts[0] < counts[1], f"coarse {maker.coarse[0]} has {counts[0]} parameters, coarse {middle} has {counts[1]}")
        return ""

    first: list[Rule] = [(f"{title}: is built", builds), (f"{title}: grows with the coarse dial", grows)]
    report = run_rules(first, fatal=1)
    if built:
        report += _network_rules(built["network"], title, signature)
        if isinstance(name, str):
            report += run_rules([(f"{title}: saves and loads from its folder alone", lambda: _round_trip(built["network"], signature))])
    return report


def _round_trip(network: nn.Module, signature: Signature) -> str:
    batch = random_batch(signature, BATCH)
    network.eval()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        models.save(network, Path(folder))
        loaded = models.load(Path(folder))
        require_close(loaded(batch).prediction, network(batch).prediction, 1e-6, "the loaded network and the saved one")
    return ""


# ------------------------------------------------------------------------------------------------ networks


def _network_report(network: nn.Module, signature: Signature | None) -> Report:
    rules: list[Rule] = [("carries its signature", lambda: _carries(signature))]
    report = run_rules(rules, fatal=1)
    if signature is not None:
        report += _network_rules(network, "the network", signature)
    return report


def _carries(signature: Any) -> str:
    require(isinstance(signature, Signature), "the network has no attribute `signature` (assay.contracts.Signature)")
    return ""


def _network_rules(network: nn.Module, title: str, signature: Signature) -> Report:
    network = copy.deepcopy(network)
    batch = random_batch(signature, BATCH)
    rules: list[Rule] = [
        (f"{title}: predicts the signature's shape", lambda: _shape(network, signature, batch)),
        (f"{title}: gives the same prediction twice in evaluation", lambda: _deterministic(network, batch)),
        (f"{title}: the loss and its gradients are finite", lambda: _trainable(network, signature, batch)),
    ]
    if "nodes" not in batch:  # a graph's nodes are meant to depend on one another
        rules.append((f"{title}: treats the examples of a batch alone", lambda: _alone(network, batch)))
    if isinstance(signature.input, Tokens | Series) and not signature.horizon:
        rules.append((f"{title}: does not read masked positions", lambda: _masked(network, batch)))
    if getattr(network, "causal", False) and isinstance(signature.input, Tokens | Series):
        rules.append((f"{title}: streams to the same prediction", lambda: _streams(network, signature, batch)))
    return run_rules(rules, fatal=1)


def _prediction(network: nn.Module, batch: Batch) -> Tensor:
    with torch.no_grad():
        output = network.eval()(batch)
    require(isinstance(output, Output), f"forward(batch) gave a {type(output).__name__}, not an assay.contracts.Output")
    return output.prediction


def _shape(network: nn.Module, signature: Signature, batch: Batch) -> str:
    prediction, expected = _prediction(network, batch), prediction_shape(signature, BATCH)
    require(tuple(prediction.shape) == expected, f"the prediction has shape {tuple(prediction.shape)}, the signature asks for {expected}")
    require(bool(torch.isfinite(prediction).all()), "the prediction of a finite input is not finite")
    return ""


def _deterministic(network: nn.Module, batch: Batch) -> str:
    require_close(_prediction(network, batch), _prediction(network, batch), 0.0, "two predictions of the same batch")
    return ""


def _trainable(network: nn.Module, signature: Signature, batch: Batch) -> str:
    network.train()
    output = network(batch)
    network.eval()
    if "target" in batch:
        loss = example_task(signature, {"train": batch}).loss(output, batch)
    else:
        loss = output.prediction.square().mean()
    loss = loss + sum(output.losses.values()) if output.losses else loss
    require(loss.ndim == 0 and bool(torch.isfinite(loss)), f"the loss is {loss}")
    loss.backward()
    reached = [name for name, parameter in network.named_parameters() if parameter.grad is not None]
    require(bool(reached), "no gradient reaches any parameter")
    for name, parameter in network.named_parameters():
        require(parameter.grad is None or bool(torch.isfinite(parameter.grad).all()), f"the gradient of {name} is not finite")
    return ""


def _alone(network: nn.Module, batch: Batch) -> str:
    together = _prediction(network, batch)
    alone = torch.cat([_prediction(network, {key: value[index : index + 1] for key, value in batch.items()}) for index in range(BATCH)])
    require_close(together, alone, 1e-4, "a batch and its examples one by one")
    return ""


def _masked(network: nn.Module, batch: Batch) -> str:
    key = "tokens" if "tokens" in batch else "series"
    x = batch[key]
    mask = torch.ones(x.shape[:2], dtype=torch.bool)
    mask[1::2, x.shape[1] // 2 :] = False
    changed = x.clone()
    changed[~mask] = x.flip(0)[~mask]
    real = {**batch, "mask": mask}
    first, second = _prediction(network, real), _prediction(network, {**real, key: changed})
    if first.ndim == 3 and first.shape[:2] == mask.shape:
        first, second = first[mask], second[mask]
    require_close(second, first, 1e-4, "predictions before and after changing padded inputs")
    return ""


def _streams(network: Any, signature: Signature, batch: Batch) -> str:
    x = batch["tokens" if isinstance(signature.input, Tokens) else "series"]
    network.eval()
    with torch.no_grad():
        expected = network(batch).prediction
        state, steps = network.initial_state(len(x)), []
        for x_t in x.unbind(1):
            y, state = network.step(x_t, state)
            steps.append(y)
        scanned, _ = network.scan(x, network.initial_state(len(x)))
    found = torch.stack(steps, 1)
    require_close(found, scanned, 1e-4, "step in a loop and scan")
    whole = found.shape == expected.shape and (signature.per_position or difference(found, expected) < 1e-4)
    require_close(found if whole else found[:, -1], expected, 1e-4, "the stream's prediction and forward's")
    return ""


# ------------------------------------------------------------------------------------------------ estimators


def _estimator_rules(estimator: Any, title: str, signature: Signature) -> Report:
    if not isinstance(signature.input, Tokens | Series | Image | Events | Pair) and "table" not in random_batch(signature, 2):
        return Report()
    fitted: dict[str, Any] = {}
    if "target" not in random_batch(signature, 2):
        return Report()
    splits: Any = {split: random_batch(signature, 24, seed) for seed, split in enumerate(("train", "validation", "test"))}
    task = example_task(signature, splits)

    def fits() -> str:
        fitted["estimator"] = type(estimator)().fit(task, seed=0)
        return f"{fitted['estimator'].parameter_count()} numbers"

    def predicts() -> str:
        prediction, expected = fitted["estimator"](splits["test"]).prediction, prediction_shape(signature, 24)
        require(tuple(prediction.shape) == expected, f"the prediction has shape {tuple(prediction.shape)}, not {expected}")
        return ""

    def round_trip() -> str:
        with tempfile.TemporaryDirectory() as folder:
            fitted["estimator"].save(Path(folder))
            loaded = type(estimator).load(Path(folder))
        found, expected = loaded(splits["test"]).prediction, fitted["estimator"](splits["test"]).prediction
        require_close(found, expected, 1e-6, "the loaded estimator and the saved one")
        return ""

    rules: list[Rule] = [
        (f"{title}: fits", fits),
        (f"{title}: predicts the signature's shape", predicts),
        (f"{title}: saves and loads", round_trip),
    ]
    return run_rules(rules, fatal=2)
