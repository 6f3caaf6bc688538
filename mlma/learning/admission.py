"""Admission of actors: the learner's answer to a handshake request.

Not here: what actor and learner must agree on (mlma/transport/handshake.py), how it travels (mlma/transport/server.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from mlma.acting.inference_server import InferenceServer
from mlma.acting.trajectory_writer import env_indices
from mlma.core.config import Config
from mlma.learning.run_state import SeedAllocator
from mlma.monitoring.metrics import Metrics

logger = logging.getLogger(__name__)


class NotReproducibleError(Exception):
    """A deterministic run has lost data and cannot be reproduced any more."""


class ActorAdmission:
    """Answers a handshake request with a seed and the actor's index in the run, or with the reason for a refusal."""

    def __init__(
        self,
        config: Config,
        expected: dict[str, Any],
        rank: int,
        num_learners: int,
        seeds: SeedAllocator,
        inference: InferenceServer | None,
        metrics: Metrics,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        """`expected` is the learner's own handshake request, which the actor's must equal."""
        self._expected, self._rank, self._num_learners = expected, rank, num_learners
        self._num_actors, self._deterministic = config.actor.num_actors, config.run.deterministic
        self._seeds, self._inference, self._metrics, self._on_failure = seeds, inference, metrics, on_failure
        self._admitted = set[int]()

    def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        """KeyError, TypeError or ValueError for a malformed request."""
        task = int(request["task"])
        if reason := self._reason_to_refuse(task, request):
            logger.warning("refused actor %d: %s", task, reason)
            return {"refused": reason}
        self._metrics.actors.set_host(task, str(request.get("host", "?")))
        num_actors = self._num_actors * self._num_learners  # of the run
        actor = task % self._num_actors * self._num_learners + self._rank
        seed = self._seeds.for_actor(actor) if self._deterministic else self._seeds.allocate()
        answer = {"seed": seed, "actor": actor, "actors": num_actors, "time": time.time()}
        if self._inference:
            num_envs = int(request["envs"])
            answer["session"] = self._inference.open(task, num_envs, env_indices(actor, num_actors, num_envs), seed)
        return answer

    def _reason_to_refuse(self, task: int, request: dict[str, Any]) -> str:
        differences = [
            f"{name}: actor has {request.get(name)}, learner {value}"
            for name, value in self._expected.items()
            if request.get(name) != value
        ]
        if not differences and self._deterministic:
            if task in self._admitted:  # the round would wait for trajectories that are lost
                reason = (
                    f"actor {task} connected again and its previous trajectories are lost: the run is not reproducible"
                )
                self._on_failure(NotReproducibleError(f"--deterministic: {reason}"))
                return reason
            self._admitted.add(task)
        return "; ".join(differences)
