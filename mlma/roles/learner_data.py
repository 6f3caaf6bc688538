"""The data side of a learner: server, admission of actors, receiver, queue or replay."""

from __future__ import annotations

GREEDY_SHARE = 0.75  # the part of the ladder of epsilons from which on an environment counts as greedy
