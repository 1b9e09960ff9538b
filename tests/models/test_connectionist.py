"""Connectionist temporal classification against torch's loss, and against the sum over all paths."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from assay.contracts import END, Class, Output, Series, Signature, TokenSequence
from assay.models.build import build_network
from assay.models.connectionist import ConnectionistFamily, ConnectionistNetwork
from assay.models.decoding import translate
from assay.tasks.base import example_losses
from assay.tasks.digit_strings import SIDE, digit_strings
from assay.tasks.sequences import ended_targets

FRAMES, VOCABULARY, LENGTH = 9, 4, 5
SIGNATURE = Signature(Series(VOCABULARY, FRAMES), TokenSequence(VOCABULARY, LENGTH))


class Shown(nn.Module):
    """Frames whose logits are the input itself."""

    def forward(self, batch: dict[str, Tensor]) -> Output:
        return Output(batch["series"])


def network() -> Any:
    return ConnectionistNetwork(SIGNATURE, Shown())


def problem() -> dict[str, Tensor]:
    """Repeated symbols, no symbol, as many as fit; frames of several lengths."""
    series = torch.randn(4, FRAMES, VOCABULARY, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mask = torch.arange(FRAMES) < torch.tensor([[FRAMES], [FRAMES], [4], [7]])
    return {"series": series * 2, "mask": mask, **ended_targets([[1, 1, 2, 2], [3], [], [2, 3, 2]], LENGTH)}


def test_cross_entropies_add_up_to_the_loss_of_torch_gradient_included() -> None:
    batch = problem()
    batch["series"].requires_grad_()
    lengths, counts = batch["mask"].sum(1), batch["target_mask"].sum(1) - 1
    found, _ = example_losses(SIGNATURE, network()(batch).prediction, batch)
    emitted = batch["series"].log_softmax(-1).transpose(0, 1)
    expected = nn.CTCLoss(blank=0, reduction="none")(emitted, batch["target"], lengths, counts)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    for one, other in itertools.pairwise(torch.autograd.grad(loss.sum(), batch["series"])[0] for loss in (found, expected)):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-8)


def spelled(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol)


def test_wide_prefix_search_finds_the_likeliest_of_all_sequences() -> None:
    frames = 5
    series = torch.randn(1, frames, VOCABULARY, generator=torch.Generator().manual_seed(3))
    log = series[0].log_softmax(-1)
    chances: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(VOCABULARY), repeat=frames):
        chances[spelled(path)] = chances.get(spelled(path), 0.0) + float(log[range(frames), path].sum().exp())
    assert sum(chances.values()) == pytest.approx(1, abs=1e-5)
    best = max((sequence for sequence in chances if len(sequence) < LENGTH), key=lambda sequence: chances[sequence])
    found = translate(network(), {"series": series}, beams=60, normalisation=0.0)[0].tolist()
    assert tuple(found[: len(best)]) == best
    assert set(found[len(best) :]) == {END}
    logits, _ = network().step(torch.tensor([END]), network().begin({"series": series}))
    begins = [sum(chance for sequence, chance in chances.items() if sequence[:1] == first) for first in ((), (1,), (2,), (3,))]
    torch.testing.assert_close(logits[0].exp(), torch.tensor(begins), rtol=1e-4, atol=1e-5)


def test_what_frames_cannot_spell_has_a_finite_loss_and_gradient() -> None:
    batch = problem()
    batch["mask"] = torch.arange(FRAMES).expand(4, -1) < 2
    batch["series"].requires_grad_()
    loss = example_losses(SIGNATURE, network()(batch).prediction, batch)[0].sum()
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert bool(torch.isfinite(batch["series"].grad).all())  # pyright: ignore[reportArgumentType]


def test_strings_are_pictures_of_their_digits_at_unknown_places() -> None:
    task = digit_strings((2, 3), 2, train=30, test=5)
    rows = task.splits["train"]
    assert rows["series"].shape == (30, 3 * SIDE + 8, SIDE)
    assert torch.equal(torch.unique(rows["target_mask"].sum(1)), torch.tensor([3, 4]))
    columns = rows["mask"].sum(1)
    least = (rows["target_mask"].sum(1) - 1) * SIDE
    assert bool((columns >= least).all())
    assert bool((columns > least).any())
    assert task.texts(torch.tensor([[4, 1, END, 2]])) == ["30"]
    with pytest.raises(ValueError, match=r"\(0, 2\)"):
        digit_strings((0, 2))


def test_a_family_says_what_it_cannot_serve() -> None:
    family = ConnectionistFamily()
    assert "2 frames" in str(family.accepts(Signature(Series(1, 2), TokenSequence(4, 5))))
    assert "Class" in str(family.accepts(Signature(Series(1, 9), Class(2))))
    assert build_network("ctc", SIGNATURE, 1, 0, mixer="lstm", depth=1)(problem() | {"series": torch.randn(4, FRAMES, 4)})
