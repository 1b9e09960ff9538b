"""``--models auto``: a few networks that are worth trying on a kind of data, and which names are baselines."""

from __future__ import annotations

from collections.abc import Sequence

from assay import models, registry
from assay.contracts import Events, Graph, Image, Pair, Series, Signature, Table, Tokens
from assay.errors import UserError

_WORTH_TRYING: dict[type, tuple[str, ...]] = {
    Image: ("simplenet", "resnet", "attention", "lstm"),
    Series: ("simplenet", "resnet", "mlp", "lstm", "aaren", "attention"),
    Tokens: ("lstm", "aaren", "attention"),
    Events: ("lstm", "aaren", "attention"),
    Table: ("mlp",),
    Graph: ("dagnn", "gcn", "appnp"),
    Pair: ("lstm", "aaren", "attention"),
}


def networks_for(signature: Signature) -> list[str]:
    """The networks tried by default, as far as they accept the signature.

    Raises:
        UserError: no registered network accepts it.
    """
    wished = _WORTH_TRYING.get(type(signature.input), ())
    fitting = [name for name in wished if _fits(name, signature)]
    if not fitting:
        everything = (*registry.names("model"), *registry.names("mixer"))
        fitting = [name for name in everything if _fits(name, signature)][:3]
    if not fitting:
        kinds = f"{type(signature.input).__name__} → {type(signature.output).__name__}"
        raise UserError(f"No network here serves {kinds} data: name your own with --models file.py:Class.")
    return fitting


def divided(names: Sequence[str], signature: Signature) -> tuple[list[str], list[str]]:
    """The names as networks and as classical baselines, each once, in the order given.

    Raises:
        UserError: a name is unknown, or cannot serve the signature.
    """
    networks, baselines = [], []
    for name in dict.fromkeys(names):
        classical = registry.known("estimator", name)
        member = registry.resolve("estimator", name)() if classical else models.family(name)
        reason = member.accepts(signature)
        if reason is not None:
            raise UserError(f"{name} cannot serve this data: {reason}.")
        (baselines if classical else networks).append(name)
    return networks, baselines


def _fits(name: str, signature: Signature) -> bool:
    return (registry.known("model", name) or registry.known("mixer", name)) and models.family(name).accepts(signature) is None
