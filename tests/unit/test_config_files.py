"""Files of flags: TOML, YAML and JSON mean the same, later ones win, and a mistake is one line with file and line."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from mlma.core.config import Config, flag_table, load, parse, save, to_argv
from mlma.core.config.config_file import MAX_BYTES
from mlma.core.presets.papers import PAPER_PRESETS
from mlma.utils.own_files import TRUST_ENV

VALUES: dict[str, Any] = {
    "level_name": "corridor", "seed": 7, "learning_rate": 0.125, "full_action_space": True, "agent_name": "MLPAgent",
    "life_loss_ends_return": False, "total_environment_frames": 1e5, "writers": "", "env_args": '{"size": 8}',
}  # fmt: skip
TOML = """# what we run in the lab
level_name = "corridor"
seed = 7
learning-rate = 0.125
full_action_space = true
agent_name = 'MLPAgent'
life_loss_ends_return = false
total_environment_frames = 1e5
writers = ""
env_args = { size = 8 }
"""
YAML = """# what we run in the lab
level_name: corridor
seed: 7
learning-rate: 0.125
full_action_space: true
agent_name: 'MLPAgent'
life_loss_ends_return: false
total_environment_frames: 1e5
writers: ""
env_args:
  size: 8
"""


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_bytes(text.encode(errors="surrogateescape"))
    return f"--config={folder / name}"


def refused(folder: Path, name: str, text: str) -> str:
    """The answer to this file, less the file's name."""
    word = write(folder, name, text)
    with pytest.raises(ValueError, match="--config=") as caught:
        parse([word])
    answer = str(caught.value)
    assert answer.startswith(f"{word}: ")
    assert answer.isprintable() and len(answer) < 500
    return answer.removeprefix(f"{word}: ")


def test_toml_yaml_and_json_mean_the_same(tmp_path: Path) -> None:
    texts = {"a.toml": TOML, "a.yaml": YAML, "b.YML": YAML.replace("\n", "\r\n"), "a.json": json.dumps(VALUES)}
    texts |= {"b.toml": "\ufeff" + TOML.replace("\n", "\r\n"), "none": json.dumps(VALUES)}
    expected = Config.from_flags(**VALUES)
    for name, text in texts.items():
        assert parse([write(tmp_path, name, text)]) == expected, name


def test_every_flag_can_stand_in_each_kind_of_file(tmp_path: Path) -> None:
    config = parse(["--preset=r2d2", "--level_name=tmaze", '--env_args={"a": [1, {"b": null}]}', "--record_video"])
    flags = config.flags()
    save(config, tmp_path / "run.json")
    toml = "".join(f"{name} = {json.dumps(value)}\n" for name, value in flags.items())
    yaml = "".join(f"{name}: {json.dumps(value)}\n" for name, value in flags.items())
    plain = "".join(f"{name}: {flag_table()[name].format(value) or repr('')}\n" for name, value in flags.items())
    plain = plain.replace(config.environment.env_args, repr(config.environment.env_args))
    for name, text in (("a.toml", toml), ("a.yaml", yaml), ("b.yaml", plain)):
        assert parse([write(tmp_path, name, text)]) == config, name
    assert parse([f"--config={tmp_path / 'run.json'}"]) == config, "what a run wrote"


def test_later_files_win_and_the_command_line_wins_over_all(tmp_path: Path) -> None:
    first = write(tmp_path, "a.toml", "seed = 1\nbatch_size = 8\nunroll_length = 10\n")
    second = write(tmp_path, "b.yaml", "seed: 2\nbatch_size: 16\n")
    for argv in ([first, second, "--seed=3"], [first, "--seed=3", *second.split("=", 1)]):
        config = parse(argv)
        assert (config.run.seed, config.learner.batch_size, config.learner.unroll_length) == (3, 16, 10)
    assert parse([second, first]).run.seed == 1
    with pytest.raises(ValueError, match="--config: needs a value"):
        parse([first, "--config"])


def test_a_preset_wins_over_earlier_files_but_not_over_its_own(tmp_path: Path) -> None:
    paper = write(tmp_path, "a.toml", 'preset = "impala_deep"\nbatch_size = 7\nseed = 5\n')
    assert parse([paper]).learner.batch_size == 7
    assert parse([paper]).learner.unroll_length == 20
    other = write(tmp_path, "b.toml", 'preset = "apex"\n')
    config = parse([paper, other])
    assert (config.run.algorithm, config.learner.batch_size, config.run.seed) == ("apex", 512, 5)


@pytest.mark.parametrize("name", PAPER_PRESETS)
def test_fast_over_the_file_of_a_paper_is_fast_again(tmp_path: Path, name: str) -> None:
    """Once the file's values stayed, and only the name of the preset changed."""
    paper = parse([f"--preset={name}", "--seed=5"])
    save(paper, tmp_path / "run.json")
    config = parse([f"--config={tmp_path / 'run.json'}", "--preset=fast"])
    assert config == Config.from_flags(algorithm=paper.run.algorithm, seed=5)
    assert parse(to_argv(config)) == config


@pytest.mark.parametrize("word", ["yes", "no", "on", "off", "Yes", "y", "~", "0x1"])
def test_a_yaml_word_is_no_boolean_unless_it_is_true_or_false(tmp_path: Path, word: str) -> None:
    answer = refused(tmp_path, "a.yaml", f"seed: 1\nfull_action_space: {word}\n")
    assert answer.startswith("line 2: ")
    assert "full_action_space" in answer
    assert "must be true or false" in answer or "has no value" in answer


def test_a_yaml_value_is_the_text_that_stands_there(tmp_path: Path) -> None:
    word = write(tmp_path, "a.yaml", "logdir: no\nseed: 010\nlearning_rate: 1e-4\nlevel_name: on\n")
    config = parse([word])
    assert (config.run.logdir, config.run.seed, config.optimizer.learning_rate) == ("no", 10, 1e-4)
    assert config.environment.level_name == "on"
    args = "env_args:\n  a: true\n  b: 'no'\n  c: [1, 0.5, 1e3, null, x]\n"
    assert json.loads(parse([write(tmp_path, "b.yaml", args)]).environment.env_args) == {
        "a": True, "b": "no", "c": [1, 0.5, 1000.0, None, "x"]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "mentions"),
    [
        ("a.toml", "seed = 1\nbatch_sise = 3\n", ["line 2: batch_sise: no such flag; did you mean batch_size"]),
        ("a.yaml", "seed: 1\nbatch_sise: 3\n", ["line 2: batch_sise: no such flag; did you mean batch_size"]),
        ("a.json", '{\n "seed": 1,\n "batch_sise": 3\n}', ["line 3: batch_sise: no such flag; did you mean batch_"]),
        ("a.toml", "seed = 1\nseed = 2\n", ["line 2: not TOML: Cannot overwrite a value"]),
        ("a.yaml", "seed: 1\n# no\nseed: 2\n", ["line 3: seed: is given twice"]),
        ("a.json", '{"seed": 1, "seed": 2}', ["seed: is given twice"]),
        ("a.toml", "batch_size = 1\nbatch-size = 2\n", ["line 2: batch-size: is given twice"]),
        ("a.toml", 'seed = 1\nbatch_size = "many"\n', ["line 2: --batch_size=many: must be an integer"]),
        ("a.yaml", "batch_size: many\n", ["line 1: --batch_size=many: must be an integer"]),
        ("a.toml", "seed = [1]\n", ["line 1: --seed: must be an integer"]),
        ("a.yaml", "seed: [1]\n", ["line 1: --seed: must be an integer"]),
        ("a.toml", "seed = 2026-11-26\n", ["line 1: --seed: must be an integer"]),
        ("a.toml", "env_args = { day = 2026-11-26 }\n", ["line 1: --env_args: must be text, a number, a boolean, a l"]),
        ("a.toml", "learning_rate = nan\n", ["line 1: --learning_rate=nan: must be a number"]),
        ("a.yaml", "learning_rate: .inf\n", ["line 1: --learning_rate=.inf: must be a number"]),
        ("a.toml", "seed = 1\n[learner]\nbatch_size = 3\n", ["learner: no such flag; flags have no sections"]),
        ("a.yaml", "learner:\n  batch_size: 3\n", ["line 1: learner: no such flag; flags have no sections"]),
        ("a.yaml", "mode: play\n", ["line 1: --mode=play: must be one of train, test"]),
        ("a.yaml", "discounting: 2\n", ["line 1: --discounting=2.0: must be at most 1"]),
        ("a.toml", "seed 1\n", ["line 1: not TOML: "]),
        ("a.yaml", "seed: 1\n  x: 2\n", ["line 2: not YAML: "]),
        ("a.yaml", "- seed\n", ["line 1: must hold flags"]),
        ("a.yaml", "just text\n", ["line 1: must hold flags"]),
        ("a.yaml", "seed: 1\n---\nseed: 2\n", ["line 2: only one YAML document is allowed"]),
        ("a.yaml", "seed: &a 1\ntask: *a\n", ["line 1: anchors (&) and aliases (*) are not allowed"]),
        ("a.yaml", "seed: *a\n", ["line 1: anchors"]),
        ("a.yaml", "seed: !!python/object/apply:os.system ['true']\n", ["line 1: tags such as", "are not allowed"]),
        ("a.yaml", "seed:\n", ["line 1: seed: has no value"]),
        ("a.yaml", "[a]: 1\n", ["line 1: a name must be text"]),
        ("a.yaml", "env_args:\n  size: yes\n", ["line 2: yes: must be written as in JSON"]),
        ("a.yaml", "env_args:\n  size: 010\n", ["line 2: 010: must be written as in JSON"]),
        ("a.yaml", "env_args:\n  a: 1\n  a: 2\n", ["line 3: a: is given twice"]),
        ("a.yaml", "env_args: " + "[" * 100_000, ["line 1: ", "nested too deeply"]),
        ("a.yaml", "[" * 100_000, ["line 1: "]),
        ("a.toml", "env_args = " + "[" * 100_000, ["nested too deeply"]),
        ("a.yaml", "logdir: a\x07b\n", ["not YAML"]),
        ("a.toml", "logdir = 'a\x07b'\n", ["line 1: not TOML"]),
        ("a.yaml", 'logdir: "a\\x07b"\n', ["line 1: --logdir=a\\x07b: must be UTF-8 text without control"]),
        ("a.yaml", "\udcff", ["not YAML: must be UTF-8 text"]),
        ("a.toml", "\udcff", ["not TOML: must be UTF-8 text"]),
        ("a.toml", "seed = 1" + "0" * 10_000, ["not TOML: Exceeds the limit"]),
        ("a.toml", "#" * (MAX_BYTES + 1), ["must have at most 1,048,576 bytes"]),
        ("a.yaml", "#" * (MAX_BYTES + 1), ["must have at most 1,048,576 bytes"]),
        ("a.toml", "seed = 0x" + "f" * 10_000, ["line 1"]),
    ],
)  # fmt: skip
def test_a_mistake_names_its_line(tmp_path: Path, name: str, text: str, mentions: list[str]) -> None:
    began = time.monotonic()
    answer = refused(tmp_path, name, text)
    assert [part for part in mentions if part not in answer] == [], answer
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("suffix", ["toml", "yaml", "json"])
def test_pipes_folders_and_missing_files_are_refused_and_links_are_followed(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"pipe.{suffix}")
    (tmp_path / f"folder.{suffix}").mkdir()
    for name, problem in (("pipe", "regular file"), ("folder", "Is a directory"), ("missing", "No such file")):
        with pytest.raises(ValueError, match=rf"--config=.*{name}.{suffix}: .*{problem}"):
            parse([f"--config={tmp_path / name}.{suffix}"])
    file = tmp_path / f"real.{suffix}"
    file.write_text({"toml": "seed = 4", "yaml": "seed: 4", "json": '{"seed": 4}'}[suffix])
    (tmp_path / f"link.{suffix}").symlink_to(file)
    assert parse([f"--config={tmp_path}/link.{suffix}"]).run.seed == 4


def test_a_file_that_everybody_can_write_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    word = write(tmp_path, "a.toml", "seed = 4")
    (tmp_path / "a.toml").chmod(0o666)
    with pytest.raises(ValueError, match="every user can write to it"):
        parse([word])
    monkeypatch.setenv(TRUST_ENV, "1")
    assert parse([word]).run.seed == 4


@pytest.mark.parametrize("name", ["a.toml", "a.yaml"])
def test_a_file_of_comments_changes_nothing(tmp_path: Path, name: str) -> None:
    for text in ("", "# seed\n"):
        write(tmp_path, name, text)
        assert load(str(tmp_path / name)) == {}
