import pytest
import torch
from torch import nn

from assay.compression.fold import Fold
from assay.contracts import Class, Image, Signature, Table
from assay.models import build, load, parameter_count, save
from assay.tasks.base import ArrayTask


def task_of(signature, **inputs):
    target = torch.arange(12) % 3
    return ArrayTask("tiny", signature, {split: inputs | {"target": target} for split in ("train", "validation", "test")})


def shaken(model):
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


@pytest.mark.parametrize("name", ["simplenet", "inception-resnet-v1", "resnet"])
def test_a_folded_model_reloads_from_its_folder_and_predicts_the_same(name, tmp_path):
    signature = Signature(Image(1, 8, 8), Class(3))
    task = task_of(signature, image=torch.randn(12, 1, 8, 8))
    model = shaken(build(name, signature, parameters=8_000))
    before = model({"image": task.splits["test"]["image"]}).prediction.detach()
    folded, trail = Fold()(model, task, {"latency": 0.5})
    save(folded, tmp_path)
    assert folded.config["edits"] == [{"edit": "fold"}]
    again = load(tmp_path)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in again.modules())
    after = again({"image": task.splits["test"]["image"]}).prediction
    assert torch.allclose(after, before, atol=1e-4 * float(before.abs().max()))
    assert [point.measures["parameters"] for point in trail] == [parameter_count(model), parameter_count(folded)]
    assert trail[1].measures["accuracy"] == trail[0].measures["accuracy"]
    assert trail[1].measures["difference"] < 1e-4
    # the model that was given is left as it was
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert torch.equal(model({"image": task.splits["test"]["image"]}).prediction, before)


def test_a_model_without_normalisation_is_refused():
    signature = Signature(Table(4), Class(3))
    with pytest.raises(ValueError, match="no convolution"):
        Fold()(build("mlp", signature, 500), task_of(signature, table=torch.randn(12, 4)), {})
