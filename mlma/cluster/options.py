"""The frontend's own flags, written like those of `mlma.core.config.config` and read by the same code, and its verbs.

Every training flag is a flag of the frontend too; those in `OURS` follow from the CSV. Not here: what the verbs do.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from mlma.core.config.config import Config, answer, help_text, nearest, parse_with, to_argv

PODMAN_COMMAND = (
    "podman run --rm --network=host --userns=keep-id --volume=$HOME:$HOME --workdir=$HOME "
    "--env=HOME --env=MLMA_RUN --env=MLMA_WORKER"
)


@dataclasses.dataclass(frozen=True)
class Options:
    # == The cluster
    # CSV file with a worker in each row; docs/cluster.md has its columns
    workers_csv_path: str = ""
    # tmux session of the run, on every host; auto is the last part of logdir
    tmux_sess: str = "auto"
    # carry trajectories and weights through SSH, so that between actors' and learners' hosts no other port is open
    tunnel: bool = False
    # with up: first copy the code to the hosts, only what changed, and set up there
    sync: bool = False
    # folder of the code on hosts whose row names none; relative to the home there
    remote_folder: str = "mlma"
    # mpirun on the first learner's host; auto is the one beside its python
    mpirun: str = "auto"
    # what starts a worker whose row names an image: words for a shell on its host, to which the image and the command are added
    container: str = PODMAN_COMMAND
    # more words for mpirun, such as "--mca btl_tcp_if_include eth0"
    mpirun_args: str = ""

    # == SSH
    # private key for hosts whose row names none; else ssh-agent and the usual files in ~/.ssh
    ssh_key_file: str = ""
    # ask once for the password of the hosts that take no key; MLMA_SSH_PASSWORD in the environment does the same
    ask_password: bool = False
    # file with the keys of the hosts that may be talked to
    known_hosts: str = "~/.ssh/known_hosts"
    # learn the key of a host that is not in known_hosts; one that has changed is refused all the same
    accept_new_host_keys: bool = False
    # seconds for a host to accept a connection, to answer as SSH, and to let us in; each
    connect_seconds: float = 10.0
    # seconds for a command on a host
    command_seconds: float = 60.0

    # == Workers
    # how often in a row a worker that crashed is started again
    worker_restarts: int = 10
    # seconds between a crash and the next start, doubled each time up to a minute
    restart_seconds: float = 1.0
    # seconds without a sign of life after which a worker hangs, and is killed and started again
    hung_seconds: float = 180.0
    # seconds for learners to save a checkpoint and end; then by force
    stop_seconds: float = 60.0

    # == What verbs show
    # with status: show it again and again
    watch: bool = False
    # seconds between two looks with --watch or --follow
    every_seconds: float = 2.0
    # with logs: go on with what comes
    follow: bool = False
    # with logs: how many of the last lines
    lines: int = 20


VERBS = {
    "up": "start what does not run yet (the default)",
    "check": "look at every host: can the run be started there?",
    "status": "what every worker does; --watch",
    "screens": "open a tmux session here with a window for each host, attached to the run there, and one with status",
    "logs": "logs [WORKER...]: their last lines; --follow, --lines",
    "restart": "restart WORKER | actors | learners: from the last checkpoint",
    "scale": "scale N: run with N actors from now on",
    "down": "end the run: a checkpoint, then everything that it started, on every host",
    "dry-run": "print every command as it would run; contacts nobody",
}
DERIVED_FROM_CSV = {  # flags of experiment.py that follow from the CSV
    "job_name", "task", "learner_host", "actor_hosts", "token_file", "num_actors", "num_learners", "max_restarts", "mode",
    "test_num_episodes", "test_checkpoint",
}  # fmt: skip
AT_LEAST = {
    "connect_seconds": 0.1, "command_seconds": 1, "worker_restarts": 0, "restart_seconds": 0.1, "stop_seconds": 1,
    "every_seconds": 0.2, "lines": 1, "hung_seconds": 1,
}  # fmt: skip
USAGE = (
    "usage: python run_experiment_mm_raw.py [VERB] [--workers_csv_path=FILE] [--logdir=FOLDER] [--flag=value ...]",
    "",
    "Every flag of `python experiment.py --help` for training is a flag here, too.",
    "After `up`, --logdir is enough to name the run.",
    "",
    *(f"  {verb:<8} {does}" for verb, does in VERBS.items()),
)


@dataclasses.dataclass(frozen=True)
class Invocation:
    """What was asked for."""

    verb: str
    operands: tuple[str, ...]
    given: dict[str, Any]  # our flags, those that were given
    argv: tuple[str, ...]  # training flags that differ from the defaults
    config: Config


def parse_invocation(argv: list[str]) -> Invocation:
    """ValueError in one line."""
    operands: list[str] = []
    rest = list(argv)
    while rest and not rest[0].startswith("-"):  # VERB and its operands come first
        operands.append(rest.pop(0))
    verb, operands = (operands[0], operands[1:]) if operands else ("up", [])
    if verb not in VERBS:
        raise ValueError(f"{verb}: no such verb; allowed: {', '.join(VERBS)}{nearest(verb, VERBS)}")
    if operands and verb not in ("logs", "restart", "scale"):
        raise ValueError(
            f"{verb} {operands[0]}: {verb} takes no {operands[0]!r}; flags look like --level_name=PongNoFrameskip-v4"
        )
    config, given = parse_with(rest, Options)
    for name in DERIVED_FROM_CSV:
        if getattr(config, name) != getattr(Config, name):
            raise ValueError(f"--{name}: follows from the CSV; `python experiment.py` takes it")
    for name, least in AT_LEAST.items():
        if name in given and given[name] < least:
            raise ValueError(f"--{name}={given[name]}: must be at least {least}")
    return Invocation(verb, tuple(operands), given, tuple(to_argv(config)), config)


def parse_invocation_or_exit(argv: list[str]) -> Invocation:
    return answer(argv, parse_invocation, lambda: help_text(Options, USAGE))
