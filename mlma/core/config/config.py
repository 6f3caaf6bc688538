"""The configuration of a run: command line and files -> `Config` -> command line and logdir/config.json.

`Config` consists of sections; a function takes the section that it needs. Flags are flat: `--batch_size` is
`config.learner.batch_size`. Imports nothing heavy. Not here: what the flags do.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Any

from mlma.core.config import flags
from mlma.core.config.config_file import read_config_file
from mlma.core.config.environment_section import EnvironmentConfig
from mlma.core.config.flags import Flag, did_you_mean
from mlma.core.config.learning_sections import LearnerConfig, OptimizerConfig, ReplayConfig
from mlma.core.config.sections import (
    ActorConfig,
    DistributedConfig,
    ReportsConfig,
    RunConfig,
)
from mlma.core.presets.papers import FAST, PAPER_PRESETS, preset_flags
from mlma.utils.atomic_file import atomic_write
from mlma.utils.code_layout import program
from mlma.utils.user_text import shown

AUTO_LOGDIR, LOGDIRS = "auto", "logdir"
MAX_FOLDER_NAME = 100
LOGGERS = ("tensorboard", "wandb", "mlflow", "trackio")
CLIPPINGS = ("abs_one", "soft_asymmetric", "none")
USAGE = (
    "usage: python experiment.py [--flag=value ...]",
    "",
    "  --config=FILE",
    "      read flags from a TOML, YAML or JSON file, such as a run's logdir/config.json; may be given more than once:",
    "      later files take precedence over earlier ones, and flags on the command line over all files",
)
USUAL_FLAGS = (  # those of the short help
    "level_name", "algorithm", "agent_name", "preset", "logdir", "seed", "mode", "total_environment_frames",
    "num_actors", "envs_per_actor", "batch_size", "unroll_length", "learning_rate", "reward_clipping", "num_learners",
    "test_num_episodes", "evaluate_every", "record_video", "writers",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """All flags of a run, in sections. A flag's name is unique over all sections."""

    run: RunConfig = dataclasses.field(default_factory=RunConfig)
    environment: EnvironmentConfig = dataclasses.field(default_factory=EnvironmentConfig)
    actor: ActorConfig = dataclasses.field(default_factory=ActorConfig)
    learner: LearnerConfig = dataclasses.field(default_factory=LearnerConfig)
    replay: ReplayConfig = dataclasses.field(default_factory=ReplayConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    distributed: DistributedConfig = dataclasses.field(default_factory=DistributedConfig)
    reports: ReportsConfig = dataclasses.field(default_factory=ReportsConfig)

    @classmethod
    def from_flags(cls, **values: Any) -> Config:
        """The defaults with these flags changed."""
        return cls().replace(**values)

    def replace(self, **values: Any) -> Config:
        """This configuration with these flags changed; TypeError for a flag that does not exist."""
        by_section: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            if name not in section_of():
                raise TypeError(f"no such flag: {name}")
            by_section.setdefault(section_of()[name], {})[name] = value
        changed = {section: dataclasses.replace(getattr(self, section), **new) for section, new in by_section.items()}
        return dataclasses.replace(self, **changed)

    def get(self, name: str) -> Any:
        """The value of a flag, by its name."""
        return getattr(getattr(self, section_of()[name]), name)

    def flags(self) -> dict[str, Any]:
        """Name -> value of all flags."""
        return {name: self.get(name) for name in flag_table()}


def flag_table() -> dict[str, Flag]:
    """All flags of a run by name, in order."""
    return flags.flag_table(Config)


@functools.cache
def section_of() -> dict[str, str]:
    """Flag -> name of the section that has it."""
    sections: dict[str, Any] = {f.name: type(getattr(Config(), f.name)) for f in dataclasses.fields(Config)}
    names = {name: section for section, cls in sections.items() for name in flags.flag_table(cls)}
    assert len(names) == len(flag_table())
    return names


def parse(argv: list[str]) -> Config:
    """The configuration of a command line: each --config=FILE in turn, then --preset, then all other flags. ValueError
    in one line."""
    return parse_with(argv, None)[0]


def parse_with(argv: list[str], others: type | None) -> tuple[Config, dict[str, Any]]:
    """The configuration, and the given flags of another dataclass, whose names must differ from those of `Config`."""
    values = read_flags(argv, others)
    given = {name: value for name, value in values.items() if name in flag_table()}
    return merged_config([], given), {name: value for name, value in values.items() if name not in given}


def read_flags(argv: list[str], others: type | None = None) -> dict[str, Any]:
    """Flag -> value of those that a command line gives, also by its files and its preset."""
    known = flag_table() | (flags.flag_table(others) if others else {})
    files: list[str | None] = []
    given = flags.split_arguments(argv, known, repeated={"config": files})
    layers = []
    for path in files:
        if not path:
            raise ValueError("--config: needs a value, the name of a file")
        layers.append(load(path))
    values: dict[str, Any] = {}
    for layer in (*layers, flags.parse_values(given, known)):
        values |= _preset_values(layer) | layer
    return values


def merged_config(argv: list[str], given: dict[str, Any]) -> Config:
    """The configuration of an earlier command line with these flags over it.

    A given preset takes the place of the earlier one; what was set beside the earlier one stays, unless the given one
    sets it, too.
    """
    earlier = flags.parse_values(flags.split_arguments(argv, flag_table()), flag_table())
    preset = {} if "preset" in given else _preset_values(earlier)
    config = Config.from_flags(**(preset | earlier | given))
    _check(config)
    return config


def _preset_values(layer: dict[str, Any]) -> dict[str, Any]:
    """What the preset of a file or command line sets, over the files before it.

    `fast` has no values of its own before the level is known: what papers set goes back to the default, which lets
    `fast` choose. The algorithm stays, since `fast` has settings for each.
    """
    if layer.get("preset") != FAST:
        return preset_flags(layer.get("preset", FAST))
    names = {name for paper in PAPER_PRESETS.values() for name in paper.values}
    return {name: flag_table()[name].default for name in names}


def with_logdir(config: Config) -> Config:
    """`config` with a logdir: auto is logdir/LEVEL, with a - for what names of folders should not contain.

    The Makefile makes the same names.
    """
    if config.run.logdir != AUTO_LOGDIR:
        return config
    name = re.sub(r"[^\w.+=@-]", "-", config.environment.level_name.strip())[:MAX_FOLDER_NAME]
    return config.replace(logdir=f"{LOGDIRS}/{name.lstrip('.-') or 'run'}")


def _check(config: Config) -> None:
    """What the bounds of single flags do not cover; ValueError in one line."""
    algorithm, preset = config.run.algorithm, config.run.preset
    if preset_flags(preset).get("algorithm", algorithm) != algorithm:
        allowed = PAPER_PRESETS[preset].algorithm
        raise ValueError(f"--algorithm={algorithm}: not with --preset={preset}; allowed: {allowed}")
    clipping = config.learner.reward_clipping
    value = shown(clipping)
    wrong: list[str] = [each for each in clipping.split(",") if each not in CLIPPINGS]
    if wrong and clipping != "auto":
        allowed = f"auto, or one of {', '.join(CLIPPINGS)} for all levels or for each"
        raise ValueError(f"--reward_clipping={value}: must be {allowed}{did_you_mean(wrong[0], CLIPPINGS)}")
    distributed = config.distributed
    if distributed.hang_timeout_seconds <= distributed.sample_timeout_seconds:
        raise ValueError(
            f"--hang_timeout_seconds={distributed.hang_timeout_seconds}: must be more than "
            f"--sample_timeout_seconds={distributed.sample_timeout_seconds}"
        )
    if config.actor.inference == "learner" and config.run.deterministic:
        raise ValueError(
            "--inference=learner: not with --deterministic, since batches depend on timing; allowed: actor"
        )
    _check_inference_sizes(config.actor)
    for name in config.reports.writers.split(","):
        if name not in ("", *LOGGERS):
            allowed = f"{', '.join(LOGGERS)}, separated by commas"
            raise ValueError(
                f"--writers={shown(config.reports.writers)}: {shown(name)}: no such logger; allowed: {allowed}"
            )


def _check_inference_sizes(actor: ActorConfig) -> None:
    if not actor.inference_sizes:
        return
    words = actor.inference_sizes.split(",")
    sizes = [int(word) for word in words if re.fullmatch("[1-9][0-9]{0,8}", word)]
    if len(sizes) < len(words) or sizes != sorted(set(sizes)) or sizes[-1] != actor.inference_batch:
        raise ValueError(
            f"--inference_sizes={shown(actor.inference_sizes)}: must be ascending numbers separated by commas, the "
            f"last one --inference_batch={actor.inference_batch}"
        )


def load(path: str) -> dict[str, Any]:
    """The flags in a file of TOML, YAML or JSON; ValueError that names the file if it is wrong, or another user's."""
    return read_config_file(path, flag_table())


def save(config: Config, path: Path) -> None:
    """Writes all flags as JSON, all or nothing."""
    with atomic_write(path) as file:
        file.write((json.dumps(config.flags(), indent=1) + "\n").encode())


def to_argv(config: Config) -> list[str]:
    """The command line that gives this configuration: only flags that differ from their defaults and the preset."""
    otherwise = {name: flag.default for name, flag in flag_table().items()}
    otherwise |= preset_flags(config.run.preset) | {"preset": FAST}
    return [
        f"--{name}={flag.format(config.get(name))}"
        for name, flag in flag_table().items()
        if config.get(name) != otherwise[name]
    ]


def help_text(word: str = "all") -> str:
    """The text of `experiment.py --help=WORD`: all flags, those that match, or with "" the usual ones."""
    name = program("experiment.py")
    usage = tuple(line.replace("python experiment.py", name) for line in USAGE)
    if not word:
        return flags.format_short(flag_table(), usage, USUAL_FLAGS, name)
    return flags.format_flags(flag_table() if word == "all" else flags.matching(flag_table(), word), usage)


def parse_or_exit(argv: list[str]) -> Config:
    """For entry points: exits on --help and on a mistake."""
    return flags.run_parser(argv, parse, help_text)
