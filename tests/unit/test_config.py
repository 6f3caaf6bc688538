"""Flags: each defined once, parsed strictly, and a mistake answered in one helpful line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from mlma.core.catalog import ALGORITHMS, NETWORKS
from mlma.core.config import Config, flag_table, help_text, parse, parse_or_exit, save, to_argv
from mlma.core.presets.resolve import resolve
from mlma.core.types import ArraySpec, EnvSpec
from mlma.utils.import_object import import_object

ANCESTOR_FLAGS = [  # of the system that this one succeeds
    "logdir", "mode", "test_num_episodes", "learner_host", "actor_hosts", "task", "job_name",
    "total_environment_frames", "batch_size", "unroll_length", "seed", "agent_name", "queue_capacity", "entropy_cost",
    "baseline_cost", "discounting", "reward_clipping", "gradients_clipping", "level_name", "width", "height",
    "learning_rate", "decay", "momentum", "epsilon", "num_action_repeats",
]  # fmt: skip


def message(argv: list[str]) -> str:
    """The error message of a wrong command line."""
    with pytest.raises(ValueError, match=r"\S") as caught:
        parse(argv)
    return str(caught.value)


def test_every_flag_is_defined_once_and_explained() -> None:
    sections = [type(getattr(Config(), field.name)) for field in dataclasses.fields(Config)]
    names = [field.name for section in sections for field in dataclasses.fields(section)]
    assert len(names) == len(set(names))
    assert list(flag_table()) == names
    assert [name for name, flag in flag_table().items() if len(flag.help) < 4 or not flag.group] == []
    text = help_text()
    assert [name for name, flag in flag_table().items() if f"--{name}=" not in text or flag.help[:30] not in text] == []


def test_a_former_name_works_with_a_note_and_in_files_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parse(["--learner_parts=4", "--hang_seconds=70"]) == parse(
        ["--gradient_shards=4", "--hang_timeout_seconds=70"]
    )
    assert "--learner_parts is now --gradient_shards" in capsys.readouterr().err
    path = tmp_path / "config.json"
    path.write_text('{"learner_parts": 2, "colours": "rgb"}')
    config = parse([f"--config={path}"])
    assert (config.learner.gradient_shards, config.environment.color_mode) == (2, "rgb")
    assert capsys.readouterr().err == ""


def test_every_default_is_a_value_that_its_flag_accepts() -> None:
    for flag in flag_table().values():
        assert flag.parse(str(flag.default)) == flag.default
    assert parse([]) == Config()


def test_all_flags_of_the_ancestor_exist() -> None:
    assert [name for name in ANCESTOR_FLAGS if name not in flag_table()] == []


def test_a_command_line_of_the_ancestor_is_parsed() -> None:
    config = parse(
        [
            "--job_name=actor",
            "--task=3",
            "--learner_host=localhost:8001",
            "--actor_hosts=localhost:9001,localhost:9002",
            "--mode=train",
            "--total_environment_frames=1e9",
            "--batch_size=32",
            "--unroll_length=100",
            "--seed=1",
            "--agent_name=SimpleConvNetAgent",
            "--queue_capacity=1",
            "--entropy_cost=.00025",
            "--baseline_cost=.5",
            "--discounting=.99",
            "--reward_clipping=soft_asymmetric",
            "--gradients_clipping=-1",
            "--level_name=BreakoutNoFrameskip-v4",
            "--width=84",
            "--height=84",
            "--learning_rate=.00048",
            "--decay=.99",
            "--momentum=0",
            "--epsilon=.1",
            "--num_action_repeats=4",
        ]
    )
    assert (config.run.task, config.run.job_name, config.run.total_environment_frames) == (3, "actor", 1e9)
    assert (config.learner.entropy_cost, config.optimizer.gradients_clipping, config.learner.reward_clipping) == (
        0.00025,
        -1,
        "soft_asymmetric",
    )


def test_the_networks_and_algorithms_that_can_be_named_exist() -> None:
    assert set(flag_table()["agent_name"].choices) == set(NETWORKS) | {"auto"}
    for name, entry in NETWORKS.items():
        assert callable(import_object(entry.build)), name
    for name, algorithm in ALGORITHMS.items():
        assert callable(import_object(algorithm.agent)), name


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--batch_size=4"], "batch_size", 4),
        (["--batch_size", "4"], "batch_size", 4),
        (["--batch-size=4"], "batch_size", 4),
        (["--batch_size=1e2"], "batch_size", 100),
        (["--task", "-1"], "task", -1),
        (["--gradients_clipping", "-1"], "gradients_clipping", -1.0),
        (["--learning_rate=.0006"], "learning_rate", 0.0006),
        (["--optimizer=adam"], "optimizer", "adam"),
        (["--level_name=a=b"], "level_name", "a=b"),
        (["--full_action_space"], "full_action_space", True),
        (["--full_action_space", "--task=1"], "full_action_space", True),
        (["--full_action_space=true"], "full_action_space", True),
        (["--full_action_space", "false"], "full_action_space", False),
        (["--nolife_loss_ends_return"], "life_loss_ends_return", False),
        (["--life_loss_ends_return=0"], "life_loss_ends_return", False),
        (["--noop_max=3"], "noop_max", 3),  # not "--no" and "op_max"
    ],
)
def test_flags_are_read_in_every_usual_spelling(argv: list[str], name: str, value: object) -> None:
    parsed = parse(argv).get(name)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("word", "mentions"),
    [
        ("--learning_rte=1", ["learning_rte", "--learning_rate"]),
        ("--zzzzzzz=1", ["zzzzzzz", "no such flag"]),
        ("--nobatch_size", ["nobatch_size", "no such flag"]),
        ("--batch_size=many", ["--batch_size=many", "an integer"]),
        ("--batch_size=1.5", ["--batch_size=1.5", "an integer"]),
        ("--batch_size=", ["--batch_size=", "an integer"]),
        ("--batch_size=inf", ["--batch_size=inf", "an integer"]),
        ("--batch_size", ["--batch_size", "an integer"]),
        ("--learning_rate=fast", ["--learning_rate=fast", "a number"]),
        ("--full_action_space=maybe", ["--full_action_space=maybe", "true or false"]),
        (
            "--agent_name=SimpleConvAgent",
            ["SimpleConvAgent", "did you mean SimpleConvNetAgent", "ResNetLSTMAgent, MLPAgent"],
        ),
        ("--mode=testing", ["--mode=testing", "train, test"]),
        ("--reward_clipping=abs", ["abs_one, soft_asymmetric, none"]),
        ("--discounting=1.5", ["--discounting=1.5", "at most 1"]),
        ("--total_environment_frames=-1", ["--total_environment_frames=-1", "at least 0"]),
        ("--learning_rate=nan", ["--learning_rate=nan"]),
        ("batch_size=3", ["batch_size=3", "not a flag"]),
        ("--config=/nowhere/config.json", ["/nowhere/config.json", "No such file"]),
        ("--config", ["--config", "needs a value"]),
    ],
)
def test_a_mistake_is_answered_in_one_line_that_helps(word: str, mentions: list[str]) -> None:
    answer = message([word])
    assert "\n" not in answer
    assert [part for part in mentions if part not in answer] == []


@pytest.mark.parametrize("name", ["entropy_cost", "gradients_clipping", "sticky_actions", "learning_rate"])
def test_a_number_must_be_finite(name: str) -> None:
    for value in ("nan", "inf"):
        assert f"--{name}={value}" in message([f"--{name}={value}"])


def test_a_negated_flag_with_a_value_is_refused() -> None:
    """--noflag=true is ambiguous."""
    assert "nofull_action_space" in message(["--nofull_action_space=true"])


CHANGED = [
    "--level_name=corridor", "--task=2", "--learning_rate=0.125", "--full_action_space", "--nolife_loss_ends_return",
    "--agent_name=MLPAgent", "--total_environment_frames=12345", "--gradients_clipping=-1",
]  # fmt: skip


def test_a_configuration_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    save(parse(CHANGED), path)
    assert parse([f"--config={path}"]) == parse(CHANGED)


def test_the_command_line_takes_precedence_over_the_file_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    save(parse(CHANGED), path)
    for argv in (["--task=5", f"--config={path}"], ["--config", str(path), "--task=5"]):
        config = parse(argv)
        assert (config.run.task, config.environment.level_name) == (5, "corridor")


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("{", "not JSON"),
        ("[1, 2]", "one JSON object"),
        (json.dumps({"learning_rte": 1}), "learning_rate"),
        (json.dumps({"batch_size": "many"}), "an integer"),
        (json.dumps({"mode": "play"}), "train, test"),
        (json.dumps({"full_action_space": 3}), "true or false"),
        (json.dumps({"discounting": 2}), "at most 1"),
        ("\udcff", "not JSON"),
    ],
)
def test_a_bad_file_is_named_with_its_mistake(tmp_path: Path, text: str, mentions: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    answer = message([f"--config={path}"])
    assert mentions in answer
    assert "\n" not in answer
    assert str(path) in answer or "--discounting" in answer


def test_a_configuration_survives_its_command_line() -> None:
    config = parse(CHANGED)
    assert parse(to_argv(config)) == config
    assert to_argv(Config()) == []
    assert len(to_argv(config)) == len(CHANGED)


def test_the_program_exits_with_code_2_on_a_mistake_and_0_on_help(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, code in ((["--learning_rte=1"], 2), (["--help"], 0), (["--task=1", "-h"], 0)):
        with pytest.raises(SystemExit) as caught:
            parse_or_exit(argv)
        assert caught.value.code == code
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "--level_name=" in captured.out


@pytest.mark.parametrize(
    ("role", "host"), [("actor", "localhost:8001"), ("learner", "localhost:8001"), ("local", "auto")]
)
def test_learner_and_actors_that_are_started_separately_agree_on_a_default_address(role: str, host: str) -> None:
    words = [] if role == "local" else [f"--job_name={role}", "--task=0"]
    spec = EnvSpec(ArraySpec((50,), "float32"), num_actions=3, action_repeats=1)
    assert resolve(parse(["--level_name=catch", *words]), spec, cores=2).distributed.learner_host == host


@pytest.mark.parametrize(
    ("words", "cores", "threads", "shards"),
    [
        ([], 2, 2, 4),
        ([], 1, 1, 1),
        ([], 16, 16, 4),  # two trajectories of a batch of 8 in each
        (["--batch_size=32"], 16, 16, 8),
        (["--batch_size=30"], 4, 4, 6),
        (["--batch_size=7"], 2, 2, 1),
        (["--learner_threads=3"], 2, 3, 4),
        (["--gradient_shards=2"], 2, 2, 2),
        (["--inference=learner"], 2, 2, 1),
        (["--algorithm=apex"], 2, 2, 1),
        (["--agent_name=ResNetLSTMAgent"], 2, 2, 2),
        (["--algorithm=r2d2"], 16, 16, 4),
    ],
)
def test_a_sample_has_two_shards_for_each_thread(words: list[str], cores: int, threads: int, shards: int) -> None:
    spec = EnvSpec(ArraySpec((84, 84, 1), "uint8"), num_actions=6, action_repeats=4)
    config = resolve(parse(["--level_name=PongNoFrameskip-v4", *words]), spec, cores)
    assert (config.learner.learner_threads, config.learner.gradient_shards) == (threads, shards)


def test_a_number_of_shards_that_does_not_divide_the_batch_is_refused() -> None:
    spec = EnvSpec(ArraySpec((84, 84, 1), "uint8"), num_actions=6, action_repeats=4)
    with pytest.raises(ValueError, match=r"--gradient_shards=3: must divide --batch_size=8"):
        resolve(parse(["--level_name=PongNoFrameskip-v4", "--gradient_shards=3"]), spec, cores=2)


def test_a_trajectory_that_an_lstm_would_unroll_forever_is_refused() -> None:
    spec = EnvSpec(ArraySpec((50,), "float32"), num_actions=3, action_repeats=1)
    config = parse(["--level_name=catch", "--agent_name=MLPLSTMAgent", "--unroll_length=1001"])
    with pytest.raises(ValueError, match=r"--unroll_length=1001: must be at most 1000 with --agent_name=MLPLSTMAgent"):
        resolve(config, spec, cores=2)
    resolve(config.replace(agent_name="MLPAgent"), spec, cores=2)
