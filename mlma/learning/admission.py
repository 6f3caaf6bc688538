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
from mlma.core.refusal import RefusedError, shown
from mlma.learning.run_state import SeedAllocator
from mlma.monitoring.metrics import Metrics
from mlma.monitoring.refusals import REFUSABLE
from mlma.transport.header_fields import VALUE_CHARACTERS, read_task

logger = logging.getLogger(__name__)

MAX_HANDSHAKES = 30  # of one actor within HANDSHAKE_SECONDS: one that reconnects faster has a fault
HANDSHAKE_SECONDS = 60.0
MAX_COUNTED_ACTORS = 2000  # whose handshakes are remembered


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
        self._handshakes: dict[int, list[float]] = {}  # actor -> when it was admitted lately
        metrics.actors.expect(self._num_actors)

    def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer; whatever the request contains, it is an answer and no error."""
        task = None
        try:
            task = read_task(request)
            return self._note_failure(task, request) if "failed" in request else self._admit(task, request)
        except REFUSABLE as error:
            self._metrics.refusals.add(error, task, what="")
            return {"refused": str(error) if isinstance(error, RefusedError) else f"malformed handshake: {error!r}"}

    def refuse(self, error: Exception) -> None:
        """Counts a request that could not even be read."""
        self._metrics.refusals.add(error, what="a handshake of ")

    def _admit(self, task: int, request: dict[str, Any]) -> dict[str, Any]:
        """RefusedError for a request that is malformed, too frequent or of another configuration."""
        self._check_settings(request)
        self._metrics.actors.set_host(task, request.get("host", "?"))
        self._check_rate(task)
        if self._deterministic:
            self._check_first_time(task)
        num_actors = self._num_actors * self._num_learners  # of the run
        actor = task % self._num_actors * self._num_learners + self._rank
        num_envs: Any = request.get("envs")  # checked with inference, where it matters
        if self._inference:
            self._inference.check_size(task, num_envs)
        seed = self._seeds.for_actor(actor) if self._deterministic else self._seeds.allocate()
        answer = {"seed": seed, "actor": actor, "actors": num_actors, "time": time.time()}
        if self._inference:
            answer["session"] = self._inference.open(task, num_envs, env_indices(actor, num_actors, num_envs), seed)
        return answer

    def _note_failure(self, task: int, request: dict[str, Any]) -> dict[str, Any]:
        """An actor whose environments failed says so before it ends."""
        if not isinstance(request["failed"], str):
            raise RefusedError("header", "failed: must be text")
        self._check_rate(task)
        line = self._metrics.actors.set_failure(task, request["failed"])
        logger.warning("actor %d on %s ended: %s", task, shown(request.get("host", "?"), VALUE_CHARACTERS), line)
        return {}

    def _check_settings(self, request: dict[str, Any]) -> None:
        differences = [
            f"{name}: actor has {shown(request.get(name), VALUE_CHARACTERS)}, learner {value}"
            for name, value in self._expected.items()
            if request.get(name) != value
        ]
        if differences:
            raise RefusedError("handshake", "; ".join(differences))

    def _check_rate(self, task: int) -> None:
        now = time.monotonic()
        if len(self._handshakes) >= MAX_COUNTED_ACTORS:
            self._handshakes = {actor: t for actor, t in self._handshakes.items() if now - t[-1] < HANDSHAKE_SECONDS}
        times = [t for t in self._handshakes.get(task, []) if now - t < HANDSHAKE_SECONDS]
        if len(times) >= MAX_HANDSHAKES:
            raise RefusedError(
                "too_often",
                f"actor {task} connected {len(times)} times within {HANDSHAKE_SECONDS:.0f} s; is there another actor "
                f"with --task={task}?",
            )
        self._handshakes[task] = [*times, now]

    def _check_first_time(self, task: int) -> None:
        if task in self._admitted:  # the round would wait for trajectories that are lost
            reason = f"actor {task} connected again and its previous trajectories are lost: the run is not reproducible"
            self._on_failure(NotReproducibleError(f"--deterministic: {reason}"))
            raise RefusedError("handshake", reason)
        self._admitted.add(task)
