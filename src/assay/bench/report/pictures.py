"""Pictures inside the page: a tensor as a PNG in a ``data:`` address."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image as PillowImage
from torch import Tensor

LONGEST_SIDE = 96
"""Pictures are shown at most this large (CSS pixels ×1): some dozens must fit a small page."""


def png_data_uri(image: Tensor) -> str:
    """A picture (channels, height, width), any range of values, as ``data:image/png;base64,…``.

    Values are stretched to 0…255 between the picture's own extremes, as a task hands out standardised numbers. One channel is grey,
    three or more are the first three as red, green and blue; two are shown by the first.

    Raises:
        ValueError: the tensor does not have three dimensions.
    """
    if image.ndim != 3:
        raise ValueError(f"a picture has shape (channels, height, width), got {tuple(image.shape)}")
    values = image.detach().float().cpu().numpy()
    values = values[:3] if len(values) >= 3 else values[:1]
    low, high = float(values.min()), float(values.max())
    bytes_ = np.round((values - low) * (255 / ((high - low) or 1.0))).astype(np.uint8)
    picture = PillowImage.fromarray(bytes_[0] if len(bytes_) == 1 else np.moveaxis(bytes_, 0, -1))
    if max(picture.size) > LONGEST_SIDE:
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), PillowImage.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
