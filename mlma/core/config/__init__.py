"""The configuration of a run. `Config` and what reads and writes it; sections in mlma/core/config/sections.py."""

from mlma.core.config.config import (
    CLIPPINGS,
    LOGGERS,
    Config,
    flag_table,
    help_text,
    load,
    merged_config,
    parse,
    parse_or_exit,
    parse_with,
    read_flags,
    save,
    to_argv,
    with_logdir,
)
from mlma.core.config.environment_section import EnvironmentConfig
from mlma.core.config.flags import did_you_mean, format_flags, option, run_parser
from mlma.core.config.learning_sections import LearnerConfig, OptimizerConfig, ReplayConfig
from mlma.core.config.sections import (
    ActorConfig,
    DistributedConfig,
    ReportsConfig,
    RunConfig,
)

__all__ = [
    "CLIPPINGS",
    "LOGGERS",
    "ActorConfig",
    "Config",
    "DistributedConfig",
    "EnvironmentConfig",
    "LearnerConfig",
    "OptimizerConfig",
    "ReplayConfig",
    "ReportsConfig",
    "RunConfig",
    "did_you_mean",
    "flag_table",
    "format_flags",
    "help_text",
    "load",
    "merged_config",
    "option",
    "parse",
    "parse_or_exit",
    "parse_with",
    "read_flags",
    "run_parser",
    "save",
    "to_argv",
    "with_logdir",
]
