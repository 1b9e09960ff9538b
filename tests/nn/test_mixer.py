"""Every mixer that streams refuses a state that is not its own: arithmetic would broadcast over it, and answer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from assay import registry
from assay.nn import StreamingMixer


def streaming() -> list[str]:
    makers = {name: registry.resolve("mixer", name) for name in registry.names("mixer")}
    modules = {name: make(16) for name, make in makers.items()}
    return [name for name, module in modules.items() if module.causal and "relation" not in getattr(module, "inputs", ())]


def given(name: str) -> tuple[Any, dict[str, Tensor]]:
    torch.manual_seed(0)
    mixer = registry.resolve("mixer", name)(16).eval()
    return mixer, {"tokens": torch.randint(7, (2, 5))} if "tokens" in getattr(mixer, "inputs", ()) else {}


@pytest.mark.parametrize("name", streaming())
def test_a_state_of_other_examples_or_of_another_kind_is_refused(name: str) -> None:
    mixer, more = given(name)
    x, state = torch.randn(2, 5, 16), mixer.initial_state(2)
    turned = pytree.tree_map(lambda part: part.bool() if part.is_floating_point() else part.double(), state)
    flatter = pytree.tree_map(lambda part: part.flatten()[:2], state)
    several = pytree.tree_map(lambda part: part[..., None], state)
    with pytest.raises(ValueError, match=r"state.* must hold the 2 examples of x, got 3"):
        mixer.scan(x, mixer.initial_state(3), **more)
    with pytest.raises(ValueError, match=r"state.* must be .*, as initial_state gives, got"):
        mixer.scan(x, "state", **more)
    for wrong in (turned, several):
        with pytest.raises(ValueError, match=r"state.* must be .* sizes, as initial_state gives, got"):
            mixer.scan(x, wrong, **more)
        with pytest.raises(ValueError, match=r"state.* must be .* sizes, as initial_state gives, got"):
            mixer.step(x[:, 0], wrong, **{key: value[:, 0] for key, value in more.items()})
    with pytest.raises(ValueError, match="must be"):
        mixer.scan(x, (flatter, flatter, flatter), **more)
    with pytest.raises(ValueError, match=r"x must be floating-point numbers, got torch\.int64"):
        mixer.scan(torch.ones(2, 5, 16, dtype=torch.long), state, **more)


@pytest.mark.parametrize("name", streaming())
def test_a_refused_state_changes_nothing(name: str) -> None:
    """The stream goes on with its own state as if nothing had been."""
    mixer, more = given(name)
    x, state = torch.randn(2, 5, 16), mixer.initial_state(2)
    with torch.no_grad():
        expected = mixer.scan(x, mixer.initial_state(2), **more)[0]
        with pytest.raises(ValueError, match="must hold the 2 examples"):
            mixer.scan(x, mixer.initial_state(3), **more)
        assert torch.equal(mixer.scan(x, state, **more)[0], expected)


def test_a_persons_mixer_refuses_too() -> None:
    class Decaying(StreamingMixer):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.width = width

        def initial_state(self, batch_size: int) -> dict[str, Tensor]:
            return {"sum": torch.zeros(batch_size, self.width)}

        def scan(self, x: Tensor, state: dict[str, Tensor], mask: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
            sums = state["sum"][:, None] + x.cumsum(1)
            return sums, {"sum": sums[:, -1]}

    mixer, x = Decaying(4), torch.randn(1, 3, 4)
    with pytest.raises(ValueError, match=r"state\['sum'\] must hold the 1 examples of x, got 6"):
        mixer.scan(x, mixer.initial_state(6))  # would broadcast into six streams
    with pytest.raises(ValueError, match="state must have 'sum', as initial_state gives, got 'total'"):
        mixer.step(x[:, 0], {"total": torch.zeros(1, 4)})
    with pytest.raises(ValueError, match="state must be a dict of 1, as initial_state gives, got dict of 2"):
        mixer.step(x[:, 0], {"sum": torch.zeros(1, 4), "more": torch.zeros(1, 4)})
    torch.testing.assert_close(torch.compile(mixer.scan, backend="eager")(x, mixer.initial_state(1))[0], x.cumsum(1))
