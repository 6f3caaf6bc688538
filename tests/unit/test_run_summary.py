"""What a run says at its start and end, and what it keeps of flags that change.

A real one that is resumed is in tests/integration/test_resumed_flags.py.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from mlma.cluster.cli import run_command
from mlma.cluster.options import parse_invocation
from mlma.core.config import Config, parse, save
from mlma.core.presets.resolve import resolve
from mlma.core.types import ArraySpec, EnvSpec
from mlma.roles.config_history import note_changes
from mlma.roles.run_summary import (
    SHORTER,
    Forecast,
    complete_line,
    duration_line,
    end_lines,
    slow_step_hint,
    start_lines,
)
from mlma.utils.code_layout import ROOT


def test_the_start_names_the_settings_that_matter() -> None:
    spec = EnvSpec(ArraySpec((84, 84, 1), "uint8"), 6, 4)
    config = parse(["--level_name=atari_pong", "--agent_name=ResNetAgent", "--batch_size=32", "--unroll_length=20"])
    config = config.replace(num_actors=2, envs_per_actor=16, learning_rate=6e-4, seed=3)
    first, second = start_lines(config, spec, 1_234_567, 2)
    assert first.startswith("atari_pong: observations 84x84x1 uint8, 6 actions, 4 frames a step; rewards: auto")
    assert "impala with preset fast: ResNetAgent with 1,234,567 weights; 2 learners x 2 actors x 16 env" in second
    assert second.endswith("batches of 32 x 20 steps; learning rate 0.0006; seed 3")


def test_a_machine_without_a_gpu_is_told_how_to_have_shorter_learner_steps() -> None:
    spec = EnvSpec(ArraySpec((72, 96, 3), "uint8"), 9, 4, suite="dmlab")
    config = parse(["--agent_name=ResNetLSTMAgent", "--batch_size=32", "--unroll_length=100"])
    assert "32 s and 8.4 GB at 32 x 100" in slow_step_hint(config, spec, has_gpu=False)
    assert slow_step_hint(config, spec, has_gpu=True) == ""
    assert slow_step_hint(config, spec._replace(suite="atari"), has_gpu=False) == ""
    assert slow_step_hint(config, spec, has_gpu=False).endswith(": --preset=dmlab_cpu")
    shorter = resolve(parse([SHORTER, "--level_name=rooms_watermaze"]), spec, cores=2)
    assert slow_step_hint(shorter, spec, has_gpu=False) == ""


def test_a_long_run_says_how_long_it_takes_and_a_resumed_one_at_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "mlma")
    monkeypatch.setattr(logging.getLogger("mlma"), "propagate", True)
    forecast = Forecast(2e8)
    for seconds, frames in ((1, 0), (90, 0), (100, 1000), (130, 10_000), (161, 20_000), (300, 60_000)):
        forecast.on_report({"seconds": seconds, "frames": frames})
    assert [record.getMessage() for record in caplog.records] == [
        "at 311 frames/s about 178.3 hours are left of 178.4; for one hour from now: --total_environment_frames=1141000"
    ]
    assert parse(["--total_environment_frames=1141000"]).run.total_environment_frames == 1.141e6
    assert "said after the first minute" in duration_line(2e8, 0, 0)
    assert duration_line(2000, 1000, 10) == (
        "2,000 frames to train, 1,000 of them are done; at 100 frames/s about 0.0 hours are left of 0.0"
    )


def test_a_complete_run_says_so() -> None:
    assert complete_line(2000, 1999) == ""
    assert complete_line(2000, 2000).startswith("already complete: 2,000 of 2,000 frames; allowed: ")


def test_changed_flags_are_returned_and_the_file_before_is_kept(tmp_path: Path) -> None:
    before = Config.from_flags(batch_size=8, logdir="a", learner_host="x:1")
    save(before, tmp_path / "config.json")
    after = before.replace(batch_size=16, writers="", logdir="b", learner_host="x:2")
    assert note_changes(after, tmp_path, 0) == {}, "a run that starts from scratch"
    assert note_changes(before, tmp_path, 500) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]
    expected = {"batch_size": [8, 16], "writers": [before.reports.writers, ""]}
    assert note_changes(after, tmp_path, 500) == expected
    assert parse([f"--config={tmp_path}/config-until-500.json"]) == before
    save(after, tmp_path / "config.json")
    note_changes(before, tmp_path, 500)
    assert parse([f"--config={tmp_path}/config-until-500.json"]) == before, "what trained until then stays"


@pytest.mark.parametrize("damage", ["", "{", "[1]", '{"a": 1}'])
def test_a_damaged_file_has_no_changes(tmp_path: Path, damage: str) -> None:
    (tmp_path / "config.json").write_text(damage)
    assert note_changes(Config(), tmp_path, 500) == {}
    (tmp_path / "config.json").unlink()
    assert note_changes(Config(), tmp_path, 500) == {}


def test_commands_name_the_code_by_its_path_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config.from_flags(logdir="a b", total_environment_frames=10)
    monkeypatch.chdir(ROOT)
    evaluate = end_lines(config, 10)[1]
    assert evaluate.endswith("experiment.py --mode=test '--config=a b/config.json'")
    assert str(ROOT / "experiment.py") not in evaluate
    monkeypatch.chdir(tmp_path)
    here = end_lines(config, 10)[1:]
    assert f"{ROOT}/experiment.py" in here[0]
    assert f"PYTHONPATH={ROOT} " in here[1]
    assert end_lines(config, 9)[0].startswith("stopped at 9 of 10 frames")


@pytest.mark.parametrize(("word", "text"), [("--preset=help", "impala_deep"), ("--level_name=help", "atari_pong")])
def test_the_frontend_answers_help_for_values_with_any_command(
    word: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once `check` took the word for a level or a preset and said that all was well."""
    for command in ("check", "up", "dry-run"):
        assert run_command(parse_invocation([command, word, f"--logdir={tmp_path}/run"])) == 0
        assert text in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
