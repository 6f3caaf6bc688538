"""The records that travel through the system, and what an agent must offer. Imports nothing of ours.

Alignment, once and for all: index t holds the observation x_t, the reward that ARRIVED with x_t, and the action that was
taken FROM x_t. Step 0 of a trajectory is step T of the one before it. Two flags describe the end of things:

* `discount` is 0 where the return ends (the game terminated, or a life was lost), else 1. It belongs to the step that the
  ending transition leads TO.
* `first` marks the first observation of a new game. The transition that leads to it is not real (the environment was reset
  in between) and must not be learned from; recurrent state and stacked frames start afresh there. A truncated game
  therefore bootstraps by itself: its last step has discount 1, and the unreal step after it is masked.

A record is filled with numpy arrays in the actor and with tensors in the learner, so its fields are `Any`; the comment
after each field gives dtype and shape, where `...` is [] in an environment, [E] in an actor and [T+1, B] in the learner.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from mlma.core.config.config import Config


class ArraySpec(NamedTuple):
    """Shape and dtype name of one array: the leaf of every spec."""

    shape: tuple[int, ...]
    dtype: str


class EnvSpec(NamedTuple):
    """What a level looks like to an agent."""

    observation: ArraySpec  # uint8 [H, W, C] for images, float32 [N] for vectors
    num_actions: int
    action_repeats: int  # frames that one agent step takes
    more: dict[str, ArraySpec] = {}  # noqa: RUF012  # of TimeStep.more
    action_names: tuple[str, ...] = ()
    # Of a run with several levels, by level: which of the actions it has, in its own order. () is one level, which has all.
    actions_of: tuple[tuple[int, ...], ...] = ()


class TimeStep(NamedTuple):
    """What the environment says; one frame only: the stack of frames is the agent's business."""

    observation: Any  # as EnvSpec.observation, [..., *shape]
    reward: Any  # float32 [...], raw: clipping belongs to the learner
    discount: Any  # float32 [...]
    first: Any  # bool [...]
    last_action: Any  # int32 [...], the action that led here; 0 where `first`
    episode_return: Any  # float32 [...], raw return of the whole game at its last step, NaN at all others
    episode_frames: Any  # int32 [...], its length in frames there, 0 at all others
    # What only some levels have: vector float32 [..., N], numbers beside an image; words int32 [..., W], the buckets of a
    # text's words, 0 after the last; level int32 [...], index in the run's list of levels, where there are several.
    more: dict[str, Any] = {}  # noqa: RUF012  # nobody writes to it

    def seen(self) -> TimeStep:
        """What a network reads of it."""
        return self._replace(discount=None, episode_return=None, episode_frames=None)


class ActionNoise(NamedTuple):
    """What is left to chance when actions are chosen; drawn by who plays, so that acting itself is a function."""

    number: Any  # float32 [...], uniform in [0, 1)
    epsilon: Any  # float32 [...], how often any action will do; nothing to a policy, which explores by itself


class ActOutput(NamedTuple):
    """What the agent did, and what it thought."""

    action: Any  # int32 [...]
    logits: Any  # float32 [..., A], of the behaviour policy (or its q-values)
    value: Any  # float32 [...]


class Trajectory(NamedTuple):
    """T+1 overlapping steps of ONE environment."""

    agent_state: Any  # before step 0; nest of arrays
    timesteps: TimeStep  # [T+1]
    act_outputs: ActOutput  # [T+1]
    weights_version: Any  # int64 [], the learner step whose weights acted
    task: Any  # int32 [], which actor
    place: Any = None  # int32 [], of its environment among all of the run: Agent.epsilons
    stream: Any = None  # int64 [], of its environment in this life of its actor: unique in a run
    number: Any = None  # int64 [], which of its stream: number n + 1 goes on where n ends
    errors: Any = None  # float32 [T], what the actor makes of its own q-values: Agent.errors; None without a replay


class Sample(NamedTuple):
    """What the learner trains on: trajectories side by side, time first."""

    trajectory: Trajectory  # [T+1, B, ...]; agent_state, weights_version and task are [B, ...]
    keys: Any  # int64 [B], where the memory keeps them (0 in a queue)
    importance_weights: Any  # float32 [B]
    new_steps: Any  # int, agent steps in it that no sample before it held


class ReplayWindowSpec(NamedTuple):
    """What an algorithm wants to be cut out of the trajectories that a replay holds, one after the other.

    A window is burn_in + length + 1 steps. Its first `burn_in` steps only warm up the recurrent state; they are zeros in
    front of a window that opens with a game, where the state is known.
    """

    every_step: bool  # a window begins at each real transition; else at each trajectory and at each new game
    burn_in: int
    length: int  # transitions that can be learned from


class NetworkState(NamedTuple):
    """The state of an agent whose network stacks frames: the one state whose `frames` a replay can rebuild."""

    frames: Any  # uint8 [B, k-1, H, W, C], oldest first; zeros before the first; None without a stack
    core: Any  # (hidden, cell) float32 [B, N], or None


class LossOutput(NamedTuple):
    total: Any  # float32 []
    priorities: Any  # float32 [B]
    metrics: dict[str, Any]  # name -> float32 []
    statistics: Any = ()  # float32 [Agent.statistics]


class Agent(Protocol):
    """One algorithm: how to act and what to minimise. It owns the network; everything else is the machine's."""

    network: Any  # snt.Module whose variables are the weights
    windows: (
        ReplayWindowSpec | None
    )  # what it learns from: windows from a prioritized replay, or None: whole trajectories from a queue
    batch_loss: str  # the loss of several learners together is the "sum" or the "mean" of theirs
    slow: list[Any]  # variables that no gradient changes and that a checkpoint must hold: of a target network
    statistics: int  # numbers that each sample tells beside its gradient; those of all learners are added up for `normalise`

    def initial_state(self, batch_size: int) -> Any: ...

    def act(self, timestep: TimeStep, agent_state: Any, chance: ActionNoise) -> tuple[ActOutput, Any]: ...

    def loss(self, sample: Sample) -> LossOutput: ...

    def epsilons(self, places: Any, count: int) -> Any:
        """Of these of the `count` environments of the run, while they train: float32 [E]."""
        ...

    def errors(self, timesteps: TimeStep, acted: ActOutput) -> Any:
        """What the actor itself thinks of its transitions: float32 [T, E] from [T+1, E], without observations."""
        ...

    def normalise(self, statistics: Any) -> None:
        """Takes the sum of what all samples of a step told: part of the update, within a tf.function."""
        ...

    def after_step(self, step: int) -> None:
        """Called on all ranks after the same learner steps."""
        ...


class VectorEnv(Protocol):
    """E environments stepped together. A game that ended restarts by itself at the next step.

    May also have `lost`, bool [E]: those that crashed in the last step and were replaced, so that their trajectory is broken.
    """

    spec: EnvSpec
    num_envs: int

    def reset(self) -> TimeStep: ...

    def step(self, action: Any) -> TimeStep: ...

    def close(self) -> None: ...


WORD_BUCKETS = 1000  # for words, as in the IMPALA paper; 0 is no word

MakeAgent = Callable[[Config, EnvSpec], Agent]
