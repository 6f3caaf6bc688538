"""The largest values of flags that share a reason. Whether a run fits this machine is in mlma/core/memory_needs.py."""

from __future__ import annotations

MAX_ARGUMENT_CHARACTERS = 131_000  # the kernel's limit for one argument of a command
A_WEEK = 7 * 86_400  # of waiting; waits in milliseconds are 32-bit numbers, so they end after 24 days
A_YEAR = 366 * 86_400  # between two events
MAX_FRAMES = 1e15  # counted exactly in a float64
MAX_ACTORS = 100_000  # `scale` has the same limit
MAX_LEARNERS = 4096
MAX_ENVS_PER_ACTOR = 1024  # seeds that an actor has of its own: mlma/learning/run_state.py
MAX_THREADS = 1024  # of one process; more than any machine has cores
MAX_PIXELS = 4096  # of a side of an image
MAX_STEPS = 10_000  # of a trajectory or a sequence, which travels and is learned from as a whole
MAX_RECURRENT_STEPS = 1000  # of an LSTM, which is unrolled: 400 steps take 9 s of CPU to build, 1,000 take about 23 s
MAX_N_STEP = 256  # each step is an operation in the graph
MAX_REPLAY_STEPS = 10_000_000_000
MAX_WEIGHT = 1_000_000  # of a term of the loss
