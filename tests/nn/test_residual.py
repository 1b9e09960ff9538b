import pytest
import torch
from torch import nn

from assay.nn.residual import ScaledResidual


def test_scale_zero_is_the_identity_on_non_negative_input_and_its_gradient_is_the_relu_mask():
    torch.manual_seed(0)
    unit = ScaledResidual(nn.Conv2d(4, 4, 3, padding=1), scale=0.0)
    x = torch.rand(2, 4, 5, 5)
    assert torch.equal(unit(x), x)
    x = torch.randn(2, 4, 5, 5, requires_grad=True)
    unit(x).sum().backward()
    assert torch.equal(x.grad, (x > 0).float())


def test_scale_one_is_a_plain_residual_block():
    branch = nn.Conv2d(4, 4, 3, padding=1)
    x = torch.randn(2, 4, 5, 5)
    assert torch.allclose(ScaledResidual(branch, scale=1.0)(x), (x + branch(x)).relu())
    assert torch.allclose(ScaledResidual(branch, scale=0.3, activation=None)(x), x + 0.3 * branch(x))


def test_an_in_place_branch_keeps_the_gradient_right():
    # the branch's own in-place ReLU acts on its convolution's output, never on x
    torch.manual_seed(0)
    unit = ScaledResidual(nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Linear(3, 3)), scale=0.5).double()
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit, (x,))


def test_a_learnable_scale_is_one_parameter():
    unit = ScaledResidual(nn.Identity(), scale=0.2, learnable=True)
    unit(torch.ones(1, 2)).sum().backward()
    assert [tuple(p.shape) for p in unit.parameters()] == [()]
    assert unit.scale.grad.item() == pytest.approx(2.0)  # d/ds of two ones each times s


def test_a_branch_that_changes_the_shape_is_refused():
    with pytest.raises(ValueError, match=r"\(1, 4\).*\(1, 3\)"):
        ScaledResidual(nn.Linear(4, 3))(torch.zeros(1, 4))
