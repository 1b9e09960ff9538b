"""Which mixers can tell positions apart on identical tokens."""

from __future__ import annotations

import pytest
import torch

from assay.nn.attention.softmax import SoftmaxAttention
from assay.nn.recurrent.reference import LSTM
from assay.theory.positional_expressiveness import positional_spread, row_sums


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("positions", [None, "alibi", "relative", "offset", "rotary"])
def test_softmax_rows_sum_to_one_so_positions_cannot_be_told(causal: bool, positions: str | None) -> None:
    torch.manual_seed(0)
    layer = SoftmaxAttention(8, 2, causal=causal, positions=positions).double()
    assert positional_spread(layer, 8) < 1e-12


def test_a_start_token_tells_a_causal_average_the_position() -> None:
    # with any other token in front, its share of the average is 1 / position
    torch.manual_seed(0)
    assert positional_spread(SoftmaxAttention(8, 2).double(), 8, start=True) > 1e-2


def test_recurrence_counts_without_help() -> None:
    torch.manual_seed(0)
    assert positional_spread(LSTM(8).double(), 8) > 1e-2


def test_row_sums_of_a_triangle_are_the_share_of_the_past() -> None:
    torch.testing.assert_close(row_sums(torch.ones(4, 4).tril()), torch.tensor([0.25, 0.5, 0.75, 1.0]))


def test_one_token_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        positional_spread(lambda x: x, 4, length=1)
