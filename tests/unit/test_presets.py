"""Presets: the papers' values, typed here from their tables, and how presets, files and flags take precedence."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlma.core.catalog import ALGORITHMS
from mlma.core.config import Config, flag_table, parse, save, to_argv
from mlma.core.presets.overview import preset_help, preset_tables
from mlma.core.presets.papers import PAPER_PRESETS
from mlma.core.presets.resolve import resolve
from mlma.core.types import ArraySpec, EnvSpec
from mlma.envs.registry import env_spec

# Espeholt et al. 2018 (arXiv 1802.01561), table G.1, row by row.
TABLE_G1: dict[str, Any] = {
    "width": 84,  # image width
    "height": 84,  # image height
    "color_mode": "grey",  # grayscaling: yes
    "num_action_repeats": 4,  # action repetitions; maximum of the last two frames
    "num_stacked_frames": 4,  # frame stacking
    "life_loss_ends_return": True,  # end of episode when life lost
    "reward_clipping": "abs_one",  # [-1, 1]
    "unroll_length": 20,
    "batch_size": 32,
    "discounting": 0.99,
    "baseline_cost": 0.5,  # baseline loss scaling
    "entropy_cost": 0.01,  # entropy regularizer
    "momentum": 0.0,  # RMSProp momentum
    "epsilon": 0.01,  # RMSProp epsilon
    "learning_rate": 0.0006,
    "gradients_clipping": 40.0,  # clip global gradient norm
    "end_learning_rate": 0.0,  # anneal linearly to 0, from beginning to end of training
}
# The same paper, section 4: V-trace with lambda 1 and both truncations 1, each sample once; RMSProp of TensorFlow 1.
SECTION_4 = {
    "vtrace_lambda": 1.0, "clip_rho_threshold": 1.0, "clip_pg_rho_threshold": 1.0, "sample_reuse": 1,
    "policy_clip": 0.0, "optimizer": "rmsprop", "decay": 0.99, "initial_mean_square": 1.0, "algorithm": "impala",
}  # fmt: skip
ATARI_PROTOCOL = {"noop_max": 30, "fire_reset": False, "sticky_actions": -1.0, "num_action_repeats": 4, "width": 84}
# The same paper, table D.3, for DMLab-30; table D.1 has the ranges of the search.
TABLE_D3 = {
    "width": 96, "height": 72, "num_action_repeats": 4, "unroll_length": 100, "batch_size": 32, "discounting": 0.99,
    "baseline_cost": 0.5, "optimizer": "rmsprop", "momentum": 0.0, "agent_name": "ResNetLSTMAgent",
}  # fmt: skip
# Horgan et al. 2018 (arXiv 1803.00933), section 4.1 and appendix C.
APEX_PAPER = {
    "algorithm": "apex", "agent_name": "ConvNetAgent", "replay_capacity": 2_000_000, "replay_min_fill": 50_000,
    "batch_size": 512, "priority_exponent": 0.6, "importance_exponent": 0.4, "n_step": 3, "discounting": 0.99,
    "optimizer": "rmsprop_centered", "learning_rate": 0.00025 / 4, "end_learning_rate": 0.00025 / 4, "decay": 0.95,
    "epsilon": 1.5e-7, "gradients_clipping": 40.0, "target_period": 2500, "exploration_base": 0.4,
    "exploration_exponent": 7.0, "reward_clipping": "abs_one", "full_action_space": True, "life_loss_ends_return": True,
}  # fmt: skip
# Kapturowski et al. 2019, section 2.3 and table 2.
R2D2_PAPER = {
    "algorithm": "r2d2", "agent_name": "ConvLSTMAgent", "sequence_length": 80, "burn_in": 40, "unroll_length": 40,
    "replay_capacity": 4_000_000, "priority_exponent": 0.9, "importance_exponent": 0.6, "priority_eta": 0.9,
    "discounting": 0.997, "n_step": 5, "batch_size": 64, "optimizer": "adam", "learning_rate": 1e-4,
    "end_learning_rate": 1e-4, "epsilon": 1e-3, "target_period": 2500, "reward_clipping": "none",
    "full_action_space": True, "life_loss_ends_return": False,
}  # fmt: skip
SEED_COMMAND = {
    "batch_size": 32, "queue_capacity": 128, "unroll_length": 20, "total_environment_frames": 1e9,
    "learning_rate": 0.0006, "end_learning_rate": 0.0, "discounting": 0.99, "entropy_cost": 0.05, "baseline_cost": 1.0,
    "gradients_clipping": 40.0, "reward_clipping": "abs_one",
}  # fmt: skip
# No paper's: what a machine without a GPU can learn from, with the levels as in table D.3.
DMLAB_CPU: dict[str, Any] = {
    "algorithm": "impala", "agent_name": "ShallowLSTMAgent", "width": 96, "height": 72, "num_action_repeats": 4,
    "num_stacked_frames": 1, "reward_clipping": "soft_asymmetric", "batch_size": 8, "unroll_length": 64,
    "sample_reuse": 3, "map_seeds": 100, "optimizer": "adam", "total_environment_frames": 2e7,
}  # fmt: skip
PUBLISHED = {
    "impala_shallow": TABLE_G1 | SECTION_4 | ATARI_PROTOCOL | {"agent_name": "ShallowConvNetAgent"},
    "impala_deep": TABLE_G1 | SECTION_4 | ATARI_PROTOCOL | {"agent_name": "ResNetAgent"},
    "impala_dmlab30": TABLE_D3 | SECTION_4,
    "apex": APEX_PAPER | ATARI_PROTOCOL,
    "r2d2": R2D2_PAPER | ATARI_PROTOCOL,
    "seed_000": SEED_COMMAND | ATARI_PROTOCOL,
    "dmlab_cpu": DMLAB_CPU,
}
# What the papers leave to the machine, and what has no meaning for the algorithm.
NOT_FROM_PAPERS = {"envs_per_actor"}
DMLAB_SPEC = EnvSpec(ArraySpec((72, 96, 3), "uint8"), num_actions=9, action_repeats=4, suite="dmlab")


def resolved(*words: str, spec: EnvSpec | None = None) -> Config:
    config = parse([*words])
    return resolve(config, spec or env_spec(config.environment), cores=2)


@pytest.mark.parametrize("name", PAPER_PRESETS)
def test_a_preset_resolves_to_the_values_of_its_paper(name: str) -> None:
    dmlab = "dmlab" in name
    level = "rooms_watermaze" if dmlab else "atari_breakout"
    config = resolved(f"--preset={name}", f"--level_name={level}", spec=DMLAB_SPEC if dmlab else None)
    assert {flag: config.get(flag) for flag in PUBLISHED[name]} == PUBLISHED[name]


@pytest.mark.parametrize("name", PAPER_PRESETS)
def test_a_paper_leaves_nothing_that_is_learned_to_the_preset_fast(name: str) -> None:
    preset = PAPER_PRESETS[name]
    tuned = ALGORITHMS[preset.algorithm].presets.images.keys() - NOT_FROM_PAPERS
    assert tuned - preset.values.keys() == ({"decay"} if name == "r2d2" else set())  # Adam has no decay of RMSProp
    assert [flag for flag, sourced in preset.values.items() if len(sourced.source) < 5] == []
    assert preset.values.keys() <= flag_table().keys()
    assert PUBLISHED.keys() == PAPER_PRESETS.keys()


def test_a_flag_takes_precedence_over_the_preset_in_any_order_and_also_with_its_default() -> None:
    for words in (["--preset=apex", "--nofull_action_space"], ["--full_action_space=false", "--preset=apex"]):
        config = parse(words)
        assert not config.environment.full_action_space
        assert config.run.algorithm == "apex"
        assert parse(to_argv(config)) == config  # what a learner hands to its actors


def test_a_preset_survives_its_command_line_and_its_file(tmp_path: Path) -> None:
    for name in PAPER_PRESETS:
        config = parse([f"--preset={name}", "--batch_size=7"])
        assert to_argv(config) == [f"--preset={name}", "--batch_size=7"]
        assert parse(to_argv(config)) == config
        save(config, tmp_path / f"{name}.json")
        assert parse([f"--config={tmp_path / name}.json"]) == config
    changed = parse([f"--config={tmp_path / 'apex.json'}", "--preset=impala_deep"])
    assert changed.run.algorithm == "impala"
    assert changed.learner.batch_size == 32


def test_a_preset_of_another_algorithm_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^--algorithm=r2d2: not with --preset=apex; allowed: apex$"):
        parse(["--preset=apex", "--algorithm=r2d2"])
    with pytest.raises(
        ValueError, match=r"^--preset=impala_shalow: must be one of fast, .*; did you mean impala_shallow"
    ):
        parse(["--preset=impala_shalow"])


def test_fast_is_the_default_and_differs_by_algorithm_and_level() -> None:
    assert resolved("--level_name=atari_breakout") == resolved("--level_name=atari_breakout", "--preset=fast")
    impala, pong = resolved("--level_name=atari_breakout"), resolved("--level_name=atari_pong")
    assert (impala.learner.sample_reuse, impala.learner.policy_clip) == (3, 0.15)
    assert (impala.run.total_environment_frames, pong.run.total_environment_frames) == (2e7, 1.2e7)
    assert resolved("--level_name=atari_breakout", "--algorithm=r2d2").run.agent_name == "ShallowLSTMAgent"


def test_help_prints_the_presets_side_by_side_without_loading_tensorflow() -> None:
    command = [sys.executable, "-X", "importtime", "experiment.py", "--preset=help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == preset_help() + "\n"
    assert not re.search(r"\btensorflow\.python\b", done.stderr)
    assert max(map(len, done.stdout.splitlines())) <= 150
    by_queue, by_replay = ({row[0]: row[1:] for row in rows} for rows in preset_tables().values())
    assert by_queue["flag"] == ["fast", "impala_shallow", "impala_deep", "impala_dmlab30", "seed_000", "dmlab_cpu"]
    assert by_replay["flag"] == ["fast: apex", "apex", "fast: r2d2", "r2d2"]
    assert by_queue["entropy_cost"] == ["0.0015", "0.01", "0.01", "0.0033391", "0.05", "0.005"]
    assert by_replay["replay_capacity"] == ["4e5", "2e6", "4e5", "4e6"]


@pytest.mark.parametrize(
    ("level", "algorithm", "clipping"),
    [
        ("atari_pong", "impala", "abs_one"),
        ("ALE/Breakout-v5", "apex", "abs_one"),
        ("atari_pong", "r2d2", "none"),
        ("CartPole-v1", "impala", "none"),
        ("CartPole-v1", "apex", "none"),
        ("catch", "impala", "none"),
        ("tests.support.levels:Dark-v0", "impala", "none"),
    ],
)
def test_rewards_are_clipped_in_atari_only(level: str, algorithm: str, clipping: str) -> None:
    config = resolved(f"--level_name={level}", f"--algorithm={algorithm}")
    assert config.learner.reward_clipping == clipping
