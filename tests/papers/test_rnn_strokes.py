"""The pen strokes' claim: what is read is what was drawn, densities are those of the equations, and the verdict can be either."""

from __future__ import annotations

import unicodedata
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch.distributions import Bernoulli, MultivariateNormal

from assay.contracts import Output
from assay.errors import MissingExtra
from assay.models import family
from assay.models.estimators import ConstantStrokes
from assay.papers import rnn_review, rnn_strokes
from assay.papers.runner import reproduce
from assay.tasks import strokes
from assay.tasks.strokes import SIDE, curve_points, kanji_strokes, simplified

LINE, BENT = "M{x},10c0,10,0,20,0,30", "M40,{x}C60,{x},70,{x},90,{x}c0,5,0,9,0,9"
COMPATIBILITY = "\uf9a8"
"""A second code of 令, U+4EE4."""


def drawing(x: float) -> str:
    """A sign of two strokes that only its x tells from others: down from (x, 10), then right from (40, x) and down."""
    paths = "".join(f'<path id="kvg:s" kvg:type="㇐" d="{stroke.format(x=x)}"/>\n' for stroke in (LINE, BENT))
    return f'<svg width="109" height="109"><g id="kvg:1">{paths}</g></svg>'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Forty signs from 一 on, 令 in both its codes, a sign of another style that must not be read."""
    codes = [*range(0x4E00, 0x4E28), 0x4EE4, ord(COMPATIBILITY)]
    for number, code in enumerate(codes):
        (tmp_path / f"{code:05x}.svg").write_text(drawing(1 + number), encoding="utf-8")
    (tmp_path / "04e00-Kaisho.svg").write_text(drawing(100), encoding="utf-8")
    monkeypatch.setattr(strokes, "kanji_folder", lambda: tmp_path)
    return tmp_path


def first_places(task, split: str) -> list[int]:
    """The x at which each sign of a split begins: its number in the folder, from 1."""
    return (task.splits[split]["target"][:, 0, 0] * task.encoding["scale"] + SIDE / 2).round().int().tolist()


def test_offsets_sum_to_the_sign_and_lifts_end_its_strokes(folder) -> None:
    task = kanji_strokes(longest=8)
    part = task.splits["test"]
    for x, target, mask in zip(first_places(task, "test"), part["target"], part["mask"], strict=True):
        points = (target[mask][:, :2] * task.encoding["scale"]).cumsum(0) + SIDE / 2
        assert points.numpy() == pytest.approx(np.array([[x, 10], [x, 40], [40, x], [90, x], [90, x + 9]]), abs=1e-3)
        assert target[mask][:, 2].tolist() == [0, 1, 0, 0, 1]
        assert not target[~mask].any()


def test_a_position_is_given_the_point_before(folder) -> None:
    part = kanji_strokes(longest=8).splits["train"]
    real = part["mask"][:, 1:, None]
    assert torch.equal(part["series"][:, 1:] * real, part["target"][:, :-1] * real)
    assert torch.equal(part["series"][:, 0], torch.tensor([0.0, 0.0, 1.0]).expand(len(real), 3))


@pytest.mark.parametrize("seed", range(5))
def test_a_sign_is_in_one_split_in_all_its_codes_and_one_style(folder, seed: int) -> None:
    assert unicodedata.normalize("NFKC", COMPATIBILITY) == chr(0x4EE4)
    places = {split: first_places(kanji_strokes(longest=8, seed=seed), split) for split in ("train", "validation", "test")}
    assert sorted(place for found in places.values() for place in found) == list(range(1, 43))
    assert len({split for split, found in places.items() for place in found if place > 40}) == 1


def test_curves_are_read_as_svg_says() -> None:
    """S continues a curve with its control point mirrored, a small letter counts from the curve's start: all are one curve twice."""
    absolute = curve_points("M10,10C10,20,20,30,30,30C40,30,50,20,50,10")
    assert absolute[[0, 8, 16]] == pytest.approx(np.array([[10, 10], [30, 30], [50, 10]]))
    assert absolute[4] == pytest.approx([(10 + 3 * 10 + 3 * 20 + 30) / 8, (10 + 3 * 20 + 3 * 30 + 30) / 8])  # Bernstein's at t = 1/2
    for same in (
        "M10,10c0,10,10,20,20,20s20-10,20-20",
        "m10 10 C10,20 20,30 30,30 S50,20 50,10",
        "M10,10c0,10,10,20,20,20,10,0,20-10,20-20",
    ):
        assert curve_points(same) == pytest.approx(absolute)
    with pytest.raises(ValueError, match="'L'"):
        curve_points("M10,10L20,20")


def test_the_points_kept_stay_within_the_tolerance_of_all() -> None:
    angle = np.linspace(0, 4, 80)
    spiral = np.column_stack([angle * np.cos(angle), angle * np.sin(angle)]) * 10
    kept = simplified(spiral, 1.0)
    assert 3 < len(kept) < 30
    starts, ways = kept[:-1], np.diff(kept, axis=0)
    share = np.clip(np.einsum("pkd,kd->pk", spiral[:, None] - starts, ways) / (ways**2).sum(1), 0, 1)
    distance = np.linalg.norm(spiral[:, None] - starts - share[..., None] * ways, axis=-1).min(1)
    assert distance.max() <= 1.0
    assert len(simplified(np.linspace([0, 0], [9, 3], 20), 0.1)) == 2  # a straight line is its ends


def test_likelihoods_are_a_gaussian_and_a_coin(folder) -> None:
    """One component against PyTorch's own densities; the numbers are logits of the component, mean, log diagonal of L, L below it."""
    task = kanji_strokes(longest=8, components=1)
    batch = next(iter(task.batches("test", 4)))
    prediction = torch.randn(*batch["mask"].shape, 7, generator=torch.Generator().manual_seed(0))
    lower = torch.diag_embed(prediction[..., 4:6].exp())
    lower[..., 1, 0] = prediction[..., 6]
    gaussian = MultivariateNormal(prediction[..., 2:4], precision_matrix=lower @ lower.mT)
    expected = -gaussian.log_prob(batch["target"][..., :2]), -Bernoulli(logits=prediction[..., 0]).log_prob(batch["target"][..., 2])
    for found, wanted in zip(task.likelihoods(prediction, batch), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="is expected"):
        task.likelihoods(prediction[..., :6], batch)


def test_evaluation_and_loss_are_the_mean_over_real_points(folder) -> None:
    task = kanji_strokes(longest=8, components=2)

    def predictor(batch: Any) -> Output:
        return Output(batch["series"] @ torch.ones(3, 13) * 0.1)

    whole = next(iter(task.batches("test", 100)))
    evaluation = task.evaluate(predictor, "test", batch_size=3)
    assert evaluation.metrics["nll"] == pytest.approx(float(task.loss(predictor(whole), whole)), rel=1e-5)
    assert evaluation.metrics["nll"] == pytest.approx(evaluation.metrics["offset_nll"] + evaluation.metrics["lift_nll"])
    assert evaluation.scores.mean() == pytest.approx(evaluation.metrics["nll"])
    spoilt = {**whole, "target": torch.where(whole["mask"][..., None], whole["target"], 1e6)}
    assert torch.equal(task.loss(predictor(spoilt), spoilt), task.loss(predictor(whole), whole))


class Echo:
    """In place of a network: sure of an offset that is the last one plus (1, 0), and of a lift where there was none."""

    def initial_state(self, signs: int) -> None:
        return None

    def step(self, point: torch.Tensor, state: None) -> tuple[torch.Tensor, None]:
        lift = 1e3 * (1 - 2 * point[:, 2:])
        return torch.cat(
            [lift, torch.zeros_like(lift), point[:, :1] + 1, point[:, 1:2], torch.full((len(point), 2), 12.0), 0 * lift], 1
        ), None


def test_what_is_drawn_is_read_back(folder) -> None:
    written = kanji_strokes(longest=8, components=1).sample(Echo(), 2, 4)
    torch.testing.assert_close(written[0, :, 0], torch.arange(1.0, 5.0), atol=1e-3, rtol=0)
    assert written[:, :, 2].tolist() == [[0, 1, 0, 1]] * 2


def test_the_baseline_is_the_likeliest_constant_density(folder) -> None:
    """Its offsets are as likely as scikit-learn says of the mixture it fitted, its lifts as their share says."""
    task = kanji_strokes(longest=8, components=2)
    found = task.evaluate(ConstantStrokes().fit(task, 0), "test").metrics
    train, test = (part["target"][part["mask"]].double().numpy() for part in (task.splits["train"], task.splits["test"]))
    peer = GaussianMixture(2, random_state=0, max_iter=300).fit(train[:, :2])
    assert found["offset_nll"] == pytest.approx(-peer.score(test[:, :2]), rel=1e-4)
    share = (train[:, 2].sum() + 0.5) / (len(train) + 1)
    assert found["lift_nll"] == pytest.approx(-np.where(test[:, 2] == 1, np.log(share), np.log1p(-share)).mean(), rel=1e-4)


def test_who_sees_what_comes_next_is_refused(folder) -> None:
    signature = kanji_strokes(longest=8).signature
    assert "causal" in (family("bilstm").accepts(signature) or "")
    assert family("lstm").accepts(signature) is None


@pytest.mark.parametrize(
    ("mixture", "one", "constant", "verdict"),
    [
        ([0.0, 0.0, 0.0], [-0.2, -0.2, -0.2], -1.0, "holds"),
        ([0.0, 0.0, 0.0], [-0.2, -0.2, -0.05], -1.0, "fails"),  # one seed is too near
        ([0.0, 0.0, 0.0], [-0.2, -0.2, -0.2], 0.5, "fails"),  # what needs no network is likelier
    ],
)
def test_the_mixture_must_be_above_on_every_seed(
    monkeypatch, mixture: list[float], one: list[float], constant: float, verdict: str
) -> None:
    monkeypatch.setattr(rnn_strokes, "kanji_strokes", lambda signs, components: SimpleNamespace(components=components))
    monkeypatch.setattr(rnn_strokes, "_of_network", lambda task, steps, seed: (one if task.components == 1 else mixture)[seed])
    monkeypatch.setattr(rnn_strokes, "_of_constant", lambda task, seed: constant)
    measured = rnn_review._strokes("laptop")
    assert measured.verdict == verdict
    assert measured.seeds == 3


def test_smoke_runs_and_decides_nothing(folder) -> None:
    measured = rnn_review._strokes("smoke")
    assert measured.verdict == "undecided"
    assert len(measured.values) == 4
    assert np.isfinite(list(measured.values.values())).all()


def test_without_the_package_the_claim_names_it(monkeypatch, tmp_path) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(strokes, "distribution", missing)
    row = reproduce("rnn-review", scale="smoke", claims=["strokes"], output=tmp_path).iloc[0]
    assert row["verdict"] == "not-run"
    assert "pip install 'assay[strokes]'" in row["reason"]


def test_the_package_holds_signs() -> None:
    try:
        task = kanji_strokes(signs=100)
    except MissingExtra:
        pytest.skip("kanjivg is not installed")
    assert sum(task.size(split) for split in task.splits) > 90
    target, mask = task.splits["train"]["target"], task.splits["train"]["mask"]
    places = target[..., :2].cumsum(1)[mask] * task.encoding["scale"] + SIDE / 2
    assert places.min() >= 0
    assert places.max() <= SIDE
