"""The frontend's commands and its own flags, parsed by the code that parses training flags (mlma/core/config/).

Every training flag is also a flag of the frontend, except those in `DERIVED_FROM_CSV`. Not here: what the commands do
(mlma/cluster/commands/).
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any, Literal

from mlma.core.config import (
    Config,
    did_you_mean,
    format_flags,
    merged_config,
    option,
    read_flags,
    run_parser,
    with_logdir,
)
from mlma.core.config.flags import flag_table, matching
from mlma.core.config.limits import A_WEEK
from mlma.utils.code_layout import program
from mlma.utils.input_file import is_file
from mlma.utils.user_text import shown

PODMAN_COMMAND = (
    "podman run --rm --network=host --userns=keep-id --volume=$HOME:$HOME --workdir=$HOME "
    "--env=HOME --env=MLMA_RUN --env=MLMA_WORKER"
)


def shell_words(text: str) -> None:
    """ValueError unless `text` is a command, or a part of one."""
    try:
        shlex.split(text)
    except ValueError as error:
        raise ValueError(f"must be quoted as in a shell ({error})") from None


def environment_words(text: str) -> dict[str, str]:
    """The variables that --env sets; ValueError if that is not what it says."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"must be quoted as in a shell ({error})") from None
    for word in words:
        name, equals, _ = word.partition("=")
        if not equals or not re.fullmatch(r"(?a:[A-Za-z_]\w*)", name):
            raise ValueError(f"{shown(word)} must be NAME=VALUE")
        if name.startswith("MLMA_") or name == "CUDA_VISIBLE_DEVICES":
            raise ValueError(f"{name} is set for each worker; its GPUs are in the column cuda_visible_devices")
    return dict(word.split("=", 1) for word in words)


def key_file(text: str) -> None:
    """ValueError unless `text` names a file on this machine."""
    if not is_file(text):
        raise ValueError("must be a file on this machine, or empty")


def host_keys_file(text: str) -> None:
    """ValueError unless `text` names a file, or one that `--accept_new_host_keys` could make."""
    try:
        missing = not Path(text).expanduser().exists()
    except (OSError, RuntimeError):
        missing = False
    if not (missing or text == os.devnull or is_file(text)):
        raise ValueError("must be a file on this machine")


@dataclasses.dataclass(frozen=True)
class Options:
    """The frontend's own flags."""

    workers_csv_path: str = option("", "CSV file with one worker per row; columns: docs/guides/cluster.md")
    tmux_sess: str = option(
        "auto",
        "name of the run; its tmux session on every host has this name, and its folder there has this name followed "
        "by the id of the run; auto is the last part of logdir",
    )
    channel: Literal["ssh", "tls", "plaintext"] = option(
        "ssh",
        "how actors reach learners on other hosts: ssh, through tunnels that need no open port but that of SSH; tls, "
        "by encrypted connections to the learner's tf_port; plaintext, the same without any protection, so whoever "
        "can reach the port can read the traffic, crash the learner and fill its memory",
    )
    sync: bool = option(
        False, "with up: first copy the code to the hosts (only files that changed) and set it up there"
    )
    remote_folder: str = option(
        "mlma", "folder of the code on hosts for which the CSV names none, relative to the home directory"
    )
    mpirun: str = option("auto", "mpirun on the first learner's host; auto is the one next to the Python there")
    container: str = option(
        PODMAN_COMMAND,
        "shell command that starts a worker whose row names an image; the image and the worker's command are appended"
        " to it",
        check=shell_words,
    )
    mpirun_args: str = option(
        "", 'additional arguments for mpirun, such as "--mca btl_tcp_if_include eth0"', check=shell_words
    )

    env: str = option(
        "",
        "environment variables for all workers, such as \"NCCL_DEBUG=INFO NAME='two words'\"; they do not show in "
        "process lists, except for workers in containers",
        check=environment_words,
    )

    ssh_key_file: str = option(
        "",
        "private key for hosts for which the CSV names none; empty uses ssh-agent and the usual files in ~/.ssh",
        group="SSH",
        check=key_file,
    )
    ask_password: bool = option(
        False,
        "prompt once for the password of hosts that accept no key; the environment variable MLMA_SSH_PASSWORD can "
        "hold it instead",
    )
    known_hosts: str = option("~/.ssh/known_hosts", "file with the trusted host keys", check=host_keys_file)
    accept_new_host_keys: bool = option(
        False, "trust the key of a host that is not in known_hosts yet; a changed key is still refused"
    )
    connect_seconds: float = option(
        10.0,
        "time limit, separately for connecting to a host, for its SSH greeting and for authentication",
        minimum=0.1,
        maximum=3600,
    )
    command_seconds: float = option(60.0, "time limit for a command on a host", minimum=1, maximum=86_400)

    worker_restarts: int = option(
        10,
        "how often in a row a worker that crashes is restarted before its supervisor gives up",
        minimum=0,
        group="Workers",
        maximum=1_000_000,
    )
    restart_seconds: float = option(
        1.0,
        "seconds between a crash and the restart; doubled after each further crash, up to a minute",
        minimum=0.1,
        maximum=86_400,
    )
    start_seconds: float = option(
        300.0,
        "seconds that several learners may take to start and find each other before they are killed and restarted; "
        "hosts that do not answer mpirun at all are named after 30",
        minimum=1,
        maximum=86_400,
    )
    worker_hang_seconds: float = option(
        180.0,
        "seconds without a heartbeat after which a worker counts as hung and is killed and restarted",
        minimum=1,
        former_names=("hung_seconds",),
        maximum=A_WEEK,
    )
    stop_seconds: float = option(
        60.0,
        "seconds that learners may take to save a checkpoint and end before they are killed",
        minimum=1,
        maximum=86_400,
    )

    forget: str = option(
        "",
        "with down: hosts that are gone for good, separated by commas, by address or as user@address:port; no command"
        " contacts them again",
    )

    move_actors_after: float = option(
        0.0,
        "with keep: if a host does not answer for this many seconds, start its actors on the other hosts with actors "
        "until it answers again; 0 means never",
        minimum=0,
        maximum=A_WEEK,
    )

    watch: bool = option(False, "with status: refresh until interrupted", group="Output of commands")
    every_seconds: float = option(
        2.0,
        "seconds between two refreshes with --watch or --follow, and between two checks of keep",
        minimum=0.2,
        maximum=86_400,
    )
    json: bool = option(
        False, "with status and list: print JSON instead of a table; with --watch, one line per refresh"
    )
    follow: bool = option(False, "with logs: print new lines as they arrive; with fetch: keep copying what is new")
    lines: int = option(20, "with logs: how many of the last lines to print", minimum=1, maximum=1_000_000)


COMMANDS = {
    "up": "start every worker that is not running (the default command)",
    "check": "check on every host whether the run can start there",
    "status": "show what every worker is doing; --watch",
    "list": "list the runs started from this machine, with the state of their learners",
    "screens": "open a local tmux session with a window for status and one for each host, attached to the run there",
    "logs": "logs [WORKER...]: print the last lines that workers printed; --follow, --lines",
    "restart": "restart WORKER | actors | learners: restart workers; learners go on from the last checkpoint",
    "exec": "exec 'COMMAND': run a shell command in the home directory of every host and print its output",
    "fetch": "fetch [FOLDER]: copy new checkpoints, metrics, reports and videos from the first learner's host to this "
    "machine; --follow",
    "tensorboard": "run TensorBoard on the first learner's host and make it available at a port of this machine",
    "scale": "scale N: change the number of actors to N",
    "keep": "keep watching the run, and start workers again on hosts that come back; --move_actors_after",
    "down": "save a checkpoint, then end everything that the run started, on every host",
    "dry-run": "print every command that would run, without contacting a host",
}
DERIVED_FROM_CSV = {  # flags of experiment.py that follow from the CSV
    "job_name", "task", "learner_host", "actor_hosts", "token_file", "num_actors", "num_learners", "max_restarts",
    "mode", "test_num_episodes", "test_checkpoint", "insecure_plaintext",
}  # fmt: skip
USAGE = (
    "usage: python run_experiment_mm_raw.py [COMMAND] [--workers_csv_path=FILE] [--logdir=FOLDER] [--flag=value ...]",
    "",
    "Every training flag of `python experiment.py --help=all` is accepted here, too.",
    "After `up`, --logdir is enough to identify the run.",
    "",
    *(f"  {command:<11} {description}" for command, description in COMMANDS.items()),
)


@dataclasses.dataclass(frozen=True)
class Invocation:
    """A parsed command line of the frontend."""

    command: str
    operands: tuple[str, ...]
    given_options: dict[str, Any]  # flags of the frontend that were given
    given_flags: dict[str, Any]  # training flags that were given, also by a file or a preset
    config: Config  # of this command line alone


def parse_invocation(argv: list[str]) -> Invocation:
    """Parses the command, its operands and all flags; ValueError in one line."""
    rest = list(argv)
    operands: list[str] = []
    while rest and not rest[0].startswith("-"):  # the command and its operands come first
        operands.append(rest.pop(0))
    command, operands = (operands[0], operands[1:]) if operands else ("up", [])
    if command not in COMMANDS:
        raise ValueError(
            f"{shown(command)}: no such command; allowed: {', '.join(COMMANDS)}{did_you_mean(command, COMMANDS)}"
        )
    if operands and command not in ("logs", "restart", "scale", "exec", "fetch"):
        raise ValueError(
            f"{command} {shown(operands[0])}: {command} takes no '{shown(operands[0])}'; flags look like "
            "--level_name=PongNoFrameskip-v4"
        )
    values = read_flags(_without_former_flags(rest), Options)
    given_options = {name: value for name, value in values.items() if name in flag_table(Options)}
    given_flags = {name: value for name, value in values.items() if name not in given_options}
    config = with_logdir(merged_config([], given_flags))
    for name in DERIVED_FROM_CSV:
        if config.get(name) != Config().get(name):
            raise ValueError(f"--{name}: follows from the CSV; only `python experiment.py` accepts it")
    if given_options.get("forget") and command != "down":
        raise ValueError(f"--forget: not with {command}; allowed: down")
    if given_options.get("move_actors_after") and command != "keep":
        raise ValueError(f"--move_actors_after: not with {command}; allowed: keep")
    return Invocation(command, tuple(operands), given_options, given_flags, config)


def _without_former_flags(argv: list[str]) -> list[str]:
    """--tunnel and --notunnel as --channel, for one release."""
    current = {"--tunnel": "--channel=ssh", "--tunnel=true": "--channel=ssh", "--notunnel": "--channel=tls"}
    for former in current.keys() & set(argv):
        print(f"note: {former} is now {current[former]}; the former name goes away with 0.3", file=sys.stderr)
    return [current.get(word, word) for word in argv]


def parse_invocation_or_exit(argv: list[str]) -> Invocation:
    """As `parse_invocation`, for the entry point: exits after --help, and with code 2 for an error."""
    return run_parser(argv, parse_invocation, _help_text)


def _help_text(word: str) -> str:
    """All of the frontend's own flags, or those that match `word`."""
    name = program("run_experiment_mm_raw.py")
    usage = tuple(line.replace("python run_experiment_mm_raw.py", name) for line in USAGE)
    table = flag_table(Options, "Cluster")
    return format_flags(table if word in ("", "all") else matching(table, word), usage)
