"""`check_mixer`: the mixer contract, rule by rule."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from assay.measure import state_bytes
from assay.testing.rules import CheckFailed, Report, Rule, copied, require, require_close, run_rules, tensors

LENGTHS = (0, 1, 2, 63, 64, 65)
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4}
BATCH = 3


def check_mixer(mixer: Callable[[int], nn.Module], width: int = 8) -> Report:
    """Hold a mixer to its contract: shapes, determinism, masks, and for a causal one streaming in any chunking and no peeking.

    Args:
        mixer: ``mixer(width) -> module``: the class itself, or a function that fixes its options.
        width: numbers per position of the checks' inputs.

    Returns:
        One result a rule, all kept.

    Raises:
        CheckFailed: with every broken rule in plain words, and by how much.
    """
    return mixer_report(mixer, width).raise_if_failed(getattr(mixer, "__name__", "the mixer"))


def mixer_report(mixer: Callable[[int], nn.Module], width: int = 8) -> Report:
    """The rules of `check_mixer`, kept or broken, without raising."""
    checks = _Mixer(mixer, width)
    always: list[Rule] = [
        ("is built from a width", checks.builds),
        ("maps (batch, length, width) to the same shape and type", checks.shapes),
        ("says whether it is causal", checks.says_causal),
        ("gives the same output twice in evaluation", checks.deterministic),
        ("treats the examples of a batch alone", checks.examples_alone),
        ("has finite gradients for input and parameters", checks.gradients),
        ("saves and loads through its state dict", checks.state_dict),
        ("does not read masked positions", checks.masked_unread),
    ]
    report = run_rules(always, fatal=3)
    if len(report) < len(always) or not checks.causal():
        return report
    streaming: list[Rule] = [
        ("scan equals forward", checks.scan_equals_forward),
        ("scan in any chunking equals forward", checks.any_chunking),
        ("step in a loop equals forward", checks.step_loop),
        ("does not peek (by gradient)", checks.no_peeking_by_gradient),
        ("does not peek (by changing later inputs)", checks.no_peeking_by_perturbation),
        ("a masked position leaves the state unchanged", checks.masked_state),
        ("a stream can be continued twice from one state", checks.forks),
        ("its state's bytes can be measured", checks.state_growth),
    ]
    return Report([*report, *run_rules(streaming)])


class _Mixer:
    """The rules, as methods; each builds what it needs afresh."""

    def __init__(self, maker: Callable[[int], nn.Module], width: int) -> None:
        self.maker, self.width = maker, width

    def module(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> Any:
        torch.manual_seed(seed)
        return self.maker(self.width).to(dtype).eval()

    def x(self, length: int, dtype: torch.dtype = torch.float64, batch: int = BATCH) -> Tensor:
        return torch.randn(batch, length, self.width, generator=torch.Generator().manual_seed(length), dtype=torch.float64).to(dtype)

    def causal(self) -> bool:
        return bool(self.module().causal)

    # ---------------------------------------------------------------------------------------- every mixer

    def builds(self) -> str:
        module = self.module()
        require(isinstance(module, nn.Module), f"mixer({self.width}) gave a {type(module).__name__}, not a torch.nn.Module")
        return f"{sum(p.numel() for p in module.parameters())} parameters at width {self.width}"

    def shapes(self) -> str:
        for dtype in TOLERANCES:
            module = self.module(dtype)
            for length in LENGTHS:
                x = self.x(length, dtype)
                y = module(x)
                require(isinstance(y, Tensor), f"forward gave a {type(y).__name__}, not a tensor")
                require(y.shape == x.shape, f"length {length}: input {tuple(x.shape)} gave output {tuple(y.shape)}")
                require(y.dtype == dtype, f"input of {dtype} gave output of {y.dtype}")
                require(bool(torch.isfinite(y).all()), f"length {length}: the output of a finite input is not finite")
        return f"lengths {', '.join(map(str, LENGTHS))}; float32 and float64"

    def says_causal(self) -> str:
        module = self.module()
        if isinstance(getattr(module, "causal", None), bool):
            missing = [name for name in ("initial_state", "scan", "step") if module.causal and not hasattr(module, name)]
            require(
                not missing,
                f"causal = True promises a stream, but {' and '.join(missing)} are missing: subclass assay.nn.StreamingMixer and write "
                "initial_state(batch_size) and scan(x, state, mask), or set causal = False",
            )
            return "causal" if module.causal else "not causal: forward alone"
        if self._sees_the_future(module):
            raise CheckFailed(
                f"{type(module).__name__} has no attribute `causal`. Its outputs depend on later inputs, so it has no stream: write "
                "`causal = False` in the class"
            )
        raise CheckFailed(
            f"{type(module).__name__} has no attribute `causal`. Its outputs do not depend on later inputs, so it can stream: subclass "
            "assay.nn.StreamingMixer and write initial_state(batch_size) and scan(x, state, mask); or write `causal = False` in the class "
            "to do without"
        )

    def _sees_the_future(self, module: nn.Module) -> bool:
        x = self.x(12)
        changed = x.clone()
        changed[:, 6:] += 1
        return not torch.equal(module(x)[:, :6], module(changed)[:, :6])

    def deterministic(self) -> str:
        module, x = self.module(), self.x(20)
        require_close(module(x), module(x), 0.0, "two calls on the same input (dropout left on in evaluation?)")
        return ""

    def examples_alone(self) -> str:
        module, x = self.module(), self.x(20)
        alone = torch.cat([module(example[None]) for example in x])
        require_close(module(x), alone, 1e-10, "a batch and its examples one by one")
        return ""

    def gradients(self) -> str:
        module, x = self.module(), self.x(20).requires_grad_()
        module(x).square().sum().backward()
        require(x.grad is not None, "the output does not depend on the input by any gradient")
        for name, parameter in [("the input", x), *module.named_parameters()]:
            if parameter.grad is not None:
                require(bool(torch.isfinite(parameter.grad).all()), f"the gradient of {name} is not finite")
        unused = [name for name, parameter in module.named_parameters() if parameter.requires_grad and parameter.grad is None]
        require(not unused, f"no gradient reaches {', '.join(unused)}: an unused parameter stops training on several processes")
        return ""

    def state_dict(self) -> str:
        module, other, x = self.module(), self.module(seed=1), self.x(20)
        other.load_state_dict(module.state_dict())
        require_close(other(x), module(x), 0.0, "a second instance with the first's state dict (something learned is not saved?)")
        return ""

    def masked_unread(self) -> str:
        module, x = self.module(), self.x(20)
        self._accepts_mask(module)
        mask = _right_padded(20)
        changed = torch.where(mask[..., None], x, x + 7.0)
        real = module(x, mask)[mask]
        require_close(module(changed, mask)[mask], real, 1e-10, "real positions before and after changing padded inputs")
        alone = [module(example[None, : int(row.sum())])[0] for example, row in zip(x, mask, strict=True)]
        require_close(real, torch.cat(alone), 1e-10, "padded examples and the same examples without padding")
        everything = torch.ones(BATCH, 20, dtype=torch.bool)
        require_close(module(x, everything), module(x), 1e-10, "a mask that is True everywhere and no mask")
        require(bool(torch.isfinite(module(x, ~everything)).all()), "the output is not finite where everything is masked")
        return ""

    def _accepts_mask(self, module: nn.Module) -> None:
        parameters = inspect.signature(module.forward).parameters
        variable = any(parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) for parameter in parameters.values())
        require(
            "mask" in parameters or variable,
            f"forward{tuple(parameters)} takes no mask: write forward(self, x, mask=None), mask (batch, length) with True = real, and "
            "leave out the other positions",
        )

    # ---------------------------------------------------------------------------------------- causal mixers

    def scan_equals_forward(self) -> str:
        worst = {}
        for dtype, tolerance in TOLERANCES.items():
            module = self.module(dtype)
            for length in LENGTHS:
                x = self.x(length, dtype)
                y, _ = module.scan(x, module.initial_state(BATCH))
                error = require_close(y, module(x), tolerance, f"scan and forward at length {length} in {dtype}")
                worst[dtype] = max(worst.get(dtype, 0.0), error)
        return ", ".join(f"{str(dtype).removeprefix('torch.')} within {error:.0e}" for dtype, error in worst.items())

    def any_chunking(self) -> str:
        for dtype, tolerance in TOLERANCES.items():
            module, x = self.module(dtype), self.x(130, dtype)
            expected = module(x)
            for sizes in ((65, 65), (1, 64, 2, 63), (130,), (0, 7, 0, 123), (128, 1, 1)):
                state, parts = module.initial_state(BATCH), []
                for chunk in x.split(list(sizes), 1):
                    y, state = module.scan(chunk, state)
                    parts.append(y)
                require_close(torch.cat(parts, 1), expected, tolerance, f"scan in chunks of {sizes} and forward in {dtype}")
        return ""

    def step_loop(self) -> str:
        for dtype, tolerance in TOLERANCES.items():
            module, x = self.module(dtype), self.x(65, dtype)
            state, parts = module.initial_state(BATCH), []
            for x_t in x.unbind(1):
                y, state = module.step(x_t, state)
                parts.append(y)
            require_close(torch.stack(parts, 1), module(x), tolerance, f"step in a loop and forward in {dtype}")
        return ""

    def no_peeking_by_gradient(self) -> str:
        module, x = self.module(), self.x(30).requires_grad_()
        for position in (0, 13, 28):
            (gradient,) = torch.autograd.grad(module(x)[:, position].sum(), x)
            later = float(gradient[:, position + 1 :].abs().max())
            require(later == 0, f"the output at position {position} has a gradient of {later:.1e} with respect to later inputs")
        return ""

    def no_peeking_by_perturbation(self) -> str:
        module, x = self.module(), self.x(70)
        expected = module(x)
        for position in (0, 31, 63, 68):
            changed = x.clone()
            changed[:, position + 1 :] = 3 * changed[:, position + 1 :].flip(1) + 1
            what = f"outputs up to position {position}, before and after changing later inputs"
            require_close(module(changed)[:, : position + 1], expected[:, : position + 1], 1e-10, what)
        return ""

    def masked_state(self) -> str:
        module, x = self.module(), self.x(40)
        _, state = module.scan(x[:, :10], module.initial_state(BATCH))
        before = copied(state)
        hidden, after = module.scan(x[:, 10:20], state, torch.zeros(BATCH, 10, dtype=torch.bool))
        require(bool(torch.isfinite(hidden).all()), "the output at masked positions is not finite")
        expected, _ = module.scan(x[:, 20:], before)
        found, _ = module.scan(x[:, 20:], after)
        require_close(found, expected, 1e-10, "what follows ten masked positions, and the same without them")
        self._holes(module, x)
        return ""

    def _holes(self, module: Any, x: Tensor) -> None:
        mask = torch.rand(BATCH, 40, generator=torch.Generator().manual_seed(1)) < 0.6
        mask[:, 0] = False
        found, _ = module.scan(x, module.initial_state(BATCH), mask)
        for row in range(BATCH):
            alone = module(x[row : row + 1, mask[row]])[0]
            require_close(found[row, mask[row]], alone, 1e-10, "real positions between masked ones, and the same without the masked ones")
        require_close(module(x, mask)[mask], found[mask], 1e-10, "forward and scan under a mask with holes")

    def forks(self) -> str:
        module, x = self.module(), self.x(30)
        with torch.no_grad():
            _, state = module.scan(x[:, :10], module.initial_state(BATCH))
            first, _ = module.scan(x[:, 10:20], state)
            module.scan(x[:, 20:], state)
            again, _ = module.scan(x[:, 10:20], state)
        require_close(again, first, 0.0, "two continuations of the same state (is the state changed in place?)")
        return ""

    def state_growth(self) -> str:
        module, x, sizes = self.module(torch.float32), self.x(256, torch.float32), {}
        state = module.initial_state(BATCH)
        with torch.no_grad():
            for position, x_t in enumerate(x.unbind(1), start=1):
                _, state = module.step(x_t, state)
                if position in (16, 64, 256):
                    sizes[position] = state_bytes(state) // BATCH
        require(bool(tensors(state)) or not sizes[256], "the state holds no tensors")
        if sizes[16] == sizes[256]:
            return f"constant, {sizes[256]} bytes a stream"
        return f"grows: {', '.join(f'{size} bytes after {position}' for position, size in sizes.items())} positions"


def _right_padded(length: int) -> Tensor:
    lengths = torch.tensor([length, length // 2, 1])
    return torch.arange(length)[None] < lengths[:, None]
