"""The capsule network: its contract, its logits, and that its size does not grow with the picture."""

from __future__ import annotations

import pytest
import torch

from assay.contracts import Class, Image, Signature, Table
from assay.measure import parameter_count
from assay.models.vision.capsules import CapsuleFamily, CapsuleNetwork
from assay.testing import check_model


def test_contract() -> None:
    check_model(CapsuleFamily)


def test_logits_are_log_odds_of_the_class_capsules_lengths() -> None:
    torch.manual_seed(0)
    network = CapsuleNetwork(Signature(Image(1, 8, 8), Class(3)), 2)
    kept: list[torch.Tensor] = []
    network.routing.register_forward_hook(lambda *call: kept.append(call[2]))
    logits = network.predict(torch.randn(5, 1, 8, 8))
    lengths = kept[0].square().sum(-1).sqrt()
    torch.testing.assert_close(logits.sigmoid(), lengths, atol=1e-5, rtol=1e-5)


def test_larger_pictures_need_no_more_parameters() -> None:
    counts = {parameter_count(CapsuleFamily().network(Signature(Image(1, side, side), Class(3)), 2, 0)) for side in (8, 28, 64)}
    assert len(counts) == 1


def test_what_it_cannot_serve_and_bad_sizes_are_refused() -> None:
    family, image = CapsuleFamily(), Image(1, 8, 8)
    assert "Table" in str(family.accepts(Signature(Table(4), Class(2))))
    assert family.accepts(Signature(image, Class(2), multi_label=True))
    with pytest.raises(ValueError, match="got 0 and 32"):
        CapsuleNetwork(Signature(image, Class(2)), 0)
