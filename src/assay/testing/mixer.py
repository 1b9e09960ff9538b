"""`check_mixer`: the mixer contract, rule by rule."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from assay.errors import described
from assay.measure import state_bytes
from assay.nn.mixer import StreamingMixer
from assay.testing.rules import CheckFailed, Report, Rule, copied, require, require_close, run_rules, tensors

LENGTHS = (0, 1, 2, 63, 64, 65)
LONG = 1000
TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-4}
BFLOAT16_BOUND = 0.05
"""Root mean square of what bfloat16 changes, relative to that of the output: some dozen roundings of 2⁻⁸ in a row."""
BATCH = 3
VOCABULARY = 7
RELATIONS = 3
KNOWN_INPUTS = ("tokens", "relation")


def check_mixer(mixer: Callable[[int], nn.Module], width: int = 8) -> Report:
    """Hold a mixer to its contract: shapes, determinism, masks, and for a causal one streaming in any chunking and no peeking.

    A mixer whose attribute ``inputs`` names ``tokens`` is given random identities (batch, length) of a small vocabulary as that keyword,
    (batch,) in a step; they are changed wherever x is. One that names ``relation`` is given small integers (batch, length, length), and
    only its ``forward`` is checked. In bfloat16 the output may change by 5 %, root mean square, or by what the mixer states in its
    attribute ``bfloat16_bound``. One whose attribute ``length`` is below 1,000 is read no longer sequences than that.

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
        ("computes in bfloat16", checks.bfloat16),
    ]
    report = run_rules(always, fatal=3)
    if len(report) < len(always) or not checks.causal() or "relation" in checks.inputs():
        return report  # a relation of the whole sequence is not there in a stream
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


@dataclass(frozen=True)
class _Sequence:
    """What a mixer reads: x (batch, length, width) and its further inputs, cut and changed together."""

    x: Tensor
    more: Mapping[str, Tensor] = field(default_factory=dict)

    def examples(self, index: Any) -> _Sequence:
        return _Sequence(self.x[index], {name: value[index] for name, value in self.more.items()})

    def positions(self, index: Any) -> _Sequence:
        """The positions of a slice or of a boolean vector; of a relation, rows and columns."""
        cut = {name: value[:, index][:, :, index] if name == "relation" else value[:, index] for name, value in self.more.items()}
        return _Sequence(self.x[:, index], cut)

    def at(self, position: int) -> _Sequence:
        """One position, as `step` reads it."""
        return _Sequence(self.x[:, position], {name: value[:, position] for name, value in self.more.items()})

    def changed(self, where: Tensor) -> _Sequence:
        """Other values at the positions that ``where`` (batch, length) marks, large enough to show."""
        more = {}
        for name, value in self.more.items():
            marked = where[:, :, None] | where[:, None, :] if name == "relation" else where
            more[name] = torch.where(marked, (value + 1) % (RELATIONS if name == "relation" else VOCABULARY), value)
        return _Sequence(torch.where(where[..., None], 3 * self.x.flip(1) + 1, self.x), more)

    def split(self, sizes: tuple[int, ...]) -> list[_Sequence]:
        ends = torch.tensor(sizes).cumsum(0).tolist()
        return [self.positions(slice(end - size, end)) for end, size in zip(ends, sizes, strict=True)]


class _Mixer:
    """The rules, as methods; each builds what it needs afresh.

    Most rules compare with the whole sequence read at once, which is computed once a length and type. Rules run with gradients in float64
    and without them in float32, so that what a mixer does for the sake of either is seen.
    """

    def __init__(self, maker: Callable[[int], nn.Module], width: int) -> None:
        self.maker, self.width = maker, width
        self._wholes: dict[tuple[int, torch.dtype], Any] = {}
        self._inputs: tuple[str, ...] | None = None

    def module(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> Any:
        torch.manual_seed(seed)
        return self.maker(self.width).to(dtype).eval()

    def inputs(self) -> tuple[str, ...]:
        if self._inputs is None:
            self._inputs = tuple(getattr(self.module(), "inputs", ()))
        return self._inputs

    def whole(self, length: int, dtype: torch.dtype = torch.float64) -> Any:
        """What forward makes of `sequence`, without gradients."""
        if (length, dtype) not in self._wholes:
            sequence = self.sequence(length, dtype)
            try:
                with torch.no_grad():
                    self._wholes[length, dtype] = _forward(self.module(dtype), sequence)
            except Exception as error:
                raise CheckFailed(f"forward of shape {tuple(sequence.x.shape)} raised {described(error)}") from error
        return self._wholes[length, dtype]

    def sequence(self, length: int, dtype: torch.dtype = torch.float64) -> _Sequence:
        generator = torch.Generator().manual_seed(length)
        x = torch.randn(BATCH, length, self.width, generator=generator, dtype=torch.float64).to(dtype)
        more = {
            "tokens": torch.randint(VOCABULARY, (BATCH, length), generator=generator),
            "relation": torch.randint(RELATIONS, (BATCH, length, length), generator=generator),
        }
        return _Sequence(x, {name: more[name] for name in self.inputs()})

    def causal(self) -> bool:
        return bool(self.module().causal)

    # ---------------------------------------------------------------------------------------- every mixer

    def builds(self) -> str:
        module = self.module()
        require(isinstance(module, nn.Module), f"mixer({self.width}) gave a {type(module).__name__}, not a torch.nn.Module")
        unknown = [name for name in getattr(module, "inputs", ()) if name not in KNOWN_INPUTS]
        require(not unknown, f"inputs names {', '.join(unknown)}: a mixer may ask for {' or '.join(KNOWN_INPUTS)} beside x")
        return f"{sum(p.numel() for p in module.parameters())} parameters at width {self.width}"

    def shapes(self) -> str:
        for dtype in TOLERANCES:
            module = self.module(dtype)
            for length in _lengths(module, dtype):
                y, shape = self.whole(length, dtype), (BATCH, length, self.width)
                require(isinstance(y, Tensor), f"forward gave a {type(y).__name__}, not a tensor")
                require(y.shape == shape, f"length {length}: input {shape} gave output {tuple(y.shape)}")
                require(y.dtype == dtype, f"input of {dtype} gave output of {y.dtype}")
                require(bool(torch.isfinite(y).all()), f"length {length}: the output of a finite input is not finite")
        return f"lengths {', '.join(map(str, LENGTHS))}; float32 (also {LONG}) and float64"

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
        sequence = self.sequence(12)
        changed = sequence.changed(_from_position(6, 12))
        return not torch.equal(_forward(module, sequence)[:, :6], _forward(module, changed)[:, :6])

    def deterministic(self) -> str:
        module, sequence = self.module(), self.sequence(20)
        what = "two calls on the same input (dropout left on in evaluation?)"
        require_close(_forward(module, sequence), _forward(module, sequence), 0.0, what)
        return ""

    def examples_alone(self) -> str:
        module, sequence = self.module(), self.sequence(20)
        with torch.no_grad():
            alone = torch.cat([_forward(module, sequence.examples(slice(row, row + 1))) for row in range(BATCH)])
        require_close(self.whole(20), alone, 1e-10, "a batch and its examples one by one")
        return ""

    def gradients(self) -> str:
        module, sequence = self.module(), self.sequence(20)
        sequence.x.requires_grad_()
        _forward(module, sequence).square().sum().backward()
        require(sequence.x.grad is not None, "the output does not depend on the input by any gradient")
        for name, parameter in [("the input", sequence.x), *module.named_parameters()]:
            if parameter.grad is not None:
                require(bool(torch.isfinite(parameter.grad).all()), f"the gradient of {name} is not finite")
        unused = [name for name, parameter in module.named_parameters() if parameter.requires_grad and parameter.grad is None]
        require(not unused, f"no gradient reaches {', '.join(unused)}: an unused parameter stops training on several processes")
        return ""

    def state_dict(self) -> str:
        module, other, sequence = self.module(), self.module(seed=1), self.sequence(20)
        other.load_state_dict(module.state_dict())
        what = "a second instance with the first's state dict (something learned is not saved?)"
        require_close(_forward(other, sequence), _forward(module, sequence), 0.0, what)
        return ""

    def masked_unread(self) -> str:
        module, sequence = self.module(), self.sequence(20)
        self._accepts_mask(module)
        mask = _right_padded(20)
        real = _forward(module, sequence, mask)[mask]
        changed = _forward(module, sequence.changed(~mask), mask)[mask]
        require_close(changed, real, 1e-10, "real positions before and after changing padded inputs")
        rows = [sequence.examples(slice(row, row + 1)).positions(slice(0, int(mask[row].sum()))) for row in range(BATCH)]
        alone = torch.cat([_forward(module, row)[0] for row in rows])
        require_close(real, alone, 1e-10, "padded examples and the same examples without padding")
        everything = torch.ones(BATCH, 20, dtype=torch.bool)
        whole = _forward(module, sequence)
        require_close(_forward(module, sequence, everything), whole, 1e-10, "a mask that is True everywhere and no mask")
        nothing = _forward(module, sequence, ~everything)
        require(bool(torch.isfinite(nothing).all()), "the output is not finite where everything is masked")
        return ""

    def _accepts_mask(self, module: nn.Module) -> None:
        parameters = inspect.signature(module.forward).parameters
        variable = any(parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) for parameter in parameters.values())
        require(
            "mask" in parameters or variable,
            f"forward{tuple(parameters)} takes no mask: write forward(self, x, mask=None), mask (batch, length) with True = real, and "
            "leave out the other positions",
        )

    def bfloat16(self) -> str:
        module, worst = self.module(torch.float32), 0.0
        low = self.module(torch.float32).to(torch.bfloat16)
        for length in (LENGTHS[-1], _longest(module)):
            expected = self.whole(length, torch.float32)
            with torch.no_grad():
                found = _forward(low, self.sequence(length, torch.bfloat16))
            require(found.dtype == torch.bfloat16, f"input of bfloat16 gave output of {found.dtype}")
            require(bool(torch.isfinite(found).all()), f"length {length}: the output is not finite in bfloat16")
            error = (found.float() - expected).square().mean().sqrt() / expected.square().mean().sqrt().clamp(min=1e-12)
            worst = max(worst, float(error))
        bound = getattr(module, "bfloat16_bound", BFLOAT16_BOUND)
        require(worst <= bound, f"bfloat16 changes {worst:.1%} of the output (root mean square), allowed is {bound:.0%}")
        return f"within {worst:.1%} of float32"

    # ---------------------------------------------------------------------------------------- causal mixers

    def scan_equals_forward(self) -> str:
        worst = {}
        for dtype, tolerance in TOLERANCES.items():
            module = self.module(dtype)
            # an inherited forward is the scan from the initial state
            inherited = isinstance(module, StreamingMixer) and type(module).forward is StreamingMixer.forward
            for length in (LENGTHS[-1],) if inherited else _lengths(module, dtype):
                with torch.no_grad():
                    y, _ = _scan(module, self.sequence(length, dtype))
                error = require_close(y, self.whole(length, dtype), tolerance, f"scan and forward at length {length} in {dtype}")
                worst[dtype] = max(worst.get(dtype, 0.0), error)
        return ", ".join(f"{str(dtype).removeprefix('torch.')} within {error:.0e}" for dtype, error in worst.items())

    def any_chunking(self) -> str:
        chunkings = ((1, 64, 2, 63), (128, 1, 1), (65, 65), (0, 7, 0, 123))
        for dtype, tolerance in TOLERANCES.items():
            module, sequence = self.module(dtype), self.sequence(130, dtype)
            exact = dtype == torch.float64
            for sizes in chunkings if exact else chunkings[:2]:
                state, parts = module.initial_state(BATCH), []
                with torch.set_grad_enabled(exact):
                    for chunk in sequence.split(sizes):
                        y, state = _scan(module, chunk, state)
                        parts.append(y)
                require_close(torch.cat(parts, 1), self.whole(130, dtype), tolerance, f"scan in chunks of {sizes} and forward in {dtype}")
        return ""

    def step_loop(self) -> str:
        for dtype, tolerance in TOLERANCES.items():
            module, sequence = self.module(dtype), self.sequence(65, dtype)
            state, parts = module.initial_state(BATCH), []
            with torch.set_grad_enabled(dtype == torch.float64):
                for position in range(65):
                    y, state = _step(module, sequence, position, state)
                    parts.append(y)
            require_close(torch.stack(parts, 1), self.whole(65, dtype), tolerance, f"step in a loop and forward in {dtype}")
        return ""

    def no_peeking_by_gradient(self) -> str:
        module, sequence = self.module(), self.sequence(30)
        sequence.x.requires_grad_()
        y = _forward(module, sequence)
        for position in (0, 13, 28):
            (gradient,) = torch.autograd.grad(y[:, position].sum(), sequence.x, retain_graph=True)
            later, most = float(gradient[:, position + 1 :].abs().max()), float(gradient.abs().max())
            # A Fourier transform leaves the rounding of all positions in each; what truly looks ahead is far above it.
            found = f"the output at position {position} has a gradient of {later:.1e} with respect to later inputs"
            require(later <= 1e-13 * max(most, 1.0), found)
        return ""

    def no_peeking_by_perturbation(self) -> str:
        module, sequence = self.module(), self.sequence(70)
        expected = self.whole(70)
        for position in (0, 31, 63, 68):
            with torch.no_grad():
                changed = _forward(module, sequence.changed(_from_position(position + 1, 70)))
            what = f"outputs up to position {position}, before and after changing later inputs"
            require_close(changed[:, : position + 1], expected[:, : position + 1], 1e-10, what)
        return ""

    def masked_state(self) -> str:
        module, sequence = self.module(), self.sequence(40)
        first, middle, last = sequence.split((10, 10, 20))
        _, state = _scan(module, first)
        before = copied(state)
        hidden, after = _scan(module, middle, state, torch.zeros(BATCH, 10, dtype=torch.bool))
        require(bool(torch.isfinite(hidden).all()), "the output at masked positions is not finite")
        expected, _ = _scan(module, last, before)
        found, _ = _scan(module, last, after)
        require_close(found, expected, 1e-10, "what follows ten masked positions, and the same without them")
        self._holes(module, sequence)
        return ""

    def _holes(self, module: Any, sequence: _Sequence) -> None:
        mask = torch.rand(BATCH, 40, generator=torch.Generator().manual_seed(1)) < 0.6
        mask[:, 0] = False
        found, _ = _scan(module, sequence, mask=mask)
        for row in range(BATCH):
            alone = _forward(module, sequence.examples(slice(row, row + 1)).positions(mask[row]))[0]
            require_close(found[row, mask[row]], alone, 1e-10, "real positions between masked ones, and the same without the masked ones")
        require_close(_forward(module, sequence, mask)[mask], found[mask], 1e-10, "forward and scan under a mask with holes")

    def forks(self) -> str:
        module = self.module()
        first, second, third = self.sequence(30).split((10, 10, 10))
        with torch.no_grad():
            _, state = _scan(module, first)
            once, _ = _scan(module, second, state)
            _scan(module, third, state)
            again, _ = _scan(module, second, state)
        require_close(again, once, 0.0, "two continuations of the same state (is the state changed in place?)")
        return ""

    def state_growth(self) -> str:
        module, sequence, sizes = self.module(torch.float32), self.sequence(256, torch.float32), {}
        state = module.initial_state(BATCH)
        with torch.no_grad():
            for position, chunk in zip((16, 64, 256), sequence.split((16, 48, 192)), strict=True):
                _, state = _scan(module, chunk, state)
                sizes[position] = state_bytes(state) // BATCH
        require(bool(tensors(state)) or not sizes[256], "the state holds no tensors")
        if sizes[16] == sizes[256]:
            return f"constant, {sizes[256]} bytes a stream"
        return f"grows: {', '.join(f'{size} bytes after {position}' for position, size in sizes.items())} positions"


def _lengths(module: nn.Module, dtype: torch.dtype) -> tuple[int, ...]:
    return (*LENGTHS, _longest(module)) if dtype == torch.float32 else LENGTHS


def _longest(module: nn.Module) -> int:
    """A mixer that is made for sequences up to a length says so in its attribute ``length``."""
    return min(LONG, getattr(module, "length", LONG))


def _forward(module: Any, sequence: _Sequence, mask: Tensor | None = None) -> Tensor:
    return module(sequence.x, mask, **sequence.more) if mask is not None else module(sequence.x, **sequence.more)


def _scan(module: Any, sequence: _Sequence, state: Any = None, mask: Tensor | None = None) -> tuple[Tensor, Any]:
    state = module.initial_state(BATCH) if state is None else state
    return module.scan(sequence.x, state, mask, **sequence.more)


def _step(module: Any, sequence: _Sequence, position: int, state: Any) -> tuple[Tensor, Any]:
    one = sequence.at(position)
    return module.step(one.x, state, **one.more)


def _from_position(start: int, length: int) -> Tensor:
    return (torch.arange(length) >= start).expand(BATCH, length)


def _right_padded(length: int) -> Tensor:
    lengths = torch.tensor([length, length // 2, 1])
    return torch.arange(length)[None] < lengths[:, None]
