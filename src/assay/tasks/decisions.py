"""Logged decisions become a task: what was done next, given the return that was still to come (offline control)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from assay.contracts import Class, Evaluation, Predictor, Series, Signature, SplitName, Values
from assay.errors import require
from assay.tasks.base import ArrayTask
from assay.tasks.checks import check_path
from assay.tasks.options import Options
from assay.tasks.rules import refuse
from assay.tasks.splitting import divide

CONTEXT = 64
"""Steps a training window."""
KEYS = ("observations", "actions", "rewards", "dones")
CARTPOLE_POLICY = np.array([0.3, 1.0, 12.0, 3.0])
"""Push right where this product with (position, velocity, angle, angular velocity) is positive: it balances for 500 steps."""
CARTPOLE_EPISODES = 80
CARTPOLE_NOISE = {"expert": 0.1, "medium": 0.5}
ROLLOUTS = 10


@dataclass
class Trajectory:
    """One episode: observations (steps, width), actions (steps,) or (steps, width), rewards (steps,)."""

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    name: str = ""
    returns: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        """The return still to come at each step, its own reward included."""
        self.returns = self.rewards[::-1].cumsum()[::-1]


class DecisionTask(ArrayTask):
    """Behaviour given a wanted return: ``series`` (batch, length, 1 + observation + action) → ``target``, the action at every step.

    A step's channels are the return still to come, the observation, and the action before (one channel an action; zeros at first),
    all standardised but the action of a class. ``simulator`` names a gymnasium environment: then the test evaluation also plays
    ten episodes, asking for the best return in the training log, and reports their mean ``rollout_return``.

    Source: Chen et al., Decision Transformer: Reinforcement Learning via Sequence Modeling, 2021.
    """

    simulator: str | None = None

    def evaluate(self, predictor: Predictor, split: SplitName, batch_size: int = 256) -> Evaluation:
        """Accuracy of the next action (or its squared error), and on test the return of really playing."""
        found = super().evaluate(predictor, split, batch_size)
        if self.simulator is not None and split == "test":
            returns = rollout(self, predictor)
            found.metrics |= {"rollout_return": float(returns.mean()), "rollout_deviation": float(returns.std())}
        return found


def open_decisions(source: str | Path, options: Options) -> DecisionTask:
    """A log (.npz) or a folder of logs: arrays observations, actions, rewards, dones (True at an episode's last step).

    Whole actions are classes, others values. Episodes are divided 60/20/20 and cut into windows of at most 64 steps.

    Args:
        source: the file or folder.
        options: its path, seed and encoding are used.

    Raises:
        UserError: an array is missing, of wrong shape, or holds a value that is not finite.
    """
    folder = Path(source)
    check_path(folder)
    files = sorted(folder.glob("*.npz")) if folder.is_dir() else [folder]
    if not files:
        raise refuse("broken-log", path=folder, reason="the folder has no .npz file")
    trajectories = [one for file in files for one in _read_log(file)]
    widths = sorted({one.observations.shape[1] for one in trajectories})
    if len(widths) > 1:
        raise refuse("other-channels", path=options.path, found=widths[-1], wanted=widths[0])
    return decision_task(trajectories, name=folder.stem, path=options.path, seed=options.seed, encoding=options.encoding)


def cartpole(seed: int = 0) -> DecisionTask:
    """Logs of balancing a pole (gymnasium's CartPole-v1) by a scripted policy: half the episodes with 10 % random pushes, half with 50 %.

    The most that can be predicted of such pushes is 95 % and 75 %; the best return is 500.
    """
    gymnasium = require("gymnasium", extra="decisions", purpose="The CartPole log")
    environment = gymnasium.make("CartPole-v1")
    generator = np.random.default_rng(seed)
    trajectories = []
    for episode in range(CARTPOLE_EPISODES):
        quality = ("expert", "medium")[episode % 2]
        played = _play(environment, CARTPOLE_NOISE[quality], generator, seed * 100_003 + episode)
        played.name = f"episode {episode + 1} ({quality})"
        trajectories.append(played)
    environment.close()
    task = decision_task(trajectories, name="cartpole", path="cartpole", seed=seed, labels=["left", "right"])
    task.simulator = "CartPole-v1"
    return task


def _play(environment: Any, noise: float, generator: np.random.Generator, seed: int) -> Trajectory:
    """One episode of the scripted policy, a share ``noise`` of whose pushes is random."""
    observation, _ = environment.reset(seed=seed)
    steps: list[tuple[np.ndarray, int, float]] = []
    ended = False
    while not ended:
        wanted = int(CARTPOLE_POLICY @ observation > 0)
        action = int(generator.integers(2)) if generator.random() < noise else wanted
        following, reward, failed, truncated, _ = environment.step(action)
        steps.append((observation, action, float(reward)))
        observation, ended = following, failed or truncated
    observations, actions, rewards = zip(*steps, strict=True)
    return Trajectory(np.array(observations, dtype=np.float64), np.array(actions), np.array(rewards))


def _read_log(file: Path) -> list[Trajectory]:
    """The episodes of one file."""
    check_path(file)
    try:
        with np.load(file, allow_pickle=False) as log:
            arrays = {key: np.asarray(log[key]) for key in log.files if key in KEYS}
    except (OSError, ValueError) as error:
        raise refuse("broken-log", path=file, reason=str(error).splitlines()[0].rstrip(".")) from error
    lost = [key for key in KEYS if key not in arrays]
    if lost:
        raise refuse("broken-log", path=file, reason=f"it has no array {lost[0]!r}")
    sizes = {key: len(array) for key, array in arrays.items()}
    if len(set(sizes.values())) > 1 or min(sizes.values()) == 0:
        raise refuse("broken-log", path=file, reason=f"its arrays have {sizes} steps")
    for key in ("observations", "actions", "rewards"):
        wrong = ~np.isfinite(arrays[key].reshape(sizes[key], -1).astype(np.float64)).all(1)
        if wrong.any():
            raise refuse("broken-log", path=file, reason=f"{key} at step {int(wrong.argmax()) + 1:,} is not finite")
    observations = arrays["observations"].reshape(sizes["observations"], -1).astype(np.float64)
    actions = arrays["actions"]
    actions = actions[:, 0] if actions.ndim == 2 and actions.shape[1] == 1 and np.issubdtype(actions.dtype, np.integer) else actions
    ends = np.flatnonzero(arrays["dones"].astype(bool).ravel()) + 1
    cuts = ends[ends < len(observations)]
    parts = zip(
        np.split(observations, cuts), np.split(actions, cuts), np.split(arrays["rewards"].astype(np.float64).ravel(), cuts), strict=True
    )
    return [Trajectory(*part, name=f"{file.stem}, episode {index + 1}") for index, part in enumerate(parts)]


# ------------------------------------------------------------------------------------------------ the task


def decision_task(
    trajectories: list[Trajectory],
    *,
    name: str,
    path: object,
    seed: int = 0,
    labels: list[str] | None = None,
    encoding: dict[str, Any] | None = None,
) -> DecisionTask:
    """The task of some episodes: divided by episode, standardised by the training part, cut into windows.

    Raises:
        UserError: there are fewer than five episodes.
    """
    if encoding is None:
        splits, notes = divide(len(trajectories), path=path, seed=seed)
        encoding = _learn([trajectories[row] for row in splits["train"]], trajectories, labels)
    else:
        splits, notes = {"test": np.arange(len(trajectories))}, []
        found = trajectories[0].observations.shape[1]
        if found != len(encoding["mean"]) - 1:
            raise refuse("other-channels", path=path, found=found, wanted=len(encoding["mean"]) - 1)
    tensors, groups, places = {}, {}, []
    for split, rows in splits.items():
        tensors[split], groups[split], places = _windows([trajectories[row] for row in rows], encoding)
    steps, actions = sum(len(one.rewards) for one in trajectories), encoding["actions"]
    output = Class(actions) if encoding["labels"] else Values(actions)
    totals = [float(one.rewards.sum()) for one in trajectories]
    return DecisionTask(
        name,
        Signature(Series(len(encoding["mean"]) + actions, encoding["length"]), output, per_position=True),
        tensors,
        description=f"{len(trajectories):,} episodes, {steps:,} decisions, {actions:,} actions, returns {min(totals):g} to {max(totals):g}",
        notes=notes,
        encoding=encoding,
        groups=groups,
        source={"kind": "decisions", "names": places},
    )


def _learn(training: list[Trajectory], everything: list[Trajectory], labels: list[str] | None) -> dict[str, Any]:
    """Statistics of the training episodes, and what the actions are."""
    rows = np.concatenate([np.column_stack([one.returns, one.observations]) for one in training])
    deviation = rows.std(0)
    whole = all(one.actions.ndim == 1 and np.array_equal(one.actions, one.actions.astype(np.int64)) for one in everything)
    if whole:
        count = max(2, 1 + max(int(one.actions.max()) for one in everything))
        labels = labels or [f"action {index}" for index in range(count)]
    acted = np.concatenate([one.actions.reshape(len(one.actions), -1) for one in training]).astype(np.float64)
    spread = acted.std(0)
    return {
        "opener": "decisions",
        "mean": rows.mean(0).tolist(),
        "deviation": np.where(deviation > 0, deviation, 1.0).tolist(),
        "labels": labels if whole and labels else [],
        "actions": len(labels) if whole and labels else acted.shape[1],
        "action_mean": acted.mean(0).tolist(),
        "action_deviation": np.where(spread > 0, spread, 1.0).tolist(),
        "length": min(CONTEXT, max(len(one.rewards) for one in training)),
        "best_return": max(float(one.rewards.sum()) for one in training),
    }


def encode_step(encoding: dict[str, Any], to_come: np.ndarray, observation: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Channels of steps: returns (steps,), observations (steps, width), actions before (steps, actions) as `encode_action` gives them."""
    state = np.column_stack([to_come, observation])
    return np.column_stack([(state - np.array(encoding["mean"])) / np.array(encoding["deviation"]), before]).astype(np.float32)


def encode_action(encoding: dict[str, Any], actions: np.ndarray) -> np.ndarray:
    """One channel an action, (steps, actions): one-hot classes, or standardised values."""
    if encoding["labels"]:
        return np.eye(encoding["actions"], dtype=np.float32)[actions.astype(np.int64)]
    values = actions.reshape(len(actions), -1)
    return ((values - np.array(encoding["action_mean"])) / np.array(encoding["action_deviation"])).astype(np.float32)


def _windows(trajectories: list[Trajectory], encoding: dict[str, Any]) -> tuple[dict[str, torch.Tensor], np.ndarray, list[str]]:
    """Episodes cut into windows that follow one another; the last of an episode is padded and masked."""
    length = encoding["length"]
    series, targets, masks, groups, names = [], [], [], [], []
    for index, one in enumerate(trajectories):
        acted = encode_action(encoding, one.actions)
        before = np.concatenate([np.zeros_like(acted[:1]), acted[:-1]])
        steps = encode_step(encoding, one.returns, one.observations, before)
        wanted = one.actions.astype(np.int64) if encoding["labels"] else acted
        for start in range(0, len(steps), length):
            part = slice(start, start + length)
            missing = length - len(steps[part])
            series.append(np.pad(steps[part], ((0, missing), (0, 0))))
            targets.append(np.pad(wanted[part], ((0, missing),) + ((0, 0),) * (wanted.ndim - 1)))
            masks.append(np.arange(length) < length - missing)
            groups.append(index)
            names.append(f"{one.name}, from step {start + 1:,}")
    batch = {"series": np.stack(series), "mask": np.stack(masks), "target": np.stack(targets)}
    return {key: torch.from_numpy(value) for key, value in batch.items()}, np.array(groups), names


# ------------------------------------------------------------------------------------------------ playing


def rollout(task: DecisionTask, predictor: Predictor, episodes: int = ROLLOUTS, seed: int = 10_000) -> np.ndarray:
    """Returns (episodes,) of playing in the simulator side by side, asking for the training log's best return.

    A predictor that streams (``initial_state`` and ``step``) is fed one step at a time and starts afresh after as many steps as a
    training window has; any other sees the last such window again at each step. The likeliest action is taken.
    """
    gymnasium = require("gymnasium", extra="decisions", purpose="Playing out decisions")
    environments = [gymnasium.make(task.simulator) for _ in range(episodes)]
    observations = np.stack([environment.reset(seed=seed + index)[0] for index, environment in enumerate(environments)])
    player = _Streamer(task, predictor) if _streams(predictor) else _Reader(task, predictor)
    encoding = task.encoding
    to_come = np.full(episodes, encoding["best_return"])
    before, total, running = np.zeros((episodes, encoding["actions"])), np.zeros(episodes), np.ones(episodes, dtype=bool)
    while running.any():
        logits = player.act(encode_step(encoding, to_come, observations, before))
        actions = logits.argmax(-1)
        for index in np.flatnonzero(running):
            observations[index], reward, failed, truncated, _ = environments[index].step(int(actions[index]))
            total[index] += float(reward)
            to_come[index] -= float(reward)
            running[index] = not (failed or truncated)
        before = encode_action(encoding, actions)
    for environment in environments:
        environment.close()
    return total


def _streams(predictor: Any) -> bool:
    return bool(getattr(predictor, "causal", False)) and hasattr(predictor, "step") and hasattr(predictor, "initial_state")


class _Streamer:
    """Feeds a streaming model one step at a time."""

    def __init__(self, task: DecisionTask, model: Any) -> None:
        self.model, self.length, self.place = model, task.encoding["length"], 0
        self.state: Any = None

    def act(self, step: np.ndarray) -> np.ndarray:
        """Logits (episodes, actions) after one more step (episodes, channels)."""
        with torch.no_grad():
            if self.place % self.length == 0:
                self.state = self.model.initial_state(len(step))
            self.place += 1
            device = next((parameter.device for parameter in self.model.parameters()), "cpu")
            prediction, self.state = self.model.step(torch.from_numpy(step).to(device), self.state)
        return prediction.cpu().numpy()


class _Reader:
    """Shows any predictor the last window at each step."""

    def __init__(self, task: DecisionTask, predictor: Predictor) -> None:
        self.predictor, self.length = predictor, task.encoding["length"]
        self.seen: list[np.ndarray] = []

    def act(self, step: np.ndarray) -> np.ndarray:
        """Logits (episodes, actions) after one more step (episodes, channels)."""
        self.seen = [*self.seen[-(self.length - 1) :], step]
        window = np.zeros((len(step), self.length, step.shape[1]), dtype=np.float32)
        window[:, : len(self.seen)] = np.stack(self.seen, 1)
        mask = np.broadcast_to(np.arange(self.length) < len(self.seen), window.shape[:2]).copy()
        with torch.no_grad():
            prediction = self.predictor({"series": torch.from_numpy(window), "mask": torch.from_numpy(mask)}).prediction
        return prediction[:, len(self.seen) - 1].cpu().numpy()
