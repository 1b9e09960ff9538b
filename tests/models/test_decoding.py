import itertools

import pytest
import torch
from torch import nn

from assay.contracts import Class, NextTokens, Signature, Tokens
from assay.models.decoding import beam_search, sample


class Bigram(nn.Module):
    """A next-token model whose state is the last token: exact enough to enumerate."""

    causal = True
    signature = Signature(Tokens(4, 8), NextTokens(4))

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def initial_state(self, batch_size):
        return torch.zeros(batch_size, dtype=torch.long)

    def scan(self, x, state, mask=None):
        return self.logits[x], x[:, -1]

    def step(self, x_t, state):
        return self.logits[x_t], x_t


LOGITS = torch.randn(4, 4, generator=torch.Generator().manual_seed(5)) * 2


def log_probability(tokens):
    table = LOGITS.log_softmax(-1)
    return sum(float(table[a, b]) for a, b in itertools.pairwise(tokens))


def test_temperature_zero_takes_the_likeliest():
    tokens = sample(Bigram(LOGITS), torch.tensor([[0, 2]]), 5, temperature=0.0)[0].tolist()
    last = 2
    for token in tokens:
        assert token == int(LOGITS[last].argmax())
        last = token


def test_samples_follow_the_model():
    first = sample(Bigram(LOGITS), torch.full((20_000, 1), 1), 1, temperature=1.0, seed=0)[:, 0]
    frequencies = torch.bincount(first, minlength=4) / len(first)
    torch.testing.assert_close(frequencies, LOGITS[1].softmax(-1), atol=0.012, rtol=0)


def test_top_one_is_greedy_and_same_seed_same_text():
    prompt = torch.tensor([[3]])
    assert torch.equal(sample(Bigram(LOGITS), prompt, 6, top=1), sample(Bigram(LOGITS), prompt, 6, temperature=0.0))
    assert torch.equal(sample(Bigram(LOGITS), prompt, 6, seed=7), sample(Bigram(LOGITS), prompt, 6, seed=7))


def test_wide_beam_finds_the_likeliest_sequence():
    best = max(itertools.product(range(4), repeat=4), key=lambda tail: log_probability([2, *tail]))
    assert beam_search(Bigram(LOGITS), torch.tensor([[2]]), 4, beams=64)[0].tolist() == list(best)


def test_one_beam_is_greedy():
    prompt = torch.tensor([[1]])
    assert torch.equal(beam_search(Bigram(LOGITS), prompt, 6, beams=1), sample(Bigram(LOGITS), prompt, 6, temperature=0.0))


@pytest.mark.parametrize("options", [{"temperature": -1.0}, {"top": 0}])
def test_options_out_of_range_raise(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        sample(Bigram(LOGITS), torch.tensor([[1]]), 2, **options)


def test_models_that_cannot_generate_are_refused():
    model = Bigram(LOGITS)
    model.signature = Signature(Tokens(4, 8), Class(4))
    with pytest.raises(ValueError, match="next tokens"):
        sample(model, torch.tensor([[1]]), 2)
    with pytest.raises(ValueError, match="at least one token"):
        sample(Bigram(LOGITS), torch.zeros(1, 0, dtype=torch.long), 2)
