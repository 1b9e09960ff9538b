"""Fewer, larger operations for Inception blocks at inference: exact rewritings of a trained network.

Two facts are used. 1×1 convolutions that read the same map are one convolution whose channels are then split. A mean-pool whose
weights sum to one at every place, border included, commutes with a 1×1 convolution and its bias; done first, the convolution leaves
fewer channels to pool, and it can join its siblings.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from assay.models.vision.folding import fold_batchnorm, foldable
from assay.models.vision.inception_blocks import Branches
from assay.nn.convolution.unit import CONVOLUTION, ConvolutionUnit

_CONVOLUTIONS = tuple(CONVOLUTION.values())
_MEANS = (nn.AvgPool1d, nn.AvgPool2d)


def fuse_inception(model: nn.Module) -> nn.Module:
    """Fold all normalisations, then rewrite every group of branches in which two or more begin with a 1×1 convolution; in place.

    Args:
        model: a network with `inception_blocks.Branches` in it; it is put in evaluation mode and can be trained no further.

    Raises:
        ValueError: no group of branches can be fused.
    """
    model.eval()
    if any(True for _ in foldable(model)):
        fold_batchnorm(model)
    fused = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Branches) and sum(_entry(branch) is not None for branch in child.branches) > 1:
                setattr(parent, name, FusedBranches(child))
                fused += 1
    if not fused:
        raise ValueError(f"{type(model).__name__} has no branches with two or more 1×1 convolutions on one map")
    return model


def commute_mean_pool(branch: nn.Sequential) -> nn.Sequential:
    """Mean-pool → folded 1×1 unit, rewritten as 1×1 convolution → mean-pool → activation.

    Raises:
        ValueError: the branch is something else, or the pool counts the padding (then a bias would not commute at the border).
    """
    if not _commutes(branch):
        raise ValueError("the branch must be a mean-pool with stride 1 that leaves out the padding, then a folded 1×1 convolution unit")
    pool, unit = branch
    assert isinstance(unit, ConvolutionUnit)
    return nn.Sequential(unit.convolution, pool, unit.activation)


class FusedBranches(nn.Module):
    """`Branches` whose 1×1 entries are one convolution: ``[z₁, …, zₙ] = split(W ∗ x + b)``, then each branch goes on from its zᵢ.

    Args:
        block: folded branches, in evaluation; their order of concatenation is kept.
    """

    def __init__(self, block: Branches) -> None:
        super().__init__()
        entries = [_entry(branch) for branch in block.branches]
        self.entry = _join([entry for entry in entries if entry is not None])
        self.widths = [entry.out_channels for entry in entries if entry is not None]
        self.from_entry = [entry is not None for entry in entries]
        self.branches = nn.ModuleList(
            branch if entry is None else _after_entry(branch) for branch, entry in zip(block.branches, entries, strict=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inputs, …) to (batch, sum of the branches' channels, …)."""
        parts = iter(self.entry(x).split(self.widths, 1))
        places = zip(self.branches, self.from_entry, strict=True)
        return torch.cat([branch(next(parts) if fused else x) for branch, fused in places], 1)


def _entry(branch: nn.Module) -> nn.Conv1d | nn.Conv2d | None:
    """The 1×1 convolution that a branch can begin with, if it can."""
    steps = _steps(branch)
    unit = steps[1] if _commutes(branch) else steps[0]
    if not isinstance(unit, ConvolutionUnit) or not isinstance(unit.norm, nn.Identity):
        return None
    convolution = unit.convolution
    return convolution if set(convolution.kernel_size) == {1} and set(convolution.stride) == {1} else None


def _after_entry(branch: nn.Module) -> nn.Module:
    """What is left of a branch once its 1×1 convolution is done."""
    if _commutes(branch):
        assert isinstance(branch, nn.Sequential)
        return commute_mean_pool(branch)[1:]
    unit, *rest = _steps(branch)
    assert isinstance(unit, ConvolutionUnit)
    return nn.Sequential(unit.activation, *rest)


def _steps(branch: nn.Module) -> list[nn.Module]:
    return list(branch) if isinstance(branch, nn.Sequential) and len(branch) else [branch]


def _commutes(branch: nn.Module) -> bool:
    if not isinstance(branch, nn.Sequential) or len(branch) != 2:
        return False
    pool, unit = branch
    if not isinstance(pool, _MEANS) or not isinstance(unit, ConvolutionUnit):
        return False
    pointwise = set(unit.convolution.kernel_size) == {1} and set(unit.convolution.stride) == {1}
    return pointwise and isinstance(unit.norm, nn.Identity) and not pool.count_include_pad and pool.stride in (1, (1,), (1, 1))


def _join(convolutions: list[nn.Conv1d | nn.Conv2d]) -> nn.Module:
    """Convolutions of one input as one, their output channels in order."""
    first = convolutions[0]
    joined = type(first)(first.in_channels, sum(part.out_channels for part in convolutions), 1)
    biases = [part.weight.new_zeros(part.out_channels) if part.bias is None else part.bias for part in convolutions]
    joined = joined.to(first.weight)
    with torch.no_grad():
        joined.weight.copy_(torch.cat([part.weight for part in convolutions]))
        assert joined.bias is not None
        joined.bias.copy_(torch.cat(biases))
    return joined.eval()
