import pytest
import torch

from assay.bench.crops import crop_logits, views
from assay.bench.ensembles import ensemble_logits
from assay.contracts import Output


def test_numbers_and_sizes_of_crops():
    pictures = torch.randn(2, 3, 20, 26)
    for count in (1, 10, 12, 144):
        made = list(views(pictures, 14, count))
        assert len(made) == count
        assert {tuple(view.shape) for view in made} == {(2, 3, 14, 14)}


def test_ten_crops_are_corners_centre_and_their_mirror_images():
    pictures = torch.arange(36.0).view(1, 1, 6, 6)
    made = list(views(pictures, 4, 10))
    assert [int(view[0, 0, 0, 0]) for view in made[::2]] == [0, 2, 12, 14, 7]
    for plain, mirrored in zip(made[::2], made[1::2], strict=True):
        assert torch.equal(plain.flip(3), mirrored)
    assert torch.equal(next(iter(views(pictures, 4, 1))), pictures[..., 1:5, 1:5])


def test_twelve_crops_add_the_whole_picture_resized():
    constant = torch.full((1, 1, 8, 8), 3.0)
    *_, whole, mirrored = views(constant, 4, 12)
    assert torch.allclose(whole, torch.full((1, 1, 4, 4), 3.0))
    assert torch.equal(whole.flip(3), mirrored)
    # at the crop's own size the whole picture is the picture
    picture = torch.randn(1, 1, 4, 4)
    assert torch.equal(list(views(picture, 4, 12))[-2], picture)


def test_crops_average_probabilities():
    pictures = torch.randn(3, 1, 6, 6)
    weight = torch.randn(16, 5)

    def logits(x):
        return x.flatten(1) @ weight

    expected = torch.stack([logits(view).softmax(1) for view in views(pictures, 4, 10)]).mean(0)
    assert torch.allclose(crop_logits(logits, pictures, 4, 10).exp(), expected, atol=1e-6)


def test_wrong_crops_are_refused():
    with pytest.raises(ValueError, match="11"):
        list(views(torch.zeros(1, 1, 8, 8), 4, 11))
    with pytest.raises(ValueError, match="smaller"):
        list(views(torch.zeros(1, 1, 8, 3), 4, 1))


def test_an_ensemble_of_one_is_the_model_and_the_order_does_not_matter():
    x = torch.randn(4, 6)
    models = [torch.nn.Linear(6, 3) for _ in range(3)]
    one = ensemble_logits(models[:1], x)
    assert torch.allclose(one, models[0](x).log_softmax(1), atol=1e-6)
    for mode in ("softmax_mean", "logit_mean"):
        assert torch.allclose(ensemble_logits(models, x, mode), ensemble_logits(models[::-1], x, mode), atol=1e-6)
    expected = torch.stack([model(x).softmax(1) for model in models]).mean(0)
    assert torch.allclose(ensemble_logits(models, x).softmax(1), expected, atol=1e-6)
    outputs = [lambda batch, model=model: Output(model(batch["table"])) for model in models]
    assert torch.allclose(ensemble_logits(outputs, {"table": x}), ensemble_logits(models, x))


def test_members_must_agree():
    with pytest.raises(ValueError, match="different shapes"):
        ensemble_logits([torch.nn.Linear(2, 3), torch.nn.Linear(2, 4)], torch.zeros(1, 2))
    with pytest.raises(ValueError, match="needs a model"):
        ensemble_logits([], torch.zeros(1, 2))
