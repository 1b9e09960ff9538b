"""`check_method`: the contract of training methods."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import nn

from assay.contracts import Method
from assay.models import build
from assay.testing.examples import tiny_task
from assay.testing.rules import Report, Rule, require, require_close, run_rules
from assay.training import fit

STEPS = 40


def check_method(method: Callable[[], Method]) -> Report:
    """Hold a training method to its contract: it trains, reproducibly, composes, goes on from a checkpoint, and leaves the model whole.

    Args:
        method: the class, or a function that makes a fresh instance.

    Raises:
        CheckFailed: with every broken rule, and by how much.
    """
    return method_report(method).raise_if_failed(getattr(method, "__name__", "the method"))


def method_report(method: Any) -> Report:
    """The rules of `check_method`, kept or broken, without raising."""
    maker = (lambda: copy.deepcopy(method)) if isinstance(method, Method) else method
    runs = _Runs(maker)
    rules: list[Rule] = [
        ("is made without arguments and has a method's wrappers", lambda: _made(maker)),
        ("trains a small network", lambda: _trains(runs)),
        ("trains the same way for the same seed", lambda: _reproducible(runs)),
        ("composes with itself and in either order", lambda: _composes(maker)),
        ("leaves the model's parameters by the same names and shapes", lambda: _whole(runs)),
        ("gives a state that it accepts back", lambda: _state(runs)),
    ]
    return run_rules(rules, fatal=2)


class _Runs:
    """Two trainings alike, each run when a rule first asks for it: most rules look at the same ones."""

    def __init__(self, maker: Callable[[], Any]) -> None:
        self.maker = maker

    @cached_property
    def first(self) -> tuple[nn.Module, Any]:
        return _trained(self.maker())

    @cached_property
    def second(self) -> tuple[Method, nn.Module]:
        method = self.maker()
        return method, _trained(method)[0]


def _made(maker: Callable[[], Any]) -> str:
    method = maker()
    wrappers = ("setup", "objective", "gradients", "update", "finish", "state_dict", "load_state_dict")
    missing = [name for name in wrappers if not callable(getattr(method, name, None))]
    require(not missing, f"{type(method).__name__} lacks {', '.join(missing)}: subclass assay.contracts.Method")
    for name in ("objective", "gradients", "update"):
        require(callable(getattr(method, name)(lambda *_: None)), f"{name}(next) must return a function, like next")
    return ""


def _trained(*methods: Method) -> tuple[nn.Module, Any]:
    task = tiny_task()
    torch.manual_seed(0)
    model = build("mlp", task.signature, 500)
    history = fit(model, task, steps=STEPS, learning_rate=1e-2, batch_size=16, methods=methods)
    return model, history


def _trains(runs: _Runs) -> str:
    model, history = runs.first
    require(history.status == "done", "training a small network on two well-separated classes diverged")
    value = tiny_task().evaluate(model, "test").metrics["accuracy"]
    require(value >= 0.9, f"accuracy on two well-separated classes is {value:.2f} after {STEPS} steps; without any method it is 1.00")
    return f"accuracy {value:.2f} after {STEPS} steps"


def _reproducible(runs: _Runs) -> str:
    first, second = runs.first[0].state_dict(), runs.second[1].state_dict()
    for name, weight in first.items():
        require_close(second[name], weight, 0.0, f"{name} after two runs with the same seed")
    return ""


def _composes(maker: Callable[[], Method]) -> str:
    from assay.training.methods.clipping import Clipping

    for methods in ((maker(), Clipping()), (Clipping(), maker()), (maker(), maker())):
        require(_trained(*methods)[1].status == "done", "training with two methods diverged")
    return ""


def _whole(runs: _Runs) -> str:
    plain, changed = (dict(model.named_parameters()) for model in (build("mlp", tiny_task().signature, 500), runs.first[0]))
    require(plain.keys() == changed.keys(), f"parameters changed from {', '.join(plain)} to {', '.join(changed)}")
    return ""


def _state(runs: _Runs) -> str:
    method, _model = runs.second
    state = method.state_dict()
    require(isinstance(state, dict), f"state_dict gave a {type(state).__name__}")
    fresh = runs.maker()
    fresh.load_state_dict(copy.deepcopy(state))
    again = fresh.state_dict()
    require(_plain(again) == _plain(state), f"after load_state_dict, state_dict gives {list(again)} with other values")
    return ", ".join(state) or "it has none"


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value
