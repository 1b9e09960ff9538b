import pytest
import torch

from assay import models
from assay.contracts import Class, Image, Series, Signature
from assay.models.surgery import apply

SERIES = Signature(Series(2, 10), Class(3))


def reloaded(model, folder):
    models.save(model, folder)
    return models.load(folder)


def test_deepened_model_computes_the_same_and_reloads(tmp_path):
    torch.manual_seed(0)
    model = models.build("attention", SERIES, 6_000).eval()
    batch = {"series": torch.randn(4, 10, 2)}
    before = model(batch).prediction
    deeper = apply(model, {"edit": "deepen", "block": 0}).eval()
    assert len(deeper.blocks) == 3
    torch.testing.assert_close(deeper(batch).prediction, before, atol=1e-6, rtol=1e-6)
    torch.nn.init.normal_(deeper.blocks[1].mixer_scale.scale)
    torch.testing.assert_close(reloaded(deeper, tmp_path)(batch).prediction, deeper(batch).prediction)


@pytest.mark.parametrize(
    ("name", "options"),
    [("gru", {}), ("mamba", {}), ("attention", {"experts": 3}), ("attention", {"hybrid_norm": "output", "norm": "rms"}),
     ("hyena", {"hidden": 0}), ("gated-delta", {"layer_scale": 0.1})],
)  # fmt: skip
def test_a_copy_of_any_block_starts_as_the_identity(name, options):
    torch.manual_seed(0)
    model = models.build(name, SERIES, 6_000, **options).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # as if trained: no branch ends in a bias of zero any more
    batch = {"series": torch.randn(4, 10, 2)}
    before = model(batch).prediction
    torch.testing.assert_close(apply(model, {"edit": "deepen", "block": 0}).eval()(batch).prediction, before)


def test_truncated_model_reloads(tmp_path):
    model = models.build("gru", SERIES, 6_000, depth=3).eval()
    shorter = apply(model, {"edit": "truncate", "blocks": 1})
    again = reloaded(shorter, tmp_path)
    assert len(again.blocks) == 1
    batch = {"series": torch.randn(4, 10, 2)}
    torch.testing.assert_close(again(batch).prediction, shorter(batch).prediction)


def test_folded_queries_are_exact_and_reload(tmp_path):
    torch.manual_seed(0)
    model = models.build("aaren", SERIES, 6_000).eval()
    batch = {"series": torch.randn(4, 10, 2)}
    before = model(batch).prediction
    again = reloaded(apply(model, {"edit": "fold-queries"}), tmp_path)
    torch.testing.assert_close(again(batch).prediction, before, atol=1e-5, rtol=1e-5)


def test_folded_batch_norms_are_exact_and_reload(tmp_path):
    torch.manual_seed(0)
    model = models.build("simplenet", Signature(Image(1, 16, 16), Class(3)), 20_000)
    for _ in range(3):
        model({"image": torch.randn(8, 1, 16, 16)})  # moves the running statistics
    model.eval()
    batch = {"image": torch.randn(4, 1, 16, 16)}
    before = model(batch).prediction
    again = reloaded(apply(model, {"edit": "fold"}), tmp_path)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in again.modules())
    torch.testing.assert_close(again(batch).prediction, before, atol=1e-4, rtol=1e-4)


def test_edits_stack_in_the_order_they_were_made(tmp_path):
    model = apply(apply(models.build("aaren", SERIES, 6_000).eval(), {"edit": "deepen", "block": 1}), {"edit": "fold-queries"})
    assert [edit["edit"] for edit in model.config["edits"]] == ["deepen", "fold-queries"]
    batch = {"series": torch.randn(4, 10, 2)}
    once = reloaded(model, tmp_path / "once")
    assert once.config == model.config
    torch.testing.assert_close(reloaded(once, tmp_path / "twice")(batch).prediction, model(batch).prediction)


@pytest.mark.parametrize(
    ("edit", "words"),
    [({"edit": "melt"}, "melt"), ({"edit": "deepen", "block": 7}, "block 7"), ({"edit": "truncate", "blocks": 9}, "block 8")],
)
def test_edits_that_do_not_fit_are_refused(edit, words):
    with pytest.raises(ValueError, match=words):
        apply(models.build("gru", SERIES, 6_000), edit)
