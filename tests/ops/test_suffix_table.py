"""The streaming table against the whole sequence: chunks, holes, forks, collisions, constant work."""

from __future__ import annotations

import pytest
import torch

from assay.ops import suffix_table
from assay.ops.suffix_matches import successor_average
from assay.ops.suffix_table import extend, initial_suffix_table


def made(vocabulary, length=130, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(vocabulary, (3, length), generator=generator)
    return tokens, torch.randn(3, length, 4, generator=generator, dtype=torch.float64), torch.rand(3, length, generator=generator) < 0.6


def streamed(values, tokens, order, mask, sizes, table=None):
    table = initial_suffix_table(3, 4, torch.float64) if table is None else table
    parts, start = [], 0
    for size in sizes:
        part = slice(start, start + size)
        averages, table = extend(table, values[:, part], tokens[:, part], order, None if mask is None else mask[:, part])
        parts.append(averages)
        start += size
    return torch.cat(parts, 1), table


@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize("vocabulary", [1, 3, 40])
@pytest.mark.parametrize("holes", [False, True])
def test_any_chunking_equals_the_whole(order, vocabulary, holes):
    tokens, values, mask = made(vocabulary)
    mask = mask if holes else None
    expected = successor_average(values, tokens, order, mask)
    for sizes in ([130], [1] * 130, [64, 1, 0, 65], [10] * 13):
        found, _ = streamed(values, tokens, order, mask, sizes)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_a_stream_can_be_forked_at_any_state():
    tokens, values, _ = made(3)
    _, table = streamed(values[:, :30], tokens[:, :30], 2, None, [30])
    for start in (30, 60, 90):  # each branch goes on from the same state, and for long enough to rewrite what the others wrote
        row = torch.cat([torch.arange(30), torch.arange(start, start + 40)])
        found, _ = streamed(values[:, start : start + 40], tokens[:, start : start + 40], 2, None, [13, 1, 26], table)
        torch.testing.assert_close(found, successor_average(values[:, row], tokens[:, row], 2)[:, 30:], atol=1e-12, rtol=0)


def test_an_older_state_does_not_see_what_a_younger_one_wrote():
    tokens = torch.zeros(3, 4, dtype=torch.long)
    _, table = extend(initial_suffix_table(3, 4), torch.ones(3, 2, 4), tokens[:, :2], 1)
    extend(table, torch.full((3, 2, 4), 100.0), tokens[:, 2:], 1)
    found, _ = extend(table, torch.zeros(3, 1, 4), tokens[:, :1], 1)
    assert (found == 1).all()


def test_collisions_cost_looks_and_no_errors(monkeypatch):
    tokens, values, mask = made(9)
    monkeypatch.setattr(suffix_table, "_bucket", lambda grams, buckets: grams[..., 0] % 2)
    found, _ = streamed(values, tokens, 3, mask, [50, 1, 79])
    torch.testing.assert_close(found, successor_average(values, tokens, 3, mask), atol=1e-12, rtol=0)


def test_gradients_through_a_stream():
    tokens, values, _ = made(2, length=14)
    values = values.clone().requires_grad_()
    weight = torch.randn(3, 14, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (expected,) = torch.autograd.grad((successor_average(values, tokens, 2) * weight).sum(), values)
    (found,) = torch.autograd.grad((streamed(values, tokens, 2, None, [5, 1, 8])[0] * weight).sum(), values)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_a_token_costs_as_many_looks_late_as_early(monkeypatch):
    # the number of entries compared, not the time: deterministic
    looked = []
    plain = suffix_table._lookup

    def counting(table, grams, wanted, order):
        start = torch.where(wanted, table.heads.gather(1, suffix_table._bucket(grams, table.heads.shape[1])), -1)
        steps, found = 0, plain(table, grams, wanted, order)
        while bool((start != found).any()):
            start = torch.where(start != found, table.previous.gather(1, start.clamp(min=0)), start)
            steps += 1
        looked.append(steps)
        return found

    monkeypatch.setattr(suffix_table, "_lookup", counting)
    generator = torch.Generator().manual_seed(0)
    tokens, values = torch.randint(20, (1, 4000), generator=generator), torch.zeros(1, 4000, 1)
    table = initial_suffix_table(1, 1)
    for start in range(0, 3600, 400):
        _, table = extend(table, values[:, start : start + 400], tokens[:, start : start + 400], 2)
    looked.clear()
    for t in range(3600, 4000):
        _, table = extend(table, values[:, t : t + 1], tokens[:, t : t + 1], 2)
    assert sum(looked) / 400 < 2
