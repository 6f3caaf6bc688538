"""The frontend's commands and its own flags, parsed by the code that parses training flags (mlma/core/config/).

Every training flag is also a flag of the frontend, except those in `DERIVED_FROM_CSV`. Not here: what the commands do
(mlma/cluster/commands/).
"""

from __future__ import annotations

import dataclasses
from typing import Any

from mlma.core.config import Config, did_you_mean, format_flags, option, parse_with, run_parser, to_argv, with_logdir
from mlma.core.config.flags import flag_table

PODMAN_COMMAND = (
    "podman run --rm --network=host --userns=keep-id --volume=$HOME:$HOME --workdir=$HOME "
    "--env=HOME --env=MLMA_RUN --env=MLMA_WORKER"
)


@dataclasses.dataclass(frozen=True)
class Options:
    """The frontend's own flags."""

    workers_csv_path: str = option("", "CSV file with one worker per row; columns: docs/guides/cluster.md")
    tmux_sess: str = option("auto", "tmux session of the run, on every host; auto is the last part of logdir")
    tunnel: bool = option(
        False,
        "send trajectories and weights through SSH, so that no other port has to be open between hosts of actors "
        "and learners",
    )
    sync: bool = option(False, "with up: first copy the code to the hosts (only changed files) and set it up there")
    remote_folder: str = option(
        "mlma", "folder of the code on hosts whose row names none; relative to the home directory there"
    )
    mpirun: str = option("auto", "mpirun on the first learner's host; auto is the one next to its python")
    container: str = option(
        PODMAN_COMMAND,
        "shell command that starts a worker whose row names an image; the image and the worker's command are appended",
    )
    mpirun_args: str = option("", 'additional arguments for mpirun, such as "--mca btl_tcp_if_include eth0"')

    ssh_key_file: str = option(
        "", "private key for hosts whose row names none; otherwise ssh-agent and the usual files in ~/.ssh", group="SSH"
    )
    ask_password: bool = option(
        False,
        "prompt once for the password of hosts that accept no key; MLMA_SSH_PASSWORD in the environment does the same",
    )
    known_hosts: str = option("~/.ssh/known_hosts", "file with the trusted host keys")
    accept_new_host_keys: bool = option(
        False, "trust the key of a host that is not in known_hosts yet; a changed key is still refused"
    )
    connect_seconds: float = option(
        10.0, "time limit for each of connecting to a host, its SSH greeting, and authentication", minimum=0.1
    )
    command_seconds: float = option(60.0, "time limit for a command on a host", minimum=1)

    worker_restarts: int = option(
        10, "restarts in a row of a worker that crashes, before the supervisor gives up", minimum=0, group="Workers"
    )
    restart_seconds: float = option(
        1.0, "seconds between a crash and the restart; doubled each time, up to a minute", minimum=0.1
    )
    worker_hang_seconds: float = option(
        180.0,
        "seconds without a heartbeat after which a worker counts as hung and is killed and restarted",
        minimum=1,
        former_names=("hung_seconds",),
    )
    stop_seconds: float = option(
        60.0, "seconds for learners to save a checkpoint and end, before they are killed", minimum=1
    )

    watch: bool = option(False, "with status: refresh it until interrupted", group="Output of commands")
    every_seconds: float = option(2.0, "seconds between two refreshes with --watch or --follow", minimum=0.2)
    follow: bool = option(False, "with logs: print new lines as they arrive")
    lines: int = option(20, "with logs: number of last lines", minimum=1)


COMMANDS = {
    "up": "start every worker that is not running (the default command)",
    "check": "check on every host whether the run can be started there",
    "status": "show what every worker does; --watch",
    "screens": "open a local tmux session with a window for status and one for each host, attached to the run there",
    "logs": "logs [WORKER...]: print the last lines of workers; --follow, --lines",
    "restart": "restart WORKER | actors | learners: restart from the last checkpoint",
    "scale": "scale N: run with N actors from now on",
    "down": "save a checkpoint, then end everything that the run started, on every host",
    "dry-run": "print every command as it would run; contacts no host",
}
DERIVED_FROM_CSV = {  # flags of experiment.py that follow from the CSV
    "job_name", "task", "learner_host", "actor_hosts", "token_file", "num_actors", "num_learners", "max_restarts",
    "mode", "test_num_episodes", "test_checkpoint",
}  # fmt: skip
USAGE = (
    "usage: python run_experiment_mm_raw.py [COMMAND] [--workers_csv_path=FILE] [--logdir=FOLDER] [--flag=value ...]",
    "",
    "Every training flag of `python experiment.py --help` is accepted here, too.",
    "After `up`, --logdir is enough to identify the run.",
    "",
    *(f"  {command:<8} {description}" for command, description in COMMANDS.items()),
)


@dataclasses.dataclass(frozen=True)
class Invocation:
    """A parsed command line of the frontend."""

    command: str
    operands: tuple[str, ...]
    given_options: dict[str, Any]  # flags of the frontend that were given
    argv: tuple[str, ...]  # training flags that differ from the defaults
    config: Config


def parse_invocation(argv: list[str]) -> Invocation:
    """Parses the command, its operands and all flags; ValueError in one line."""
    rest = list(argv)
    operands: list[str] = []
    while rest and not rest[0].startswith("-"):  # the command and its operands come first
        operands.append(rest.pop(0))
    command, operands = (operands[0], operands[1:]) if operands else ("up", [])
    if command not in COMMANDS:
        raise ValueError(f"{command}: no such command; allowed: {', '.join(COMMANDS)}{did_you_mean(command, COMMANDS)}")
    if operands and command not in ("logs", "restart", "scale"):
        raise ValueError(
            f"{command} {operands[0]}: {command} takes no {operands[0]!r}; flags look like "
            "--level_name=PongNoFrameskip-v4"
        )
    config, given_options = parse_with(rest, Options)
    config = with_logdir(config)
    for name in DERIVED_FROM_CSV:
        if config.get(name) != Config().get(name):
            raise ValueError(f"--{name}: follows from the CSV; only `python experiment.py` accepts it")
    return Invocation(command, tuple(operands), given_options, tuple(to_argv(config)), config)


def parse_invocation_or_exit(argv: list[str]) -> Invocation:
    """As `parse_invocation`, for the entry point: exits after --help, and with code 2 for an error."""
    return run_parser(argv, parse_invocation, lambda: format_flags(flag_table(Options, "Cluster"), USAGE))
