import pytest
import torch

from assay.tasks.synthetic.glyphs import glyphs


def test_the_same_arguments_give_the_same_pictures_and_another_seed_others():
    first, second, other = (glyphs(12, 4, 4, size=16, seed=seed) for seed in (3, 3, 4))
    for split in ("train", "validation", "test"):
        assert torch.equal(first.splits[split]["image"], second.splits[split]["image"])
    assert not torch.equal(first.splits["train"]["image"], other.splits["train"]["image"])
    # the splits are drawn apart
    assert not torch.equal(first.splits["validation"]["image"], first.splits["test"]["image"])


def test_batches_are_standardised_by_the_training_part():
    task = glyphs(200, 20, 20, size=16)
    batch = next(task.batches("train", 200))["image"]
    assert batch.shape == (200, 1, 16, 16)
    assert float(batch.mean()) == pytest.approx(0, abs=1e-4)
    assert float(batch.std()) == pytest.approx(1, abs=1e-3)


def test_without_noise_and_movement_a_nearest_mean_tells_the_characters_apart():
    # with everything else off only the face varies, so pictures of a class are alike: the labels belong to the pictures
    still = {"size": 24, "rotation": 0.0, "shear": 0.0, "scale": (1.0, 1.0), "shift": 0.0, "noise": 0.0, "characters": "01234567"}
    task = glyphs(200, 20, 60, **still)
    train, test = next(task.batches("train", 200)), next(task.batches("test", 60))

    def unit(x):
        return torch.nn.functional.normalize(x.flatten(1) - x.flatten(1).mean(1, keepdim=True))

    means = torch.stack([unit(train["image"])[train["target"] == label].mean(0) for label in range(8)])
    found = (unit(test["image"]) @ means.T).argmax(1)
    assert float((found == test["target"]).float().mean()) > 0.9


def test_labels_and_errors():
    assert glyphs(4, 4, 4, size=8, characters="AB").encoding["labels"] == ["A", "B"]
    with pytest.raises(ValueError, match="two different"):
        glyphs(4, 4, 4, characters="AA")
