"""The integer solver against brute force, and the plans of the recurrent kernel that it makes."""

from __future__ import annotations

import contextlib
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.ops import processor, recurrent_scan_compiled
from assay.ops.constraints import Domain, Problem, parse
from assay.ops.constraints.domain import divisors, domain, prime_factors, values_domain
from assay.ops.processor import Processor
from assay.ops.recurrent_plan import MOST_ROWS, MOST_VECTORS, model, plan

NAMES = ("a", "b", "c")

terms = st.recursive(
    st.sampled_from(NAMES) | st.integers(1, 12).map(str),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+*"), inner).map(lambda parts: f"({parts[0]} {parts[1]} {parts[2]})"),
        inner.map(lambda base: f"({base}) ^ 2"),
    ),
    max_leaves=3,
)
simple = st.one_of(
    st.tuples(terms, st.sampled_from(["<=", ">=", "==", "<", ">"]), terms).map(" ".join),
    st.tuples(terms, terms).map(lambda pair: f"{pair[0]} % {pair[1]} == 0"),
    st.sampled_from(NAMES).map(lambda name: f"{name} == [2, 4, 6]"),
)
constraints = st.recursive(simple, lambda inner: st.tuples(inner, inner).map(lambda pair: f"({pair[0]} | {pair[1]})"), max_leaves=2)


@st.composite
def problems(draw: Any) -> tuple[dict[str, dict[str, Any]], list[str]]:
    options: dict[str, dict[str, Any]] = {}
    for name in NAMES:
        low = draw(st.integers(1, 4))
        options[name] = {
            "low": low,
            "high": draw(st.integers(low, 12)),
            "factor": draw(st.sampled_from([1, 1, 2, 3])),
            "primes": draw(st.sampled_from([None, None, (2,), (2, 3)])),
            "prefer": draw(st.sampled_from(["smallest", "largest"])),
        }
    return options, draw(st.lists(constraints, min_size=1, max_size=3))


def brute_force(options: dict[str, dict[str, Any]], texts: list[str]) -> list[dict[str, int]]:
    """Every solution in the preferred order, by Python's own arithmetic."""
    candidates = []
    for option in options.values():
        values = [v for v in range(option["low"], option["high"] + 1) if v % option["factor"] == 0]
        if option["primes"] is not None:
            values = [v for v in values if all(v % p or p in option["primes"] for p in (2, 3, 5, 7, 11))]
        candidates.append(values[::-1] if option["prefer"] == "largest" else values)
    code = [compile(as_python(text), "constraint", "eval") for text in texts]
    found = (dict(zip(options, values, strict=True)) for values in itertools.product(*candidates))
    return [solution for solution in found if all(eval(one, {}, dict(solution)) for one in code)]


def as_python(text: str) -> str:
    alternatives = text.strip("()").split(" | ") if " | " in text else [text]
    if " | " in text:
        alternatives = text[1:-1].split(" | ")
    turned = [re.sub(r"^(.*) % (.*) == 0$", r"(\1) % (\2) == 0", part).replace("== [", "in [").replace("^", "**") for part in alternatives]
    return " or ".join(turned)


@settings(max_examples=150, deadline=None)
@given(problems())
def test_the_solutions_are_those_of_brute_force_in_the_preferred_order(given_problem: Any) -> None:
    options, texts = given_problem
    expected = brute_force(options, texts)
    for divisibility in (True, False):
        problem = Problem()
        for name, option in options.items():
            problem.variable(name, **option)
        problem.require(*texts)
        if expected:
            assert problem.solve(10_000, divisibility=divisibility) == expected
        else:
            with contextlib.suppress(RuntimeError):  # seen before anything is tried, or only then
                assert problem.solve(10_000, divisibility=divisibility) == []


def test_a_known_problem_by_operators_and_by_text() -> None:
    problem = Problem()
    a, b = problem.variable("A"), problem.variable("B")
    problem.require(a * b == 60, a + b <= 17)
    expected = [{"A": 5, "B": 12}, {"A": 6, "B": 10}, {"A": 10, "B": 6}, {"A": 12, "B": 5}]
    assert problem.solve(10) == expected
    written = Problem()
    for name in "AB":
        written.variable(name)
    written.require("A * B == 60; A + B <= 17  # an area and half a border")
    assert written.solve(10) == expected


def test_a_divisor_of_512_is_one_of_ten_powers_of_two() -> None:
    problem = Problem()
    problem.variable("b")
    problem.require("512 % b == 0")
    assert [solution["b"] for solution in problem.solve(100)] == [2**k for k in range(10)]


def test_solutions_are_different_and_the_search_ends_under_exclusion() -> None:
    """Two failures of the published solver: it repeats a solution, and runs on for ever when one is excluded."""
    problem = Problem()
    problem.variable("a", high=4, prefer="largest")
    found = problem.solve(10)
    assert found == [{"a": 4}, {"a": 3}, {"a": 2}, {"a": 1}]
    assert problem.solve(10, exclude=found[:1]) == found[1:]
    assert problem.solve(1, exclude=found) == []


def test_divisibility_finds_the_same_with_fewer_choices() -> None:
    problem = Problem()
    a, b, c = (problem.variable(name, prefer="largest", high=4096) for name in "abc")
    problem.require(a * b * c == 4096 * 3, (a % b) == 0, (b % c) == 0, b <= 48)
    found = problem.solve(3)
    few = problem.nodes
    assert problem.solve(3, divisibility=False) == found
    assert problem.nodes > 5 * few


def test_the_constraint_that_nothing_meets_is_named() -> None:
    problem = Problem()
    problem.variable("a", high=10)
    problem.require("a <= 5", "a >= 7")
    with pytest.raises(RuntimeError, match=r"unsatisfiable: .*7.*a"):
        problem.solve()


def test_narrowing_alone_knows_factors_and_primes() -> None:
    problem = Problem()
    a, b = problem.variable("a", factor=8), problem.variable("b", primes=(2, 3))
    problem.require(a * 3 <= 1000, (b % a) == 0, b <= 100)
    left = problem.narrowed()
    assert left["a"].values == (8, 16, 24, 32, 48, 64, 72, 96)
    assert all(value in left["b"] for value in (8, 24, 96))
    assert 7 not in left["b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a <= ", "something is missing at character"),
        ("a - b <= 3", "there is no minus and no division at character 3"),
        ("a / 2 == 3", "there is no minus and no division"),
        ("a + b", "a comparison is missing"),
        ("a % b == 1", "a remainder can only be == 0"),
        ("(a + b <= 3", "a closing bracket is missing"),
        ("a == [1, x]", "a list must be integers"),
        ("a ? b", "an unknown character at character 3"),
        ("a <= 0", "positive integers, got 0"),
        ("a ^ b <= 3", "an exponent must be a positive integer"),
    ],
)
def test_text_that_cannot_be_read_says_where(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(text)


def test_brackets_and_precedence() -> None:
    values = {"a": 12, "b": 2, "c": 3}
    assert parse("a % b * c == 0").holds(values)  # 12 % (2 · 3)
    assert parse("2 * (b + c) <= 10").holds(values)
    assert not parse("2 * b + c <= 6").holds(values)
    assert parse("(a <= 3; b <= 3) | c == [3, 5]").holds(values)
    assert parse("b ^ 3 == 8").holds(values)


def test_mistakes_in_python_are_refused() -> None:
    problem = Problem()
    a = problem.variable("a")
    with pytest.raises(ValueError, match="already"):
        problem.variable("a")
    with pytest.raises(ValueError, match="positive"):
        problem.require(a <= -3)
    with pytest.raises(ValueError, match="names b"):
        problem.require("b <= 3")
    with pytest.raises(TypeError, match="neither true nor false"):
        problem.require(1 <= a <= 3)
    with pytest.raises(ValueError, match="prefer"):
        problem.variable("c", prefer="best")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="count"):
        problem.solve(0)


def test_domains() -> None:
    assert prime_factors(360) == {2, 3, 5}
    assert prime_factors(91) == {7, 13}
    assert divisors(12) == (1, 2, 3, 4, 6, 12)
    assert domain(5, 30, 8).values == (8, 16, 24)
    assert (domain(1, 10_000, 4) & domain(1, 10_000, 6)).factor == 12
    assert (domain(1, 10_000, 4) | domain(1, 20_000, 6)) == Domain(4, 19_998, 2)
    assert list(reversed(values_domain((3, 1, 2)))) == [3, 2, 1]
    assert domain(4, 3).empty


# ------------------------------------------------------------------------------------------------ the kernel's plan

SHAPES = [
    (128, 512, 16, 1),
    (32, 128, 16, 8),
    (64, 256, 16, 12),
    (512, 128, 16, 1),
    (7, 28, 3, 2),
    (1, 1, 1, 1),
    (97, 97, 250, 3),
    (768, 3072, 16, 1),
    (192, 768, 1, 1),
]


@pytest.mark.parametrize("cores", [1, 2, 8])
@pytest.mark.parametrize("vectors", [(8, 16), (16, 32)])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_plan_meets_what_the_kernel_needs(shape: tuple[int, int, int, int], vectors: tuple[int, int], cores: int) -> None:
    (depth, columns, batch, heads), (lanes, registers) = shape, vectors
    machine = Processor(cores, 32 * 1024, 1024**2, lanes, registers)
    found = plan(depth, columns, batch, heads, cores, machine)
    assert found.rows * found.vectors + found.vectors + 1 <= registers
    assert found.rows <= min(MOST_ROWS, found.task_rows)
    assert found.vectors <= MOST_VECTORS
    assert found.depth <= depth
    assert found.tasks == heads // found.bundle * -(-batch // found.task_rows)
    assert heads % found.bundle == 0
    assert found.bundle == 1 or 4 * depth * columns * found.bundle <= machine.second_level // 2
    if min(found.task_rows, columns // lanes) >= 4 and columns % (2 * lanes) == 0:  # else nothing but a thin tile may fit
        assert 4 * (found.rows + found.vectors) <= 3 * found.rows * found.vectors
    assert found.tasks % cores == 0 or found.task_rows == 1
    tiles = -(-found.task_rows // found.rows)
    assert tiles == 1 or 4 * found.depth * (found.vectors * lanes + found.rows) <= machine.first_level // 2


def test_a_smaller_cache_makes_smaller_blocks_and_says_what_stays() -> None:
    large, small = (Processor(1, first, second, 16, 32) for first, second in ((48 * 1024, 2 * 1024**2), (16 * 1024, 256 * 1024)))
    assert plan(512, 512, 64, 1, 1, small).depth < plan(512, 512, 64, 1, 1, large).depth
    assert plan(128, 512, 16, 1, 1, large).resident
    assert not plan(128, 512, 16, 1, 1, small).resident


@pytest.mark.skipif(recurrent_scan_compiled.library() is None, reason="there is no C++ compiler")
def test_the_kernel_has_every_tile_that_a_plan_can_ask_for() -> None:
    functions = recurrent_scan_compiled.library()
    assert functions is not None
    registers = functions.recurrent_registers()
    for rows, vectors in itertools.product(range(1, MOST_ROWS + 1), range(1, MOST_VECTORS + 1)):
        assert bool(functions.recurrent_has_tile(rows, vectors)) == (rows * vectors + vectors + 1 <= registers)


def test_plans_are_the_same_without_divisibility() -> None:
    machine = Processor(2, 32 * 1024, 1024**2, 16, 32)
    problem = model(96, 384, 16, 1, 2, machine)
    assert problem.solve() == problem.solve(divisibility=False)


def test_cache_sizes_are_read_as_linux_tells_them(tmp_path: Path) -> None:
    for index, (kind, level, size) in enumerate((("Data", "1", "48K"), ("Instruction", "1", "64K"), ("Unified", "2", "2M"))):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, text in (("type", kind), ("level", level), ("size", size)):
            (folder / name).write_text(text + "\n")
    assert processor._cache_sizes(tmp_path) == {1: 48 * 1024, 2: 2 * 1024**2}
    assert processor._cache_sizes(tmp_path / "none") == {}
