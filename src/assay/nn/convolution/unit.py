"""Convolution, batch normalisation, ReLU, dropout: the unit of the plain and the branching image networks, in one or two dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

Padding = Literal["same", "valid"]

CONVOLUTION: dict[int, type[nn.Conv1d] | type[nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}
BATCH_NORM: dict[int, type[nn.BatchNorm1d] | type[nn.BatchNorm2d]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}
CHANNEL_DROPOUT: dict[int, type[nn.Dropout1d] | type[nn.Dropout2d]] = {1: nn.Dropout1d, 2: nn.Dropout2d}
MAX_POOL: dict[int, type[nn.MaxPool1d] | type[nn.MaxPool2d]] = {1: nn.MaxPool1d, 2: nn.MaxPool2d}


class ConvolutionUnit(nn.Module):
    """A convolution with what follows it: ``y = dropout(relu(norm(W ∗ x + b)))``.

    In one dimension a kernel of two sizes becomes the larger of them, so that a factorised pair (1, 7), (7, 1) stays a pair of
    filters along the one axis there is.

    Args:
        inputs: channels of x; x is (batch, inputs, height, width), or (batch, inputs, length).
        outputs: channels of y.
        kernel: one size, or (height, width).
        stride: of the convolution.
        padding: ``"same"`` pads kernel // 2 on each side, ``"valid"`` not at all.
        bias: whether the convolution has one.
        normalise: whether batch normalisation follows.
        epsilon: added to the variance.
        momentum: share of the newest batch in the running statistics.
        activate: whether a ReLU follows.
        dropout: probability of dropping a whole channel.
        dimensions: 1 or 2.

    Raises:
        ValueError: an argument is out of range; in training, a channel has a single value, of which no variance can be taken.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | Sequence[int],
        stride: int = 1,
        padding: Padding = "same",
        *,
        bias: bool = False,
        normalise: bool = True,
        epsilon: float = 1e-5,
        momentum: float = 0.1,
        activate: bool = True,
        dropout: float = 0.0,
        dimensions: int = 2,
    ) -> None:
        super().__init__()
        sizes = kernel_sizes(kernel, dimensions)
        if padding not in ("same", "valid"):
            raise ValueError(f"padding must be 'same' or 'valid', got {padding!r}")
        margins = tuple(size // 2 for size in sizes) if padding == "same" else (0,) * dimensions
        self.convolution = CONVOLUTION[dimensions](inputs, outputs, sizes, stride, margins, bias=bias)  # pyright: ignore[reportArgumentType]
        self.norm = BATCH_NORM[dimensions](outputs, eps=epsilon, momentum=momentum) if normalise else nn.Identity()
        self.activation = nn.ReLU() if activate else nn.Identity()
        self.dropout = CHANNEL_DROPOUT[dimensions](dropout) if dropout else nn.Identity()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inputs, …) to (batch, outputs, …)."""
        x = self.convolution(x)
        if self.training:
            require_variance(x)
        return self.dropout(self.activation(self.norm(x)))


def require_variance(x: Tensor) -> None:
    """Say plainly that batch normalisation cannot train on one value a channel.

    Raises:
        ValueError: x (batch, channels, …) has one value a channel.
    """
    if x.shape[0] * x[0, 0].numel() == 1:
        raise ValueError("batch normalisation cannot train on one example with a 1×1 map: use two examples, a larger picture, or eval()")


def kernel_sizes(kernel: int | Sequence[int], dimensions: int) -> tuple[int, ...]:
    """One kernel size for each dimension.

    Raises:
        ValueError: dimensions is not 1 or 2, or the kernel has another number of sizes than two.
    """
    if dimensions not in CONVOLUTION:
        raise ValueError(f"dimensions must be 1 or 2, got {dimensions}")
    pair = (kernel, kernel) if isinstance(kernel, int) else tuple(kernel)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"kernel must be a size or (height, width), each at least 1, got {kernel!r}")
    return pair if dimensions == 2 else (max(pair),)
