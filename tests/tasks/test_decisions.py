"""Logged decisions: returns, windows, statistics, files; playing with a policy that is known to balance."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from assay.contracts import Output
from assay.errors import UserError
from assay.tasks.decisions import CARTPOLE_POLICY, Trajectory, cartpole, decision_task, encode_action, open_decisions, rollout
from assay.tasks.options import Options


def episodes(count=10, steps=100, seed=0):
    generator = np.random.default_rng(seed)
    return [
        Trajectory(generator.normal(size=(steps, 3)), generator.integers(0, 4, steps), generator.random(steps), f"e{index}")
        for index in range(count)
    ]


def test_returns_still_to_come_are_sums_from_the_end():
    one = Trajectory(np.zeros((4, 1)), np.zeros(4, dtype=int), np.array([1.0, 2.0, 0.0, 5.0]))
    np.testing.assert_allclose(one.returns, [8, 7, 5, 5])


def test_windows_hold_the_episodes_own_numbers():
    made = episodes()
    task = decision_task(made, name="made", path="made")
    mean, deviation = np.array(task.encoding["mean"]), np.array(task.encoding["deviation"])
    part = task.splits["test"]
    name = task.source["names"][1]  # the second window of a test episode
    one = next(e for e in made if e.name == name.split(",")[0])
    state = part["series"][1, :36, :4].numpy() * deviation + mean
    np.testing.assert_allclose(state[:, 0], one.returns[64:], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(state[:, 1:], one.observations[64:], rtol=1e-4, atol=1e-4)
    assert torch.equal(part["series"][1, :36, 4:].argmax(-1), torch.tensor(one.actions[63:99]))  # the action before
    assert torch.equal(part["target"][1, :36], torch.tensor(one.actions[64:]))
    assert part["mask"][1].sum() == 36


def test_no_step_shows_its_own_action():
    """The first action channel is empty, and changing an action changes no input up to and with its own step."""
    made, other = episodes(), episodes()
    for one in other:
        one.actions = one.actions.copy()
        one.actions[40] = (one.actions[40] + 1) % 4
    first, second = decision_task(made, name="a", path="a").splits["test"], decision_task(other, name="b", path="b").splits["test"]
    assert torch.equal(first["series"][0, :41], second["series"][0, :41])
    assert not torch.equal(first["series"][0, 41], second["series"][0, 41])
    assert (first["series"][0, 0, 4:] == 0).all()


def test_statistics_come_from_training_episodes_alone():
    made = episodes()
    task = decision_task(made, name="made", path="made")
    used = {name.split(",")[0] for name in task.source["names"]}
    for one in made:
        if one.name in used:
            one.observations = one.observations * 100
    assert decision_task(made, name="made", path="made").encoding["mean"] == task.encoding["mean"]


def test_logs_are_read_from_a_folder(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("first", "second"):
        dones = np.zeros(90, dtype=bool)
        dones[[19, 49, 89]] = True
        arrays = {"observations": generator.normal(size=(90, 2)), "actions": generator.integers(0, 3, 90), "rewards": np.ones(90)}
        np.savez(tmp_path / f"{name}.npz", dones=dones, **arrays)
    task = open_decisions(tmp_path, Options(tmp_path))
    assert task.description == "6 episodes, 180 decisions, 3 actions, returns 20 to 40"
    again = open_decisions(tmp_path / "first.npz", Options(tmp_path / "first.npz", encoding=task.encoding))
    assert list(again.splits) == ["test"]
    assert int(again.splits["test"]["mask"].sum()) == 90


def test_actions_that_are_no_classes_are_values(tmp_path):
    generator = np.random.default_rng(0)
    made = [Trajectory(generator.normal(size=(20, 2)), generator.normal(size=(20, 2)), np.ones(20)) for _ in range(8)]
    task = decision_task(made, name="torque", path="torque")
    assert task.splits["train"]["target"].shape[1:] == (20, 2)
    assert task.metric == "mse"
    found = task.evaluate(lambda batch: Output(batch["target"]), "test")
    assert found.metrics["mse"] == 0.0


BROKEN = [
    ({"observations": np.zeros((5, 2)), "actions": np.zeros(5, dtype=int), "rewards": np.zeros(5)}, "no array 'dones'"),
    ({"observations": np.zeros((5, 2)), "actions": np.zeros(4, dtype=int), "rewards": np.zeros(5), "dones": np.zeros(5)}, "steps"),
    (
        {"observations": np.full((5, 2), np.nan), "actions": np.zeros(5, dtype=int), "rewards": np.zeros(5), "dones": np.zeros(5)},
        "observations at step 1 is not finite",
    ),
]


@pytest.mark.parametrize(("arrays", "sentence"), BROKEN)
def test_broken_logs_are_refused(arrays, sentence, tmp_path):
    np.savez(tmp_path / "log.npz", **arrays)
    with pytest.raises(UserError, match=sentence):
        open_decisions(tmp_path / "log.npz", Options(tmp_path / "log.npz"))


def test_pickled_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "log.npz", observations=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="log"):
        open_decisions(tmp_path, Options(tmp_path))


# ------------------------------------------------------------------------------------------------ playing


class Balancer(torch.nn.Module):
    """The scripted policy as a predictor: it undoes the standardisation and applies the known product."""

    def __init__(self, task):
        super().__init__()
        mean, deviation = (torch.tensor(task.encoding[key][1:], dtype=torch.float32) for key in ("mean", "deviation"))
        policy = torch.tensor(CARTPOLE_POLICY, dtype=torch.float32)
        self.register_buffer("weight", policy * deviation)
        self.register_buffer("bias", (policy * mean).sum())

    def forward(self, batch):
        return Output(self.scores(batch["series"]))

    def scores(self, steps):
        push = steps[..., 1:5] @ self.weight + self.bias
        return torch.stack([-push, push], -1)


class StreamingBalancer(Balancer):
    causal = True

    def initial_state(self, batch_size):
        return torch.zeros(batch_size)

    def step(self, step, state):
        return self.scores(step), state + 1


@pytest.fixture(scope="module")
def pole():
    pytest.importorskip("gymnasium")
    return cartpole()


def test_the_log_is_the_same_every_time(pole):
    assert torch.equal(pole.splits["train"]["series"], cartpole().splits["train"]["series"])
    assert pole.encoding["best_return"] == 500


@pytest.mark.parametrize("kind", [Balancer, StreamingBalancer])
def test_the_scripted_policy_balances_to_the_end(pole, kind):
    """The known policy scores 500 in every episode, whether it streams or sees the last 64 steps again."""
    assert (rollout(pole, kind(pole), episodes=3) == 500).all()


def test_pushing_one_way_falls_at_once(pole):
    class Left(Balancer):
        def scores(self, steps):
            return torch.tensor([1.0, 0.0]).expand(*steps.shape[:-1], 2)

    found = pole.evaluate(Left(pole), "test")
    assert found.metrics["rollout_return"] < 12
    assert "rollout_return" not in pole.evaluate(Left(pole), "validation").metrics


def test_a_streaming_network_plays_as_its_own_re_reading_does(pole):
    """Within the first training window (the pole falls within 64 steps) streaming and re-reading take the same decisions."""
    from assay.models import build

    torch.manual_seed(0)
    model = build("gru", pole.signature, 3_000).eval()
    np.testing.assert_allclose(rollout(pole, model, 4), rollout(pole, lambda batch: model(batch), 4))


def test_actions_become_one_channel_each():
    np.testing.assert_allclose(encode_action({"labels": ["l", "r"], "actions": 2}, np.array([1, 0])), [[0, 1], [1, 0]])
