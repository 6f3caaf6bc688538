"""`NetworkPolicy`: a saved policy for batches of what the network takes; it keeps what the network needs of the past.

That is stacked frames, recurrent state, the last action, and which episodes have just begun. Not here: observations as
a level gives them (mlma/api/policy.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tree

from mlma.acting.action_noise import NoiseGenerator
from mlma.core.actions import greedy_actions
from mlma.core.record_layout import RecordLayout, timestep_spec
from mlma.core.types import ActOutput, TimeStep
from mlma.evaluation.saved_policy import SavedPolicy
from mlma.utils.tf_function import CachedGraph

REWARD_LEAF = 1  # position of the reward among the arrays of a TimeStep


class NetworkPolicy:
    """Maps parts of observations [B, ...] to actions [B]."""

    def __init__(self, saved: SavedPolicy, greedy: bool, seed: int, level: int = 0) -> None:
        """`level` is an index into the levels of the run."""
        self._saved, self._greedy, self._seed, self._level = saved, greedy, seed, level
        self._graphs: dict[int, CachedGraph] = {}  # by batch size
        self._noise: NoiseGenerator | None = None
        self._noise_count = 0
        self._state: Any = None
        self._last_action: Any = None
        self.count = 0  # observations in a batch; 0 before the first one
        self.outputs: ActOutput | None = None  # of the last step

    def __call__(self, parts: dict[str, Any], reward: Any = None) -> Any:
        """The actions [B] for these observations; `reward` [B] arrived with them."""
        count = len(parts["observation"])
        if not self.count:
            self._start(count)
        if count != self.count:
            raise ValueError(f"{count} observations after {self.count}; call reset() before another batch size")
        timestep = self._timestep(parts, reward)
        assert self._noise is not None
        graph = self._graphs.setdefault(count, CachedGraph(self._saved.agent.act))
        tensors, self._state = graph(timestep.policy_inputs(), self._state, self._noise.draw())
        output = ActOutput(*(tensor.numpy() for tensor in tensors))
        if self._greedy:
            output = output._replace(action=greedy_actions(self._saved.spec, output.logits))
        self.outputs, self._last_action, self._is_first = output, output.action, np.zeros(count, bool)
        return output.action

    def reset(self, where: Any = None, seed: int | None = None) -> None:
        """See mlma.api.policy.Policy."""
        if seed is not None:
            self._seed, self._noise = seed, None
        if where is None:
            self.count = 0
            return
        try:
            self._is_first[np.asarray(where)] = True
        except (AttributeError, IndexError):
            raise ValueError(f"reset({where!r}): must be a mask or indices of {self.count} observations") from None

    def _start(self, count: int) -> None:
        """`count` episodes."""
        if self._noise is None or count != self._noise_count:
            epsilons = np.full(count, self._saved.config.run.test_epsilon)
            self._noise, self._noise_count = NoiseGenerator(self._seed, epsilons, self._saved.spec), count
        self.count, self._is_first = count, np.ones(count, bool)
        self._state = self._saved.agent.initial_state(count)
        layout = RecordLayout(timestep_spec(self._saved.spec, count))
        self._zeros: TimeStep = tree.map_structure(lambda array: array[0], layout.view(layout.empty(1)))
        self._last_action = self._zeros.last_action

    def _timestep(self, parts: dict[str, Any], reward: Any) -> TimeStep:
        """What the network takes, [B, ...]."""
        graph, first, zeros = self._graphs.get(self.count), self._is_first, self._zeros
        if reward is None and graph and graph.reads(REWARD_LEAF) and not first.all():
            name = self._saved.config.run.agent_name
            raise ValueError(f"{name} reads the last reward: call policy(observation, reward)")
        rewards = np.broadcast_to(np.asarray(0.0 if reward is None else reward, np.float32), [self.count])
        last_action = np.where(first.reshape([-1, *[1] * (self._last_action.ndim - 1)]), 0, self._last_action)
        extras = {name: parts.get(name, array) for name, array in zeros.extras.items()}
        if "level" in extras:
            extras["level"] = np.full(self.count, self._level, np.int32)
        return zeros._replace(
            observation=np.asarray(parts["observation"], zeros.observation.dtype),
            reward=np.where(first, 0, rewards).astype(np.float32),
            is_first=first,
            last_action=last_action.astype(zeros.last_action.dtype),
            extras=extras,
        )
