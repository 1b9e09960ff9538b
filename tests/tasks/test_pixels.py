"""Digits as pixels: the same pictures in the same splits, and one order for all."""

from __future__ import annotations

import torch

from assay.tasks.builtin import digits
from assay.tasks.pixels import pixel_digits


def test_pixels_are_those_of_the_pictures_in_one_order() -> None:
    pictures, plain, shuffled = digits(), pixel_digits(), pixel_digits(permuted=True)
    for split in ("train", "validation", "test"):
        image, series = pictures.batch_of(split, slice(None))["image"], plain.splits[split]["series"]
        assert torch.equal(series.view(-1, 1, 8, 8), image)
        assert torch.equal(plain.splits[split]["target"], shuffled.splits[split]["target"])
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(shuffled.splits["test"]["series"], plain.splits["test"]["series"][:, order])
    assert not torch.equal(order, torch.arange(64))
