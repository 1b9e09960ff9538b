"""The judgements of the TCNCA claims, on invented measurements; and what they are measured on."""

from __future__ import annotations

import pytest
import torch

from assay.nn.convolution.dilated import receptive_field
from assay.papers import tcnca
from assay.papers.tcnca import LONG, PAPER, VOCABULARIES, Language

CLAIMS = {claim.name: claim for claim in PAPER.claims}


def times(ratios: dict[int, float]) -> dict[int, dict[str, float]]:
    return {length: {"convolutions": length / 1000, "averages": length / 1000 * ratio} for length, ratio in ratios.items()}


def rising(*ratios: float) -> dict[int, float]:
    return dict(zip(tcnca.LENGTHS, ratios, strict=True))


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        (rising(0.5, 0.8, 0.9, 1.1, 1.5, 2.0), "holds"),
        (rising(0.5, 0.8, 0.9, 0.99, 1.5, 2.0), "fails"),  # slower at 2^15
        (rising(3.0, 3.0, 3.0, 3.0, 3.0, 2.5), "fails"),  # faster, but less and less
    ],
)
def test_faster_means_at_every_long_length_and_more_so_with_length(
    monkeypatch: pytest.MonkeyPatch, ratios: dict[int, float], verdict: str
) -> None:
    monkeypatch.setattr(tcnca, "_operators", lambda scale, backward: times(ratios))
    for name in ("operator-forward", "operator-backward"):
        measured = CLAIMS[name].experiment("laptop")
        assert measured.verdict == verdict
        assert measured.values[f"times faster at {2**15}"] == pytest.approx(ratios[2**15])


@pytest.mark.parametrize(("power", "verdict"), [(1.0, "holds"), (1.08, "holds"), (1.15, "fails"), (0.8, "fails")])
def test_linear_is_an_exponent_near_one(monkeypatch: pytest.MonkeyPatch, power: float, verdict: str) -> None:
    found = {length: {"convolutions": length**power, "averages": length**1.1} for length in tcnca.LENGTHS}
    monkeypatch.setattr(tcnca, "_operators", lambda scale, backward: found)
    measured = CLAIMS["linear"].experiment("laptop")
    assert measured.values["exponent of the convolutions"] == pytest.approx(power)
    assert measured.values["exponent of the averages"] == pytest.approx(1.1)
    assert measured.verdict == verdict


@pytest.mark.parametrize(("behind", "verdict"), [(-0.1, "holds"), (0.029, "holds"), (0.031, "fails")])
def test_a_language_model_may_lie_three_hundredths_of_a_bit_behind(monkeypatch: pytest.MonkeyPatch, behind: float, verdict: str) -> None:
    monkeypatch.setattr(
        tcnca, "_language_run", lambda mixer, scale, seed: Language(3.0 + behind * (mixer == "tcnca") + 0.1 * seed, 70_000, 50.0)
    )
    measured = CLAIMS["language"].experiment("laptop")
    assert measured.verdict == verdict
    assert measured.seeds == 3


@pytest.mark.parametrize(("lost", "verdict"), [(2, "holds"), (3, "fails")])
def test_recall_is_judged_by_cells(monkeypatch: pytest.MonkeyPatch, lost: int, verdict: str) -> None:
    worse = {(vocabulary, 64) for vocabulary in VOCABULARIES[:lost]}

    def run(mixer: str, vocabulary: int, length: int, scale: str) -> float:
        return 0.9 - (0.021 if mixer == "tcnca-simple" and (vocabulary, length) in worse else 0.0)

    monkeypatch.setattr(tcnca, "_recall_run", run)
    measured = CLAIMS["recall"].experiment("laptop")
    assert measured.values["cells"] == 9 - lost
    assert measured.verdict == verdict


@pytest.mark.parametrize("name", LONG)
def test_the_convolutions_of_a_classifier_see_as_many_positions_as_it_has(name: str) -> None:
    setting = LONG[name]
    assert receptive_field(**setting.convolutions) > setting.task("smoke").signature.input.length
    assert setting.convolutions["kernel"] % 2 == 1  # they stand around a position


def test_pixels_are_the_digits_in_reading_order() -> None:
    from assay.tasks.builtin import digits

    pixels = LONG["pixels"].task("smoke")
    (series,), (pictures,) = ([next(iter(task.batches("test", 5)))] for task in (pixels, digits()))
    assert series["series"].shape == (5, 64, 1)
    assert torch.equal(series["series"][:, 9, 0], pictures["image"][:, 0, 1, 1])
    assert torch.equal(series["target"], pictures["target"])
