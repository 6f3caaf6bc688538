"""The records that travel through the system, and the interfaces of agents and environments.

Alignment: index t holds the observation x_t, the reward that ARRIVED with x_t, and the action that was taken FROM x_t.
Step 0 of a trajectory is step T of the trajectory before it. Two flags describe ends:

* `discount` is 0 where the return ends (the episode terminated, or a life was lost), else 1. It belongs to the step
  that the ending transition leads TO.
* `is_first` marks the first observation of an episode. The transition that leads to it is not real, since the
  environment was reset in between, and must not be learned from. Recurrent state and stacked frames reset there. A
  truncated episode thus bootstraps: its last step has discount 1, and the transition after it is masked.

The fields of a record are numpy arrays in an actor and tensors in a learner, hence `Any`. The comment after each field
gives dtype and shape, where `...` is [] in an environment, [E] in an actor and [T+1, B] in a learner.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from mlma.core.config import Config

WORD_BUCKETS = 1000  # hash buckets for the words of an instruction, as in the IMPALA paper; 0 is padding


class ArraySpec(NamedTuple):
    """Shape and dtype name of one array: the leaf of every spec."""

    shape: tuple[int, ...]
    dtype: str


class ChoicePart(NamedTuple):
    """One choice, within an action that also has real numbers."""

    alternatives: int


class BoxPart(NamedTuple):
    """Real numbers of an action, in units in which bounds on both sides are -1 and 1."""

    bounded: tuple[bool, ...]  # for each number, whether it is bounded on both sides


ActionPart = ChoicePart | BoxPart


class EnvSpec(NamedTuple):
    """What a level, or the levels of a run, look like to an agent."""

    observation: ArraySpec  # uint8 [H, W, C] for images, float32 [N] for vectors
    num_actions: int  # 0 if actions have real numbers
    action_repeats: int  # frames per agent step
    extras: dict[str, ArraySpec] = {}  # noqa: RUF012  # of TimeStep.extras
    action_names: tuple[str, ...] = ()
    # For each level of a run with several: its actions, as indices into the actions of all. Empty for a single level.
    actions_by_level: tuple[tuple[int, ...], ...] = ()
    suite: str = ""  # of the first level, as in mlma/envs/registry.py
    # The parts of an action with real numbers, in order; empty if actions can be listed. See mlma/core/actions.py.
    action_parts: tuple[ActionPart, ...] = ()


class TimeStep(NamedTuple):
    """One step of an environment. The observation is a single frame; the network stacks frames."""

    observation: Any  # as EnvSpec.observation, [..., *shape]
    reward: Any  # float32 [...], raw: clipping is up to the learner
    discount: Any  # float32 [...]
    is_first: Any  # bool [...]
    last_action: Any  # int32 [...], or float32 [..., N] with real numbers: what led here; 0 where `is_first`
    episode_return: Any  # float32 [...], raw return of the episode at its last step, NaN elsewhere
    episode_frames: Any  # int32 [...], length of the episode in frames at its last step, 0 elsewhere
    # Inputs that only some levels have: vector float32 [..., N], numbers next to an image; words int32 [..., W], hash
    # buckets of the words of a text, padded with 0; level int32 [...], index into the levels of a run with several.
    extras: dict[str, Any] = {}  # noqa: RUF012  # never modified

    def policy_inputs(self) -> TimeStep:
        """The fields that a network reads; the others are None."""
        return self._replace(discount=None, episode_return=None, episode_frames=None)


class ActionNoise(NamedTuple):
    """Random numbers for action selection, drawn by the caller so that `act` is deterministic."""

    uniform: Any  # float32 [...], or [..., N] for actions with real numbers; in [0, 1)
    epsilon: Any  # float32 [...], probability of a random action; ignored by stochastic policies


class ActOutput(NamedTuple):
    """An agent's actions, and the network outputs behind them."""

    action: Any  # int32 [...], or float32 [..., N] with real numbers, before they are brought within bounds
    # float32 [..., A], of the behaviour policy; q-values for algorithms with q-values. For actions with real numbers,
    # all parameters of their distribution: mlma/core/actions.py.
    logits: Any
    value: Any  # float32 [...]


class Trajectory(NamedTuple):
    """T+1 overlapping steps of ONE environment."""

    agent_state: Any  # before step 0; nest of arrays
    timesteps: TimeStep  # [T+1]
    act_outputs: ActOutput  # [T+1]
    weights_version: Any  # int64 [], learner step of the weights that acted
    actor_id: Any  # int32 []
    env_index: Any = None  # int32 [], index among all environments of the run; see Agent.exploration_epsilons
    env_stream_id: Any = None  # int64 [], id of the environment's stream of trajectories, unique within the run
    sequence_number: Any = None  # int64 [], position within the stream: n + 1 continues where n ends
    initial_priorities: Any = None  # float32 [T], from the actor's own q-values; None without a replay


class Sample(NamedTuple):
    """What a learner step trains on: a batch of trajectories, time first."""

    trajectory: Trajectory  # [T+1, B, ...]; agent_state, weights_version and actor_id are [B, ...]
    keys: Any  # int64 [B], identify the items in a replay; 0 from a queue
    importance_weights: Any  # float32 [B]
    num_new_steps: Any  # int, agent steps that no earlier sample counted


class ReplayWindowSpec(NamedTuple):
    """Which windows a replay cuts out of consecutive trajectories.

    A window has burn_in + length + 1 steps. Its first `burn_in` steps only warm up the recurrent state; in a window
    that starts with an episode, where the state is known, they are zeros.
    """

    every_step: bool  # a window starts at each real transition; else at each trajectory and at each episode start
    burn_in: int
    length: int  # transitions that are learned from


class NetworkState(NamedTuple):
    """The agent state of a network that stacks frames. A replay can rebuild `frames`."""

    frames: Any  # uint8 [B, k-1, H, W, C], oldest first, zeros before the first; None without a stack
    core: Any  # (hidden, cell) float32 [B, N], or None


class LossOutput(NamedTuple):
    """What `Agent.loss` returns."""

    total: Any  # float32 []
    priorities: Any  # float32 [B]
    metrics: dict[str, Any]  # name -> float32 []
    statistics: Any = ()  # float32 [Agent.num_statistics]


class Agent(Protocol):
    """One algorithm: how to act and what to minimise. It owns the network; everything else belongs to the system.

    What must be known of an algorithm before its agent exists is in mlma/core/catalog.py.
    """

    network: Any  # snt.Module whose variables are the weights
    replay_windows: ReplayWindowSpec | None  # windows from a replay, or None: whole trajectories from a queue
    batch_loss: str  # the loss of several learners is the "sum" or the "mean" of theirs
    target_variables: list[Any]  # variables without a gradient that a checkpoint must hold, such as a target network's
    num_statistics: int  # numbers per sample that are summed over all learners for `update_statistics`

    def initial_state(self, batch_size: int) -> Any:
        """The agent state at the start of an episode, [B, ...]."""
        ...

    def act(self, timestep: TimeStep, agent_state: Any, noise: ActionNoise) -> tuple[ActOutput, Any]:
        """Actions for one step of E environments, and the agent state after it."""
        ...

    def loss(self, sample: Sample) -> LossOutput:
        """The loss of a sample, its new priorities and its metrics."""
        ...

    def exploration_epsilons(self, env_indices: Any, num_envs: int) -> Any:
        """float32 [E], for these of the run's `num_envs` environments while they train."""
        ...

    def initial_priorities(self, timesteps: TimeStep, acted: ActOutput) -> Any:
        """float32 [T, E] from [T+1, E] without observations: an actor's own estimate of its TD errors."""
        ...

    def sequence_priorities(self, td_errors: Any, mask: Any) -> Any:
        """float32 [N] from [L, N] each: the priority of a window from those of its steps."""
        ...

    def update_statistics(self, statistics: Any) -> None:
        """Applies the summed statistics of all samples of a learner step; runs within a tf.function."""
        ...

    def on_learner_step(self, step: int) -> None:
        """Called on all ranks after the same learner steps."""
        ...


MakeAgent = Callable[[Config, EnvSpec], Agent]


class VectorEnv(Protocol):
    """E environments that step together. An episode that ended restarts by itself at the next step.

    Optional: `crashed`, bool [E], the environments that were replaced in the last step, so their trajectory is broken.
    """

    spec: EnvSpec
    num_envs: int

    def reset(self) -> TimeStep:
        """The first step of all environments."""
        ...

    def step(self, action: Any) -> TimeStep:
        """One step of all environments."""
        ...

    def close(self) -> None:
        """Releases everything."""
        ...
