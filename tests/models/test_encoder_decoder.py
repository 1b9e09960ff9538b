"""Encoder–decoders: what they hand over, how they write, and beam search over them against enumeration."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import nn

from assay.contracts import END, Class, Image, NextTokens, Series, Signature, Tokens, TokenSequence
from assay.models.build import build, build_network
from assay.models.decoding import beam_search, translate
from assay.models.encoder_decoder import EncoderDecoder, EncoderDecoderFamily
from assay.nn.recurrent.reference import LSTM
from assay.tasks.synthetic.transduction import transduction
from assay.testing.examples import random_batch
from assay.training import fit

TEXT = Signature(Tokens(6, 7), TokenSequence(4, 5))
PICTURE = Signature(Image(1, 16, 16), TokenSequence(4, 5))


def network(signature: Signature = TEXT, **options: Any) -> Any:
    torch.manual_seed(0)
    return build_network("encoder-decoder", signature, 1, 0, **options).eval()


@pytest.mark.parametrize("signature", [TEXT, PICTURE], ids=["text", "picture"])
@pytest.mark.parametrize("options", [{}, {"attention": True}, {"inject": "every"}, {"layers": 2, "cell": "gru"}, {"cell": "lstm-peephole"}])
def test_forced_and_stepped_predictions_agree(signature: Signature, options: dict[str, Any]) -> None:
    """Teacher forcing runs the whole target at once; a symbol at a time from the same state must say the same."""
    model, batch = network(signature, **options), random_batch(signature)
    state, token = model.begin(batch), torch.full((4,), END)
    for position in range(5):
        logits, state = model.step(token, state)
        torch.testing.assert_close(logits, model(batch).prediction[:, position], rtol=1e-4, atol=1e-5)
        token = batch["target"][:, position]


def test_without_a_target_it_reads_what_it_wrote() -> None:
    model, batch = network(), random_batch(TEXT)
    inputs = {"tokens": batch["tokens"]}
    free = model(inputs).prediction
    forced = model({**inputs, "target": free.argmax(-1)}).prediction
    torch.testing.assert_close(free, forced, rtol=1e-4, atol=1e-5)


def test_the_encoder_hands_over_its_state_and_reads_from_the_end() -> None:
    """Two layers by hand: torch's LSTM over the reversed real part of the source, then over the target from that state."""
    model, batch = network(layers=2), random_batch(TEXT)
    mask = torch.arange(7) < torch.tensor([[7], [3], [5], [1]])
    for row, length in enumerate((7, 3, 5, 1)):
        x = model.encoder.embed(batch["tokens"][row : row + 1, :length].flip(1))
        y = model.embedding(torch.cat([torch.zeros(1, 1, dtype=torch.long), batch["target"][row : row + 1, :-1]], 1))
        for encoder, decoder in zip(model.encoder.stack.cells, model.decoder.cells, strict=True):
            x, state = encoder.recurrence(x)
            y, _ = decoder.recurrence(y, state)
        expected = model.head(torch.tanh(model.combine(y)))
        torch.testing.assert_close(model({**batch, "mask": mask}).prediction[row], expected[0], rtol=1e-4, atol=1e-5)


def test_attention_looks_at_real_positions_alone_and_sums_to_one() -> None:
    model, batch = network(attention=True), random_batch(TEXT)
    mask = torch.arange(7) < torch.tensor([[7], [3], [5], [1]])
    weights = model.alignment({**batch, "mask": mask})
    assert weights.shape == (4, 5, 7)
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 5))
    assert float(weights.detach().masked_select(~mask[:, None].expand_as(weights)).max()) == 0.0
    with pytest.raises(ValueError, match="no attention"):
        network().alignment(batch)


def test_scheduled_sampling_reads_the_target_by_chance() -> None:
    """With chance 0 training reads its own symbols, as evaluation without a target does; in evaluation a target is always read."""
    model, batch = network(teacher_forcing=0.0), random_batch(TEXT)
    free = model({"tokens": batch["tokens"]}).prediction
    torch.testing.assert_close(model.train()(batch).prediction, free, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model.eval()(batch).prediction, free, atol=1e-3)


def test_pictures_go_in_first_or_at_every_symbol() -> None:
    """Injected first, a picture is forgotten by a decoder whose state is put back; injected everywhere it is still seen."""
    batch = random_batch(PICTURE)
    for inject, seen in (("first", False), ("every", True)):
        model = network(PICTURE, inject=inject)
        state = model.begin(batch)
        state["cells"] = model.decoder.initial_state(4)
        logits, _ = model.step(torch.zeros(4, dtype=torch.long), state)
        assert (float((logits[0] - logits[1]).detach().abs().max()) > 1e-6) is seen


def test_a_series_can_be_read() -> None:
    signature = Signature(Series(2, 9), TokenSequence(4, 5))
    assert network(signature, attention=True)(random_batch(signature)).prediction.shape == (4, 5, 4)


def every_sequence(model: Any, batch: Any, length: int, vocabulary: int) -> dict[tuple[int, ...], float]:
    """The log probability of every ended sequence of at most ``length`` symbols (cut off without an end: as it is)."""
    found = {}
    for symbols in itertools.product(range(vocabulary), repeat=length):
        ended = symbols.index(END) + 1 if END in symbols else length
        written = (*symbols[:ended], *[END] * (length - ended))
        logits = model({**batch, "target": torch.tensor([written])}).prediction.log_softmax(-1)
        found[written] = float(logits[0, range(ended), list(written[:ended])].sum().detach())
    return found


@pytest.mark.parametrize("normalisation", [0.0, 1.0])
def test_a_wide_beam_finds_the_best_of_all_sequences(normalisation: float) -> None:
    signature = Signature(Tokens(6, 7), TokenSequence(3, 3))
    model = network(signature)
    with torch.no_grad():
        model.head.weight.mul_(8)
    for seed in range(4):
        batch = {"tokens": random_batch(signature, 1, seed)["tokens"]}
        scores = every_sequence(model, batch, 3, 3)

        def merit(written: tuple[int, ...], scores: dict[tuple[int, ...], float] = scores) -> float:
            length = written.index(END) + 1 if END in written else len(written)
            return scores[written] / length**normalisation

        found = translate(model, batch, beams=27, normalisation=normalisation)[0].tolist()
        assert tuple(found) == max(scores, key=merit)


def test_one_beam_is_greedy_and_batches_are_searched_row_by_row() -> None:
    model, batch = network(attention=True), random_batch(TEXT, 5)
    free = model({"tokens": batch["tokens"]}).prediction.argmax(-1)
    written = translate(model, batch)
    before_end = (free == END).cumsum(1) == 0
    assert torch.equal(written[before_end], free[before_end])
    assert bool((written[(free == END).cumsum(1) > 0] == END).all())
    wide = translate(model, batch, beams=3)
    alone = torch.cat([translate(model, {"tokens": batch["tokens"][row : row + 1]}, beams=3) for row in range(5)])
    assert torch.equal(wide, alone)


def test_of_equals_the_first_is_written() -> None:
    """All logits alike: which of the equals is kept must not depend on how a machine sorts."""
    model, batch = network(), random_batch(TEXT, 2)
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    assert translate(model, batch, beams=3, normalisation=0.0).tolist() == [[END] * 5] * 2


def test_an_ensemble_averages_log_probabilities() -> None:
    """A model and its negative image cancel: what is left is the third's choice."""
    batch = random_batch(TEXT, 3)
    first, second = network(), network()
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    logits = [model.step(torch.zeros(3, dtype=torch.long), model.begin(batch))[0].log_softmax(-1) for model in (first, second)]
    assert torch.equal(translate([first, second], batch)[:, 0], (logits[0] + logits[1]).argmax(-1))
    assert torch.equal(translate([first, first], batch, beams=2), translate(first, batch, beams=2))


def test_drawn_symbols_follow_the_model_at_its_temperature_and_stop_at_the_end() -> None:
    """First symbols of 4,000 copies of an example against softmax(logits / T); almost no temperature is greedy."""
    model, batch = network(), random_batch(TEXT, 1)
    many = {"tokens": batch["tokens"].expand(4_000, -1)}
    logits, _ = model.step(torch.tensor([END]), model.begin({"tokens": batch["tokens"]}))
    drawn = translate(model, many, temperature=0.5, seed=1)
    torch.testing.assert_close(torch.bincount(drawn[:, 0], minlength=4) / 4_000, (2 * logits[0]).softmax(-1).detach(), atol=0.03, rtol=0)
    assert bool((drawn[(drawn == END).cumsum(1) > 0] == END).all())
    assert torch.equal(drawn, translate(model, many, temperature=0.5, seed=1))
    assert torch.equal(translate(model, batch, temperature=1e-4), translate(model, batch))
    assert torch.equal(translate(model, batch, temperature=1.0, top=1), translate(model, batch))
    refused: Any = {"-1": {"temperature": -1}, "top=0": {"top": 0, "temperature": 1}, "both": {"temperature": 1, "beams": 2}}
    for message, options in refused.items():
        with pytest.raises(ValueError, match=message):
            translate(model, batch, **options)


def test_beam_search_of_several_prompts_is_that_of_each() -> None:
    signature = Signature(Tokens(5, 8), NextTokens(5))
    model = build_network("gru", signature, 1, 0, width=8).eval()
    prompts = torch.randint(5, (3, 4))
    together = beam_search(model, prompts, 4, beams=3)
    assert torch.equal(together, torch.cat([beam_search(model, prompt[None], 4, beams=3) for prompt in prompts]))


def test_it_learns_to_read_digits_aloud() -> None:
    """A few steps on two-digit strings: better than the most frequent caption, so signature, loss and writing fit each other."""
    task = transduction((1, 2), train=40, test=5)
    model = build("encoder-decoder", task.signature, 12_000, attention=True)
    fit(model, task, steps=300, learning_rate=1e-2)
    assert task.evaluate(model, "train").metrics["exact_match"] > 0.9


def test_what_cannot_be_is_refused() -> None:
    family = EncoderDecoderFamily()
    assert "not Class" in str(family.accepts(Signature(Tokens(4, 4), Class(2))))
    with pytest.raises(ValueError, match="BidirectionalLSTM is not causal"):
        network(cell="bilstm")
    with pytest.raises(ValueError, match="middle"):
        EncoderDecoder(TEXT, LSTM, 8, 8, inject="middle")
    with pytest.raises(ValueError, match=r"1\.5"):
        network(teacher_forcing=1.5)
    with pytest.raises(ValueError, match="does not write"):
        translate(nn.Linear(2, 2), {"tokens": torch.zeros(1, 1)})
    with pytest.raises(ValueError, match="at least one beam"):
        translate(network(), random_batch(TEXT), beams=0)
    with pytest.raises(ValueError, match="-1"):
        translate(network(), random_batch(TEXT), normalisation=-1)
