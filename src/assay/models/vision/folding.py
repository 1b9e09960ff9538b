"""Folding batch normalisation into the convolution before it: exact in evaluation, and one operation fewer a layer."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from assay.nn.convolution.unit import BATCH_NORM, CONVOLUTION, ConvolutionUnit

_CONVOLUTIONS = tuple(CONVOLUTION.values())
_NORMS = tuple(BATCH_NORM.values())


def fold_batchnorm(model: nn.Module) -> nn.Module:
    """Fold every batch normalisation that directly follows a convolution, in place.

    With running mean μ, variance σ², scale γ and shift β: ``W ← W·γ/√(σ² + ε)``, ``b ← (b − μ)·γ/√(σ² + ε) + β``. The
    normalisation becomes the identity. Recognised are `ConvolutionUnit` and neighbours in an ``nn.Sequential``, in one dimension or
    two; a pool in between (as in the original SimpleNet) is left alone, because a maximum does not commute with a negative scale.

    Args:
        model: any module; its prediction in evaluation is unchanged up to rounding.

    Returns:
        The same module, to be trained no further: its statistics are frozen in.

    Raises:
        ValueError: there is nothing to fold.
    """
    places = list(foldable(model))
    if not places:
        raise ValueError(f"{type(model).__name__} has no convolution directly followed by batch normalisation")
    for parent, convolution, norm in places:
        before, after = parent.get_submodule(convolution), parent.get_submodule(norm)
        training = before.training
        fused = fuse_conv_bn_eval(before.eval(), after.eval())  # pyright: ignore[reportArgumentType]
        setattr(parent, convolution, fused.train(training))
        setattr(parent, norm, nn.Identity())
    return model


def foldable(model: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """The pairs that `fold_batchnorm` folds: the parent, and its names of the convolution and of the normalisation."""
    for parent in model.modules():
        if isinstance(parent, ConvolutionUnit):
            if isinstance(parent.norm, _NORMS):
                yield parent, "convolution", "norm"
        elif isinstance(parent, nn.Sequential):
            children = list(parent.named_children())
            for (name, child), (next_name, next_child) in pairwise(children):
                if isinstance(child, _CONVOLUTIONS) and isinstance(next_child, _NORMS):
                    yield parent, name, next_name
