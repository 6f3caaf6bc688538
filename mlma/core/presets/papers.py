"""The presets of `--preset` with the settings of papers, each value with its source; and two others by name.

A value given on the command line takes precedence. What a paper leaves to the machine is not here (number of actors,
environments of an actor) and comes from the preset `fast`, as does every flag that no table below names. Where the text
and the released code of a paper differ, the source says which one it is. Not here: `fast` (impala.py, apex.py,
r2d2.py), values that depend on the level (resolve.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

FAST = "fast"  # the value of --preset that is no paper's


class Sourced(NamedTuple):
    """A value of a flag, and where it is published."""

    value: Any
    source: str


class PaperPreset(NamedTuple):
    """The settings of a published run."""

    title: str
    paper: str
    algorithm: str
    values: Mapping[str, Sourced]

    def flags(self) -> dict[str, Any]:
        """Flag -> value."""
        return {"algorithm": self.algorithm} | {flag: sourced.value for flag, sourced in self.values.items()}


def _sourced(source: str, **values: Any) -> dict[str, Sourced]:
    return {flag: Sourced(value, source) for flag, value in values.items()}


DQN = "Mnih et al. 2015, extended data table 1"
# The preprocessing of Mnih et al. 2015, which all papers on Atari use.
_ATARI = {
    **_sourced(DQN, width=84, height=84, color_mode="grey", num_action_repeats=4, num_stacked_frames=4, noop_max=30),
    **_sourced("no paper here presses FIRE for the agent", fire_reset=False),
    **_sourced("pixels / 255, as in the released networks", pixel_scaling="unit"),
}
# V-trace as published, with each sample used once.
_VTRACE = {
    **_sourced("section 4.1: lambda 1, rho_bar = c_bar = 1", vtrace_lambda=1.0, clip_rho_threshold=1.0),
    **_sourced("section 4.2", clip_pg_rho_threshold=1.0),
    **_sourced("section 4.2: no clip, no sample used twice", policy_clip=0.0, sample_reuse=1),
    **_sourced("released code: Sonnet's defaults", initializers="released"),
    **_sourced("released code: TensorFlow 1's RMSProp", initial_mean_square=1.0, decay=0.99),
}

_G1 = "table G.1"
_IMPALA_ATARI = {
    **_ATARI,
    **_VTRACE,
    **_sourced(
        _G1,
        width=84,
        height=84,
        color_mode="grey",
        num_action_repeats=4,
        num_stacked_frames=4,
        life_loss_ends_return=True,
        reward_clipping="abs_one",
        unroll_length=20,
        batch_size=32,
        discounting=0.99,
        baseline_cost=0.5,
        entropy_cost=0.01,
        optimizer="rmsprop",
        momentum=0.0,
        epsilon=0.01,
        learning_rate=0.0006,
        end_learning_rate=0.0,
        gradients_clipping=40.0,
    ),
    **_sourced("section 5.3: 200 million frames", total_environment_frames=2e8),
    **_sourced("experts on single games: the game's own actions", full_action_space=False),
    **_sourced("section 5.3: the mean of 200 episodes", test_num_episodes=200),
}
IMPALA_SHALLOW = PaperPreset(
    "IMPALA on one Atari game, shallow network",
    "Espeholt et al. 2018, arXiv 1802.01561",
    "impala",
    {**_IMPALA_ATARI, **_sourced("figure 3, left; feed-forward on Atari", agent_name="ShallowConvNetAgent")},
)
IMPALA_DEEP = PaperPreset(
    "IMPALA on one Atari game, deep residual network",
    "Espeholt et al. 2018, arXiv 1802.01561",
    "impala",
    {**_IMPALA_ATARI, **_sourced("figure 3, right; feed-forward on Atari", agent_name="ResNetAgent")},
)
IMPALA_DMLAB30 = PaperPreset(
    "IMPALA on DMLab-30, one agent for all levels, deep residual network",
    "Espeholt et al. 2018, arXiv 1802.01561",
    "impala",
    {
        **_VTRACE,
        **_sourced("pixels / 255: released code", pixel_scaling="unit"),
        **_sourced(
            "table D.3", width=96, height=72, color_mode="rgb", num_action_repeats=4, unroll_length=100, batch_size=32
        ),
        **_sourced("table D.3", discounting=0.99, baseline_cost=0.5, optimizer="rmsprop", momentum=0.0),
        **_sourced("released code: one frame", num_stacked_frames=1),
        **_sourced("released code; the figure in the paper differs", reward_clipping="soft_asymmetric"),
        **_sourced("table D.1 has a range; the released example", entropy_cost=0.0033391318945337044),
        **_sourced("table D.1 has a range; the released example", learning_rate=0.00031866995608948655),
        **_sourced("released code: linear to 0", end_learning_rate=0.0),
        **_sourced("table D.1 has a range; the released code's default", epsilon=0.1),
        **_sourced("released code: none", gradients_clipping=-1.0),
        **_sourced("released example: 10 billion frames", total_environment_frames=1e10),
        **_sourced("figure 3, right", agent_name="ResNetLSTMAgent"),
    },
)

_APEX_4 = "section 4.1"
_APEX_C = "appendix C"
_APEX_REPLAY_RATIO = "12,500 steps/s come in, 9,700 are trained on: section 4.1"
APEX = PaperPreset(
    "Ape-X DQN on one Atari game",
    "Horgan et al. 2018, arXiv 1803.00933",
    "apex",
    {
        **_ATARI,
        **_sourced(_APEX_C, life_loss_ends_return=True, reward_clipping="abs_one", full_action_space=True),
        **_sourced(_APEX_C, agent_name="ConvNetAgent", batch_size=512, replay_capacity=2_000_000),
        **_sourced(_APEX_C, replay_min_fill=50_000, target_period=2500, gradients_clipping=40.0),
        **_sourced(_APEX_C, priority_exponent=0.6, importance_exponent=0.4, n_step=3, discounting=0.99),
        **_sourced(_APEX_C, optimizer="rmsprop_centered", decay=0.95, epsilon=1.5e-7, momentum=0.0),
        **_sourced(f"{_APEX_C}: 0.00025 / 4, constant", learning_rate=0.0000625, end_learning_rate=0.0000625),
        **_sourced(_APEX_4, exploration_base=0.4, exploration_exponent=7.0),
        **_sourced(_APEX_REPLAY_RATIO, replay_ratio=0.8),
        **_sourced("an actor sends batches of 50 steps; the nearest that fits here", unroll_length=50),
        **_sourced("released networks of the group: Sonnet's defaults", initializers="released"),
        **_sourced("table 1: 22.8 billion frames", total_environment_frames=2.28e10),
    },
)
_R2D2_2 = "table 2"
R2D2 = PaperPreset(
    "R2D2 on one Atari game",
    "Kapturowski et al. 2019, openreview r1lyTjAqYX",
    "r2d2",
    {
        **_ATARI,
        **_sourced("section 2.3", life_loss_ends_return=False, reward_clipping="none", priority_eta=0.9),
        **_sourced("section 2.3: n = 5, gamma = 0.997", n_step=5, discounting=0.997),
        **_sourced("as Ape-X: all 18 actions", full_action_space=True),
        **_sourced("section 2.3: convolutions, LSTM of 512, dueling heads", agent_name="ConvLSTMAgent"),
        **_sourced(_R2D2_2, batch_size=64, sequence_length=80, burn_in=40, replay_capacity=4_000_000),
        **_sourced(f"{_R2D2_2}: sequences overlap by 40 steps", unroll_length=40),
        **_sourced(f"{_R2D2_2}; the text of section 2.3 omits the weights", importance_exponent=0.6),
        **_sourced(_R2D2_2, priority_exponent=0.9, target_period=2500, optimizer="adam", epsilon=1e-3),
        **_sourced(f"{_R2D2_2}, constant", learning_rate=1e-4, end_learning_rate=1e-4),
        **_sourced("as Ape-X", gradients_clipping=40.0, exploration_base=0.4, exploration_exponent=7.0),
        **_sourced("not published; 5,000 sequences", replay_min_fill=200_000),
        **_sourced("section 2.3: each step is used 0.8 times", replay_ratio=0.8),
        **_sourced("released networks of the group: Sonnet's defaults", initializers="released"),
        **_sourced("not in its tables, which name days; chosen here", total_environment_frames=1e10),
    },
)
_COMMAND = "its command line"
SEED_000 = PaperPreset(
    "the command of the first system that this project grew from, on Atari",
    "the paper's settings of IMPALA, and what its command line changed",
    "impala",
    {
        **IMPALA_SHALLOW.values,
        **_sourced(
            _COMMAND,
            total_environment_frames=1e9,
            batch_size=32,
            unroll_length=20,
            queue_capacity=128,
            learning_rate=0.0006,
            end_learning_rate=0.0,
            discounting=0.99,
            entropy_cost=0.05,
            baseline_cost=1.0,
            gradients_clipping=40.0,
            reward_clipping="abs_one",
        ),
        **_sourced("not given; the default here", test_num_episodes=10),
    },
)

_AS_FAST = "as `fast` on images"
# Simulating DeepMind Lab takes 2.0 to 2.4 ms of CPU for each agent step, so the learner may take about as much. Three
# uses of a step cost 0.8 ms with this network, and 8 ms with the paper's.
DMLAB_CPU = PaperPreset(
    "IMPALA on DeepMind Lab without a GPU, shallow network, few steps in a batch",
    "no paper's; what each value is for: docs/guides/levels.md",
    "impala",
    {
        **_sourced("the paper's: table D.3", width=96, height=72, color_mode="rgb", num_action_repeats=4),
        **_sourced("the paper's released code", num_stacked_frames=1, reward_clipping="soft_asymmetric"),
        **_sourced("the paper's shallow network, figure 3, left", agent_name="ShallowLSTMAgent"),
        **_sourced("4.3 s of the level, for the memory; the paper has 6.7 s", unroll_length=64),
        **_sourced("one trajectory of each environment on two cores", batch_size=8),
        **_sourced("simulation is what costs, so each step is used three times", sample_reuse=3),
        **_sourced(_AS_FAST, vtrace_lambda=0.95, policy_clip=0.15, baseline_cost=0.5, optimizer="adam"),
        **_sourced(_AS_FAST, learning_rate=0.0004, end_learning_rate=0.0, decay=0.99, epsilon=1e-5),
        **_sourced(_AS_FAST, gradients_clipping=128.0, discounting=0.99),
        **_sourced("as `fast` on VizDoom, also seen from within", entropy_cost=0.005),
        **_sourced("about 3.5 hours on two cores", total_environment_frames=2e7),
        **_sourced("3,700 episodes of 90 s on one level: each map comes 37 times", map_seeds=100),
    },
)

PAPER_PRESETS: dict[str, PaperPreset] = {
    "impala_shallow": IMPALA_SHALLOW,
    "impala_deep": IMPALA_DEEP,
    "impala_dmlab30": IMPALA_DMLAB30,
    "apex": APEX,
    "r2d2": R2D2,
    "seed_000": SEED_000,
    "dmlab_cpu": DMLAB_CPU,
}


def preset_flags(name: str) -> dict[str, Any]:
    """Flag -> value of a paper's preset; nothing for `fast`, whose values depend on algorithm and level."""
    return PAPER_PRESETS[name].flags() if name in PAPER_PRESETS else {}
