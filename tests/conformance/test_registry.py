"""Every registered part goes through the public checks, and so will every one that is added."""

from __future__ import annotations

import pytest
import torch

from assay import models, registry
from assay.errors import MissingExtra, UserError
from assay.testing import check_compressor, check_method, check_mixer, check_model, check_task
from assay.testing.examples import SIGNATURES

torch.set_num_threads(1)
NEEDS_A_FILE = ("wordnet", "spoken-prompts", "translation")  # their data come with no package that pip installs


@pytest.mark.parametrize("name", registry.names("mixer"))
def test_mixer(name: str) -> None:
    check_mixer(registry.resolve("mixer", name))


@pytest.mark.parametrize(("place", "name"), enumerate(registry.names("mixer")), ids=registry.names("mixer"))
def test_mixer_as_a_model(place: int, name: str) -> None:
    """All mixers stand in one network, which meets every kind of data with a third of them; each mixer alone has its own test."""
    accepts = models.family(name).accepts
    accepted = [title for title, signature in SIGNATURES.items() if accepts(signature) is None]
    chosen = accepted if name in ("attention", "lstm") else accepted[place % 3 :: 3]
    check_model(name, {title: SIGNATURES[title] for title in chosen or accepted})


@pytest.mark.parametrize("name", registry.names("model"))
def test_model(name: str) -> None:
    check_model(name)


@pytest.mark.parametrize("name", registry.names("estimator"))
def test_estimator(name: str) -> None:
    check_model(name)


@pytest.mark.parametrize("name", registry.names("task"))
def test_task(name: str) -> None:
    make = registry.resolve("task", name)
    try:
        task = make()
    except MissingExtra as missing:
        pytest.skip(str(missing))
    except UserError as refusal:
        if name not in NEEDS_A_FILE:
            raise
        pytest.skip(str(refusal))
    check_task(task)


@pytest.mark.parametrize("name", registry.names("method"))
def test_method(name: str) -> None:
    check_method(registry.resolve("method", name))


@pytest.mark.parametrize("name", registry.names("compressor"))
def test_compressor(name: str) -> None:
    check_compressor(registry.resolve("compressor", name))


@pytest.mark.parametrize("kind", registry.TABLE)
def test_every_name_resolves(kind: str) -> None:
    for name in registry.names(kind):
        assert registry.resolve(kind, name) is not None
