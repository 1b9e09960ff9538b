import pytest

from assay.papers import inception, simplenet
from assay.papers.inception import LossRecorder
from assay.papers.vision_runs import Entrant, Race, glyph_task, training_accuracy


@pytest.mark.slow
@pytest.mark.parametrize("paper", [simplenet.PAPER, inception.PAPER])
def test_published_scale_counts_or_says_why_it_does_not_run(paper):
    assert {claim.experiment("paper").verdict for claim in paper.claims} <= {"holds", "not-run"}


def test_counted_claims_hold():
    assert simplenet.parameters("smoke").values["VGG-16 / SimpleNet"] == pytest.approx(24.05, abs=0.01)
    assert inception.cost("smoke").values["ratio"] == pytest.approx(13.16 / 12.25, abs=0.002)


def test_the_recorder_finds_the_first_step_of_a_smoothed_loss():
    recorder = LossRecorder()
    recorder.losses = [2.0, 0.0, 0.0, 0.0]
    # 2, 1.8, 1.62, 1.458
    assert recorder.steps_to(1.7) == 3
    assert recorder.steps_to(0.1) == 5


def test_a_trained_network_knows_its_training_pictures_and_an_untrained_one_does_not():
    task = glyph_task(64, 64, 16)
    few, many = (Race(3_000, steps, 32, (8e-3,), 1).run(Entrant("mlp"), task, select="last") for steps in (1, 200))
    assert training_accuracy(few, task) < 0.5
    assert training_accuracy(many, task) > 0.9
