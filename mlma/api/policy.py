"""`load_policy`: a trained policy that maps observations of its level to actions.

It sets no threads and ends no process, so it works wherever TensorFlow is already in use. Not here: what it keeps of
the past (mlma/evaluation/network_policy.py); stepping environments, which its user does.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mlma.utils.import_object import import_object
from mlma.utils.tensorflow_setup import import_tensorflow

import_tensorflow()  # quietly, before the imports below do it

from mlma.core.types import ActOutput  # noqa: E402
from mlma.envs.raw_level import read_observations, read_parts  # noqa: E402
from mlma.envs.registry import level_names, raw_level  # noqa: E402
from mlma.evaluation.network_policy import NetworkPolicy  # noqa: E402
from mlma.evaluation.saved_policy import MAKE_AGENT, SavedPolicy, load_saved_policy  # noqa: E402

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
    return Policy(load_saved_policy(Path(source), checkpoint, import_object(MAKE_AGENT)), actions, seed, level)


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
            raise ValueError(f"level={level!r}: must be one of {', '.join(names)}")
        self._saved, self.level_name = saved, level or names[0]
        self._level = names.index(self.level_name)
        self._raw = raw_level(self.level_name, saved.config.environment)
        self._network = NetworkPolicy(saved, actions == "greedy", seed, self._level)

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

    @property
    def outputs(self) -> ActOutput | None:
        """What the network gave in the last step: action, logits (or q-values) and value, each [B, ...]."""
        return self._network.outputs

    def __call__(self, observation: Any, reward: Any = None) -> Any:
        """The action, as `env.step` takes it; for a batch, an array of them, or a list if they are dicts or tuples.

        `observation` is what the level's environment gave, or a batch of that, as of a vector environment. `reward` is
        what arrived with it; only networks that read the last reward need it, except where an episode starts.
        """
        if self._raw:
            parts, is_batch = read_observations(self._raw, observation)
        else:
            parts, is_batch = read_parts(self._saved.spec, observation)
        actions = [self._env_action(action) for action in self._network(parts, reward)]
        if not is_batch:
            return actions[0]
        return actions if isinstance(actions[0], dict | tuple) else np.stack(actions)

    def reset(self, where: Any = None, *, seed: int | None = None) -> None:
        """The next observation starts an episode: all of them, or those of a mask [B] or of some indices.

        `seed` starts the random numbers anew, which go on otherwise. After a reset of all, the next batch may have
        another size.
        """
        self._network.reset(where, seed)

    def _env_action(self, action: Any) -> Any:
        """An action of the network as the level takes it."""
        if of_level := self._saved.spec.actions_by_level:
            action = of_level[self._level].index(int(action))
        return self._raw.env_action(action if np.ndim(action) else int(action)) if self._raw else int(action)
