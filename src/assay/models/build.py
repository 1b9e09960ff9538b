"""Building a network for a signature at a parameter budget, and writing and reading it: ``config.json`` + ``model.safetensors``."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from assay import registry
from assay.contracts import Family, Signature
from assay.errors import UserError
from assay.measure import parameter_count
from assay.options import refuse_mistyped

TOLERANCE = 0.02
"""A model further than this from its parameter budget is marked, not hidden."""


def family(name: str) -> Family:
    """The family behind a name: a registered model, any mixer (inside the sequence model), ``file.py:Class``, or a pattern of mixers.

    ``base-conv*3~attention`` is three blocks of the one and one of the other, repeated; every element is a registered mixer or a file's.

    Raises:
        UserError: nothing has that name, or a user's class is neither a family nor a module; an element of a pattern is no mixer.
    """
    from assay.models.sequence import SequenceFamily

    if is_pattern(name):
        return SequenceFamily(*(mixer for element in pattern_elements(name) for mixer in _repeated(element)))
    if registry.is_file_reference(name):
        found = registry.load_file_attribute(name)
        if isinstance(found, type) and issubclass(found, nn.Module):
            return SequenceFamily(found)
        if hasattr(found, "network") and hasattr(found, "accepts"):
            return found()
        raise UserError(f"{name} is neither a torch.nn.Module (a mixer) nor a family with accepts and network: run `assay check {name}`.")
    if registry.known("mixer", name):
        return SequenceFamily(registry.resolve("mixer", name))
    if registry.known("model", name):
        return registry.resolve("model", name)()
    near = difflib.get_close_matches(name, [*registry.names("model"), *registry.names("mixer")], n=3)
    offer = f"did you mean {', '.join(near)}?" if near else "`assay catalog` lists them."
    raise UserError(f"There is no model or mixer named {name!r}: {offer} (or name your own: file.py:Class)")


def is_pattern(name: str) -> bool:
    """Whether a name is a pattern of mixers: elements joined by ``~``, or one with a number of repeats."""
    return len(pattern_elements(name)) > 1 or "*" in name


def pattern_elements(name: str) -> list[str]:
    """The elements of a pattern with their repeats: ``["base-conv*3", "attention"]``; a ``~`` that begins one is a home folder."""
    return re.split(r"(?<=[^~])~", name)


def _repeated(element: str) -> list[Any]:
    mixer, star, times = element.partition("*")
    if star and not (times.isdecimal() and int(times) > 0):
        raise UserError(f"{element!r} in a pattern of mixers must be a name, or a name and a number of repeats as in base-conv*3.")
    found = family(mixer)
    pattern = getattr(found, "pattern", None)
    if pattern is None:
        raise UserError(f"{mixer} is a whole model: a pattern is made of mixers.")
    return [*pattern] * (int(times) if star else 1)


def build(name: str, signature: Signature, parameters: int = 200_000, **options: Any) -> nn.Module:
    """A network of the named family whose parameter count comes as near to ``parameters`` as its dials allow.

    The coarse dial is turned as far as the budget allows, then the fine one; both by bisection on weightless (meta) copies.

    Args:
        name: a registered model, a mixer, or ``file.py:Class``.
        signature: what goes in and out.
        parameters: wanted number of trainable parameters; `off_budget` says whether it was met within 2 %.
        options: ``init``, ``default`` or ``critical`` (see `assay.models.initialisation`); all others are handed to the family's
            ``network``.

    Raises:
        UserError: the family cannot serve the signature (with its reason), or the name is unknown; no layer can be initialised critically.
        ValueError: an option has a value the network refuses.
    """
    maker = _accepting(name, signature)
    own = {option: value for option, value in options.items() if option != "init"}
    refuse_mistyped(maker.network, own)

    @cache
    def count(coarse: int, fine: int) -> int:
        with torch.device("meta"):
            return parameter_count(maker.network(signature, coarse, fine, **own))

    coarse = _largest_within(parameters, maker.coarse, lambda value: count(value, maker.fine[0]))
    fine = _nearest(parameters, maker.fine, lambda value: count(coarse, value))
    return build_network(name, signature, coarse, fine, **options)


def build_network(name: str, signature: Signature, coarse: int, fine: int, **options: Any) -> nn.Module:
    """The network at given dials; it carries ``model.signature``, and in ``model.config`` its recipe, to be saved and rebuilt."""
    own = {option: value for option, value in options.items() if option != "init"}
    model = _accepting(name, signature).network(signature, coarse, fine, **own)
    if "init" in options:
        from assay.models.initialisation import apply_initialisation  # its theory imports an optimiser, a sixth of the time to start

        apply_initialisation(model, signature, options["init"], name)
    recipe = {"name": name, "signature": signature.to_json(), "coarse": coarse, "fine": fine, "options": options}
    carried: Any = model  # a module takes any attribute
    carried.signature, carried.config = signature, {"build": recipe, "edits": []}
    return model


def off_budget(model: nn.Module, parameters: int) -> bool:
    """Whether the model's parameter count is more than 2 % from the budget."""
    return abs(parameter_count(model) - parameters) > TOLERANCE * parameters


def save(model: nn.Module, folder: str | Path, state: dict[str, Tensor] | None = None) -> None:
    """Write ``config.json`` and ``model.safetensors``, each to a temporary name first and then renamed.

    Args:
        model: made by `build`.
        folder: made if it does not exist.
        state: the weights to write, where they are not simply the model's (gathered from several processes).

    Raises:
        ValueError: the model was not made by `build`, so it has no recipe.
    """
    config = getattr(model, "config", None)
    if config is None:
        raise ValueError(f"{type(model).__name__} has no config: only models made by assay.models.build can be saved with their recipe")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in (state or model.state_dict()).items()}
    partial = folder / "model.safetensors.partial"
    save_file(weights, partial)
    partial.replace(folder / "model.safetensors")
    partial = folder / "config.json.partial"
    partial.write_text(json.dumps(config, indent=1))
    partial.replace(folder / "config.json")


def load(folder: str | Path) -> nn.Module:
    """Rebuild a saved network: build, replay its edits, then load the weights. The network is in evaluation mode.

    Raises:
        UserError: the folder does not hold a saved network, or its weights do not fit its recipe.
    """
    from assay.models.surgery import replay

    folder = Path(folder)
    config = read_config(folder)
    recipe = config["build"]
    options = {option: value for option, value in recipe["options"].items() if option != "init"}  # the weights are read, not drawn
    model = build_network(recipe["name"], Signature.from_json(recipe["signature"]), recipe["coarse"], recipe["fine"], **options)
    for edit in config["edits"]:
        model = replay(model, edit)
    model.config = config  # pyright: ignore[reportArgumentType]
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (RuntimeError, OSError) as error:
        raise UserError(f"{folder / 'model.safetensors'} does not fit config.json beside it: {str(error).splitlines()[0]}") from error
    return model.eval()


def load_predictor(folder: str | Path) -> Any:
    """A saved network or estimator, whichever the folder holds; calling it with a batch predicts.

    Raises:
        UserError: the folder holds neither.
    """
    recipe = read_config(folder)["build"]
    if recipe.get("kind") == "estimator":
        return registry.resolve("estimator", recipe["name"]).load(Path(folder))
    return load(folder)


def read_config(folder: str | Path) -> dict[str, Any]:
    """The recipe in a run's ``config.json``.

    Raises:
        UserError: there is none, or it is not JSON.
    """
    path = Path(folder) / "config.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no config.json: name a run's folder, as printed by `assay compare` or `assay train`.") from error
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not readable JSON (line {error.lineno}): the run's folder is damaged.") from error


def _accepting(name: str, signature: Signature) -> Family:
    maker = family(name)
    reason = maker.accepts(signature)
    if reason is not None:
        raise UserError(f"{name} cannot serve this data: {reason}.")
    return maker


def _largest_within(budget: int, dial: range, count: Callable[[int], int]) -> int:
    """The largest dial value whose count stays within the budget (the smallest value if none does); counts grow with the dial.

    Counts grow about as the square of a width, so that the next value is guessed between the roots of two counts; a guess that did not
    halve the range is followed by its middle.
    """
    low, high = 0, len(dial) - 1
    least, most = math.sqrt(count(dial[low])), math.sqrt(count(dial[high]))
    if most <= math.sqrt(budget):
        return dial[high]
    guess = True
    while high - low > 1:
        before = high - low
        share = (math.sqrt(budget) - least) / (most - least) if guess and most > least else 0.5
        middle = min(max(low + int(share * before), low + 1), high - 1)
        root = math.sqrt(count(dial[middle]))
        if root <= math.sqrt(budget):
            low, least = middle, root
        else:
            high, most = middle, root
        guess = not guess or 2 * (high - low) <= before
    return dial[low]


def _nearest(budget: int, dial: range, count: Callable[[int], int]) -> int:
    """The dial value whose count is nearest to the budget."""
    below = _largest_within(budget, dial, count)
    index = dial.index(below)
    if index + 1 == len(dial):
        return below
    above = dial[index + 1]
    return above if abs(count(above) - budget) < abs(count(below) - budget) else below
