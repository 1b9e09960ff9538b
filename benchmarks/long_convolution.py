"""Long convolutions by Fourier transform against PyTorch's direct one, and a streamed token against recomputation; one thread.

Every figure is a ratio of medians from this one run. The rivals take turns, and processor time is taken: with one thread it is the time a
call needs, whatever else the machine does.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from assay.measure import medians
from assay.ops.long_convolution import initial_convolution_state, long_convolution, long_convolution_scan

WIDTH = 64
LENGTHS = (256, 1024, 4096)


def whole(length: int) -> dict[str, float]:
    """Forward, and forward with backward, of a filter as long as the sequence."""
    x, taps = torch.randn(1, length, WIDTH), torch.randn(WIDTH, length)
    arguments = (x.clone().requires_grad_(), taps.clone().requires_grad_())

    def trained(implementation: Any) -> Any:
        return torch.autograd.grad(long_convolution(*arguments, implementation).square().sum(), arguments)

    return medians(
        {
            "fft": lambda: long_convolution(x, taps, "fft"),
            "direct": lambda: long_convolution(x, taps, "direct"),
            "fft, trained": lambda: trained("fft"),
            "direct, trained": lambda: trained("direct"),
        },
        repeats=7 if length <= 1024 else 2,
    )


def streamed(length: int) -> tuple[float, float]:
    """Milliseconds a token, the mean over a stream of that length, and those of convolving three quarters of it at once."""
    x, taps = torch.randn(1, length, WIDTH), torch.randn(WIDTH, length)
    state = initial_convolution_state(1, WIDTH)
    started = time.process_time()
    for x_t in x.split(1, 1):
        _, state = long_convolution_scan(x_t, state, taps)
    token = 1e3 * (time.process_time() - started) / length
    again = medians({"again": lambda: long_convolution(x[:, : 3 * length // 4], taps)}, repeats=9)["again"]
    return token, again


def slope(first: float, last: float, lengths: tuple[int, ...] = LENGTHS) -> float:
    """The exponent of growth with the length."""
    return math.log(last / first) / math.log(lengths[-1] / lengths[0])


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"width {WIDTH}, batch 1, float32, one thread")
    found = {}
    for length in LENGTHS:
        taken = found[length] = whole(length)
        forward, training = taken["direct"] / taken["fft"], taken["direct, trained"] / taken["fft, trained"]
        print(f"  {length:>5} positions: by transform {forward:.1f} × faster than direct; with its gradient {training:.1f} ×", flush=True)
    slopes = {name: slope(found[LENGTHS[0]][name], found[LENGTHS[-1]][name]) for name in ("fft", "direct")}
    print(f"  time grows with length to the power {slopes['fft']:.2f} by transform, {slopes['direct']:.2f} direct")
    tokens = []
    with torch.no_grad():
        for length in LENGTHS:
            token, again = streamed(length)
            tokens.append(token)
            print(
                f"  a token of a stream of {length:>5}: {1e3 * token:.0f} µs, {again / token:.1f} × less than convolving again", flush=True
            )
    print(f"  a token's time grows with length to the power {slope(tokens[0], tokens[-1]):.2f}")


if __name__ == "__main__":
    main()
