import pytest

from assay.papers import gradient_noise


@pytest.mark.parametrize(("test_error", "verdict"), [(0.04, "holds"), (0.06, "fails")])
def test_the_noise_of_question_answering_is_chosen_on_validation(monkeypatch, test_error, verdict):
    """η = 0.3 looks best on test and worst on validation: it must not be taken."""
    errors = {0.0: (0.1, 0.05), 0.01: (0.05, test_error), 0.3: (0.2, 0.01)}
    monkeypatch.setattr(gradient_noise, "_answering_errors", lambda eta, *_: errors[eta])
    assert gradient_noise.question_answering("smoke").verdict == verdict
