"""`load_policy`: a trained policy that maps observations of its level to actions.

It keeps what the network needs of the past: stacked frames, recurrent state, the last action. It sets no threads and
ends no process, so it works wherever TensorFlow is already in use. Not here: stepping environments, which its user
does.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tree

from mlma.utils.import_object import import_object
from mlma.utils.tensorflow_setup import import_tensorflow

import_tensorflow()  # quietly, before the imports below do it

from mlma.acting.action_noise import NoiseGenerator  # noqa: E402
from mlma.core.record_layout import RecordLayout, timestep_spec  # noqa: E402
from mlma.core.types import ActOutput, TimeStep  # noqa: E402
from mlma.envs.raw_level import read_observations, read_parts  # noqa: E402
from mlma.envs.registry import level_names, raw_level  # noqa: E402
from mlma.evaluation.saved_policy import SavedPolicy, load_saved_policy  # noqa: E402
from mlma.utils.tf_function import CachedGraph  # noqa: E402

REWARD_LEAF = 1  # position of the reward among the arrays of a TimeStep
MAKE_AGENT = "agents:make_agent"  # by name: the system imports no algorithm
Actions = Literal["sampled", "greedy"]


def load_policy(
    source: str | os.PathLike[str],
    *,
    checkpoint: str = "last",
    actions: Actions = "sampled",
    seed: int = 1,
    level: str = "",
) -> Policy:
    """The policy of a logdir, or of one of its checkpoint files.

    `checkpoint`: last, best or a file. `actions`: sampled from the policy as in training, or greedy. `level`: which
    one, if the run has several. ValueError in one line if there is no such policy.
    """
    saved = load_saved_policy(Path(source), checkpoint, import_object(MAKE_AGENT))
    return Policy(saved, actions, seed, level)


class Policy:
    """`policy(observation)` is the next action; `policy(batch)` are the next actions of a batch.

    Call `reset` where an episode starts; the first call of all needs none.
    """

    def __init__(self, saved: SavedPolicy, actions: Actions = "sampled", seed: int = 1, level: str = "") -> None:
        """See `load_policy`."""
        if actions not in ("sampled", "greedy"):
            raise ValueError(f"actions={actions!r}: must be sampled or greedy")
        names = level_names(saved.config.environment.level_name)
        if level not in names and (level or len(names) > 1):
            raise ValueError(f"level={level!r}: the policy is for {', '.join(names)}")
        self._saved, self._greedy, self._seed = saved, actions == "greedy", seed
        self.level_name = level or names[0]
        self._level = names.index(self.level_name)
        self._raw = raw_level(self.level_name, saved.config.environment)
        self._graphs: dict[int, CachedGraph] = {}  # by batch size
        self._noise: NoiseGenerator | None = None
        self._noise_count = self._count = 0  # observations in a batch; 0 before the first one
        self.outputs: ActOutput | None = None

    def __repr__(self) -> str:
        """What it is, on one line."""
        return f"<mlma.Policy for {self.level_name}: {self._saved.checkpoint}, {self.frames:,} frames>"

    @property
    def checkpoint(self) -> Path:
        """The file it was loaded from."""
        return self._saved.checkpoint

    @property
    def frames(self) -> int:
        """The frames it was trained for."""
        return int(self._saved.meta["frames"])

    @property
    def config(self) -> dict[str, Any]:
        """All flags of its run."""
        return self._saved.config.flags()

    @property
    def action_repeats(self) -> int:
        """How often the level repeats an action in training; for gymnasium ids that is up to the caller, too."""
        return self._saved.spec.action_repeats

    def __call__(self, observation: Any, reward: Any = None) -> Any:
        """The action, as `env.step` takes it, or an array or list of them for a batch.

        `observation` is what the level's environment gave, or a batch of that, as of a vector environment. `reward` is
        what arrived with it; only networks that read the last reward need it, except where an episode starts. `outputs`
        then has the logits (or q-values) and values of this step, [B, ...].
        """
        if self._raw:
            parts, is_batch = read_observations(self._raw, observation)
        else:
            parts, is_batch = read_parts(self._saved.spec, observation)
        count = len(parts["observation"])
        if not self._count:
            self._start(count)
        if count != self._count:
            raise ValueError(f"{count} observations after {self._count}; call reset() before another batch size")
        actions = [self._env_action(action) for action in self._act(self._timestep(parts, reward))]
        if not is_batch:
            return actions[0]
        return actions if isinstance(actions[0], dict | tuple) else np.stack(actions)

    def reset(self, where: Any = None, *, seed: int | None = None) -> None:
        """The next observation starts an episode: all of them, or those of a mask [B] or of some indices.

        `seed` starts the random numbers anew, which go on otherwise. After a reset of all, the next batch may have
        another size.
        """
        if seed is not None:
            self._seed, self._noise = seed, None
        if where is None:
            self._count = 0
            return
        try:
            self._is_first[np.asarray(where)] = True
        except IndexError:
            raise ValueError(f"reset({where!r}): must be a mask or indices of {self._count} observations") from None

    def _start(self, count: int) -> None:
        """`count` episodes."""
        if self._noise is None or count != self._noise_count:
            epsilons = np.full(count, self._saved.config.run.test_epsilon)
            self._noise, self._noise_count = NoiseGenerator(self._seed, epsilons), count
        self._count, self._is_first = count, np.ones(count, bool)
        self._last_action = np.zeros(count, np.int32)
        self._state = self._saved.agent.initial_state(count)

    def _timestep(self, parts: dict[str, Any], reward: Any) -> TimeStep:
        """What the network takes, [B, ...]."""
        graph, first = self._graphs.get(self._count), self._is_first
        if reward is None and graph and graph.reads(REWARD_LEAF) and not first.all():
            name = self._saved.config.run.agent_name
            raise ValueError(
                f"{name} reads the last reward: give it as the second argument, policy(observation, reward)"
            )
        layout = RecordLayout(timestep_spec(self._saved.spec, self._count))
        timestep: TimeStep = layout.view(layout.empty(1))
        timestep = tree.map_structure(lambda array: array[0], timestep)
        rewards = np.broadcast_to(np.asarray(0.0 if reward is None else reward, np.float32), [self._count])
        timestep.extras.update({name: value for name, value in parts.items() if name in timestep.extras})
        if "level" in timestep.extras:
            timestep.extras["level"][:] = self._level
        return timestep._replace(
            observation=parts["observation"],
            reward=np.where(first, 0, rewards).astype(np.float32),
            is_first=first,
            last_action=np.where(first, 0, self._last_action).astype(self._last_action.dtype),
        )

    def _act(self, timestep: TimeStep) -> Any:
        """The actions [B] of the network; remembers what the next step needs."""
        assert self._noise is not None
        graph = self._graphs.setdefault(self._count, CachedGraph(self._saved.agent.act))
        tensors, self._state = graph(timestep.policy_inputs(), self._state, self._noise.draw())
        output = ActOutput(*(tensor.numpy() for tensor in tensors))
        if self._greedy:
            output = output._replace(action=output.logits.argmax(axis=-1).astype(np.int32))
        self.outputs, self._last_action, self._is_first = output, output.action, np.zeros(self._count, bool)
        return output.action

    def _env_action(self, action: Any) -> Any:
        """An action of the network as the level takes it."""
        if of_level := self._saved.spec.actions_by_level:
            action = of_level[self._level].index(int(action))
        return self._raw.env_action(action) if self._raw else int(action)
