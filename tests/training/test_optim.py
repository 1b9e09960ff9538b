import pytest
import torch

from assay.training.optim import RMSpropTF, inception_rmsprop, simplenet_adadelta


def test_two_steps_in_closed_form():
    start, gradients, rate, epsilon = 2.0, (3.0, -1.0), 0.1, 1.0
    parameter = torch.nn.Parameter(torch.tensor([start], dtype=torch.float64))
    driver = RMSpropTF([parameter], lr=rate, alpha=0.9, eps=epsilon)
    expected, square = start, 1.0  # the mean square starts at one, not at zero
    for gradient in gradients:
        parameter.grad = torch.tensor([gradient], dtype=torch.float64)
        driver.step()
        square = 0.9 * square + 0.1 * gradient**2
        expected -= rate * gradient / (square + epsilon) ** 0.5
        assert parameter.item() == pytest.approx(expected, abs=1e-12)


def test_momentum_and_decay_in_closed_form():
    parameter = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    driver = RMSpropTF([parameter], lr=0.1, alpha=0.5, eps=0.5, momentum=0.9, weight_decay=0.1)
    value, square, buffer = 1.0, 1.0, 0.0
    for gradient in (2.0, 0.5, -1.0):
        parameter.grad = torch.tensor([gradient], dtype=torch.float64)
        driver.step()
        g = gradient + 0.1 * value
        square = 0.5 * square + 0.5 * g * g
        buffer = 0.9 * buffer + 0.1 * g / (square + 0.5) ** 0.5
        value -= buffer
        assert parameter.item() == pytest.approx(value, abs=1e-12)


def test_it_is_not_torchs_rmsprop():
    # with epsilon 1 outside the root and a mean square from zero the first step differs
    steps = []
    for maker in (lambda p: RMSpropTF(p, lr=0.1, alpha=0.9, eps=1.0), lambda p: torch.optim.RMSprop(p, lr=0.1, alpha=0.9, eps=1.0)):
        parameter = torch.nn.Parameter(torch.zeros(1))
        parameter.grad = torch.ones(1)
        maker([parameter]).step()
        steps.append(parameter.item())
    assert steps[0] == pytest.approx(-0.1 / 2**0.5)
    assert steps[1] == pytest.approx(-0.1 / (1 + 0.1**0.5))


def test_papers_settings():
    parameter = torch.nn.Parameter(torch.zeros(1))
    group = simplenet_adadelta([parameter]).param_groups[0]
    assert (group["lr"], group["rho"], group["eps"], group["weight_decay"]) == (0.1, 0.9, 1e-3, 1e-3)
    group = inception_rmsprop([parameter]).param_groups[0]
    assert (group["lr"], group["alpha"], group["eps"]) == (0.045, 0.9, 1.0)


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="eps 0"):
        RMSpropTF([torch.nn.Parameter(torch.zeros(1))], eps=0)
