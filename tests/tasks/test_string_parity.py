"""Parity of whole strings: labels by Python's own count, lengths, and what is refused."""

from __future__ import annotations

import pytest

from assay.tasks.synthetic.string_parity import PADDING, string_parity


def test_labels_count_the_ones_and_lengths_span_the_range() -> None:
    task = string_parity((2, 6), train=300, test=50)
    (batch,) = task.batches("train", 300)
    lengths = set()
    for tokens, mask, target in zip(batch["tokens"].tolist(), batch["mask"].tolist(), batch["target"].tolist(), strict=True):
        bits = [bit for bit, real in zip(tokens, mask, strict=True) if real]
        assert target == bits.count(1) % 2
        assert set(tokens[len(bits) :]) <= {PADDING}
        lengths.add(len(bits))
    assert lengths == {2, 3, 4, 5, 6}
    assert abs(float(batch["target"].float().mean()) - 0.5) < 0.1


@pytest.mark.parametrize("options", [{"lengths": (0, 3)}, {"lengths": (4, 3)}, {"train": 0}])
def test_unusable_options_are_refused(options) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        string_parity(**options)
