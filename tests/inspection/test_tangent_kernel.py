"""The tangent kernel against closed forms: a linear model's is its inputs', and it never moves."""

import copy

import pytest
import torch

from assay import models
from assay.contracts import Class, Signature, Table
from assay.errors import UserError
from assay.inspection.tangent_kernel import TangentKernel
from assay.tasks import ArrayTask
from assay.tasks.synthetic.recall import multi_query_recall
from assay.testing.examples import tiny_task
from assay.theory.tangent import empirical_tangent_kernel
from assay.training import fit

SEEDS = (1, 2)


@pytest.fixture(scope="module")
def task():
    return tiny_task()


def rings():
    """Two classes by radius: no linear function of the numbers is like them."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 4, generator=generator)
    split = {"table": x, "target": (x[:, :2].square().sum(1) > 1.4).long()}
    return ArrayTask("rings", Signature(Table(4), Class(2)), dict.fromkeys(("train", "validation", "test"), split))


def small(task, **options):
    torch.manual_seed(3)
    return models.build("mlp", task.signature, 2_000, **options)


def test_it_is_the_mean_over_directions_of_the_gradients_products(task):
    """Averaged over all vectors of signs v vᵀ is the identity; of two outputs there are two such vectors, but for a sign."""
    network = small(task).double()
    batch = {"table": next(iter(task.batches("train", 8)))["table"].double(), "target": torch.zeros(8, dtype=torch.long)}
    assert task.signature.output.size == 2
    found = sum(TangentKernel(8, 1, seed).kernel(network, batch) for seed in SEEDS) / 2

    def function(parameters, x):
        return torch.func.functional_call(network, parameters, ({"table": x},)).prediction

    expected = 2 * empirical_tangent_kernel(function, dict(network.named_parameters()), batch["table"])
    signs = [torch.randint(2, (2,), generator=torch.Generator().manual_seed(seed)).tolist() for seed in SEEDS]
    assert sorted(sum(pair) % 2 for pair in signs) == [0, 1], "the seeds must give one equal and one opposite pair"
    torch.testing.assert_close(found, expected)


def test_a_network_that_learns_turns_its_kernel_to_the_targets():
    task = rings()
    network = small(task, depth=2)
    fit(network, task, steps=200, learning_rate=1e-2, batch_size=16)
    before = copy.deepcopy(network.state_dict())
    found = TangentKernel(32)(network, task)
    fresh, now, last = found.table
    assert now["alignment with the targets"] > fresh["alignment with the targets"] + 0.05
    assert last["moved"] > 0.1
    assert "features were learnt" in found.sentence
    assert len(found.figure["data"]) == 2
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_fresh_network_has_not_moved(task):
    torch.manual_seed(0)
    network = models.build("mlp", task.signature, 2_000)
    recipe = network.config["build"]
    torch.manual_seed(0)
    network = models.build_network("mlp", task.signature, recipe["coarse"], recipe["fine"], **recipe["options"])
    found = TangentKernel(32, seed=0)(network, task)
    assert found.table[-1]["moved"] == pytest.approx(0, abs=1e-9)
    assert "hardly moved" in found.sentence


def test_what_has_no_kernel_is_refused_in_a_sentence(task):
    with pytest.raises(ValueError, match="at least 8"):
        TangentKernel(examples=4)
    recall = multi_query_recall()
    with pytest.raises(UserError, match="answers at every position"):
        TangentKernel()(models.build("lstm", recall.signature, 3_000), recall)
    network = small(task)
    del network.config
    with pytest.raises(UserError, match="no recipe"):
        TangentKernel()(network, task)
    broken = small(task)
    with torch.no_grad():
        next(broken.parameters()).fill_(torch.nan)
    with pytest.raises(UserError, match="not finite"):
        TangentKernel()(broken, task)
