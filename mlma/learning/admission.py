"""The handshake: what an actor and its learner must agree on, and what the learner answers.

Not here: how it travels (mlma/transport/server.py), the token.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from mlma.acting.inference_server import InferenceServer
from mlma.acting.trajectory_writer import env_indices
from mlma.core.config.config import Config
from mlma.learning.run_state import SeedAllocator
from mlma.monitoring.metrics import Metrics


class NotReproducibleError(Exception):
    """A run that was to be like another cannot be any more."""


class ActorAdmission:
    """Called with what an actor offers: its answer is a seed and which of all actors this is, or why it is refused."""

    def __init__(
        self,
        config: Config,
        wanted: dict[str, Any],
        rank: int,
        ranks: int,
        seeds: SeedAllocator,
        inference: InferenceServer | None,
        metrics: Metrics,
        say: Callable[[str], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._wanted, self._rank, self._ranks, self._expected = wanted, rank, ranks, config.num_actors
        self._seeds, self._inference, self._metrics = seeds, inference, metrics
        self._say, self._fail = say, fail
        self._deterministic, self._came = config.deterministic, set[int]()

    def __call__(self, offer: dict[str, Any]) -> dict[str, Any]:
        task = int(offer["task"])
        if wrong := self._wrong(task, offer):
            self._say(f"refused actor {task}: {wrong}")
            return {"refused": wrong}
        self._metrics.actor_on(task, str(offer.get("host", "?")))
        actor = task % self._expected * self._ranks + self._rank
        seed = self._seeds.of(actor) if self._deterministic else self._seeds.next()
        answer = {"seed": seed, "actor": actor, "actors": self._expected * self._ranks, "time": time.time()}
        if self._inference:
            num_envs = int(offer["envs"])
            mine = env_indices(actor, self._expected * self._ranks, num_envs)
            answer["session"] = self._inference.open(task, num_envs, mine, seed)
        return answer

    def _wrong(self, task: int, offer: dict[str, Any]) -> str:
        differ = [
            f"{name}: actor has {offer.get(name)}, learner {value}"
            for name, value in self._wanted.items()
            if offer.get(name) != value
        ]
        if not differ and self._deterministic:
            if task in self._came:  # it waits for a turn that nobody will complete
                lost = f"actor {task} came again, and what it had played is lost: no other run would do that"
                self._fail(NotReproducibleError(f"--deterministic: {lost}"))
                return lost
            self._came.add(task)
        return "; ".join(differ)
