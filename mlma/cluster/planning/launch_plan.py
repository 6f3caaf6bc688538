"""Rows and flags -> worker sets -> what runs on which host, as lists of words. Pure: `dry-run` prints it, `up` starts it.

Actors are dealt to learners in turn; a learner and its actors are a worker set. On a host everything is relative to the home
there: the folder of the run is .mlma/SESSION/HOST, since hosts may share a home, and every
worker runs in the home. Not here: talking to hosts.
"""

from __future__ import annotations

import dataclasses
import getpass
import itertools
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

from mlma.cluster.options import Options
from mlma.cluster.planning.workers_csv import Worker
from mlma.core.config import Config, to_argv
from mlma.utils.child_process import STOP_SIGNAL

CHECKOUT = Path(__file__).resolve().parents[3]
FIRST_PORT = 8001
LEARNERS = "learners"  # the window of mpirun, or of the only learner
ENVIRONMENT = {"PYTHONUNBUFFERED": "1"}
HOME_PLACEHOLDER = "@HOME@"  # in a file for a host: its home there
BACKOFF_LIMITS = (
    60.0,
    60.0,
)  # seconds: the longest between two starts, and after which a worker counts as healthy again
UNLIMITED = 10**9
IMAGE_CODE_FOLDER = "/opt/mlma"  # folder of the code in images
RUN_AT_HOME = ("sh", "-c", 'cd && exec "$@"', "sh")  # mpirun starts a remote rank in some folder


@dataclasses.dataclass(frozen=True)
class Host:
    """A machine and an account on it."""

    key: str  # "user@ip:port" or "localhost"
    ip: str
    port: int
    user: str
    local: bool
    key_file: str
    python: tuple[str, ...]  # what runs Python there
    folder: str  # of the code
    image: str = ""  # that its workers run in, if they do; then `python` need only be Python


@dataclasses.dataclass(frozen=True)
class SupervisedProcess:
    """A window of the run's tmux session on a host, and the worker in it."""

    host: str
    name: str
    words: tuple[str, ...]
    env: dict[str, str]
    signal: int  # asks it to end
    grace: float  # seconds until it is killed
    restarts: int
    pause: tuple[float, float, float]  # seconds: first, longest, and of life after which the first is used again
    serves: tuple[str, ...] = ()  # windows of this host without which it need not be
    health: str = ""  # folder where the worker notes how it is
    worker_hang_seconds: float = 0.0  # after which one that notes nothing is killed
    group: bool = True  # what asks it to end goes to all of its processes
    image: str = ""

    def spec(self, session: str) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"log": f"{run_folder(session, self.host)}/logs/{self.name}.log"}


@dataclasses.dataclass(frozen=True)
class Learner:
    rank: int
    worker: Worker
    port: int
    actors: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    session: str
    config: Config
    options: Options
    hosts: dict[str, Host]
    learners: tuple[Learner, ...]
    windows: tuple[SupervisedProcess, ...]

    @property
    def head(self) -> Host:
        """Where mpirun, or the only learner, runs."""
        return self.hosts[self.learners[0].worker.host]

    def on(self, host: str) -> list[SupervisedProcess]:
        return [window for window in self.windows if window.host == host]

    def spread(self) -> bool:
        """Whether learners are on more than one host."""
        return len({learner.worker.host for learner in self.learners}) > 1

    def tunnels(self, host: str) -> list[Learner]:
        """The learners that this host reaches through SSH."""
        wanted = {int(w.name.removeprefix("tunnel-")) for w in self.on(host) if w.name.startswith("tunnel-")}
        return [learner for learner in self.learners if learner.rank in wanted]


def run_folder(session: str, host: str) -> str:
    """Of a host, given by its key."""
    return f".mlma/{session}/{host.rpartition('@')[2].removesuffix(':22').replace(':', '-')}"


def session_name(options: Options, config: Config) -> str:
    name = Path(config.run.logdir).name if options.tmux_sess == "auto" else options.tmux_sess
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in name) or "run"


def python_of(worker: Worker, options: Options) -> tuple[str, ...]:
    if worker.python:
        return tuple(shlex.split(worker.python))
    if worker.local and (worker.image or not worker.folder):
        return (sys.executable,)
    return ("python3",) if worker.image else (f"{folder_of(worker, options)}/.venv/bin/python",)


def folder_of(worker: Worker, options: Options) -> str:
    return worker.folder or (
        IMAGE_CODE_FOLDER if worker.image else str(CHECKOUT) if worker.local else options.remote_folder
    )


def in_image(worker: Worker, words: tuple[str, ...], options: Options) -> tuple[str, ...]:
    """The same command, in a container if the row names an image. A shell on the host sees the words of --container."""
    return ("sh", "-c", f'exec {options.container} "$@"', "sh", worker.image, *words) if worker.image else words


def make_plan(workers: list[Worker], config: Config, options: Options, actors: int = 0) -> Plan:
    """`actors` is their number if it is not that of the rows. ValueError if they cannot run together."""
    session = session_name(options, config)
    rows = [worker for worker in workers if worker.job == "actor" for _ in range(worker.num_actors or 1)]
    placed = list(itertools.islice(itertools.cycle(rows), actors)) if actors else rows
    learners = _learners(workers, len(placed))
    if len(placed) < len(learners):
        raise ValueError(f"{len(placed)} actors for {len(learners)} learners; there must be one for each at least")
    _check_learners(learners, options)
    windows = [_learners_window(learners, placed, config, options, session)]
    for index, worker in enumerate(placed):
        windows.append(_actor_window(index, worker, learners, config, options, session))
    windows += _tunnel_windows(placed, learners, options, session) if options.tunnel else []
    return Plan(session, config, options, _hosts(workers, options), tuple(learners), tuple(windows))


def _hosts(workers: list[Worker], options: Options) -> dict[str, Host]:
    hosts: dict[str, Host] = {}
    for worker in sorted(
        workers, key=lambda worker: worker.job != "learner"
    ):  # a learner's python has mpirun beside it
        user = getpass.getuser() if worker.local else worker.host.partition("@")[0]
        key_file = worker.ssh_key_file or options.ssh_key_file
        there = python_of(worker, options), folder_of(worker, options), worker.image
        hosts.setdefault(
            worker.host, Host(worker.host, worker.ip, worker.ssh_port or 22, user, worker.local, key_file, *there)
        )
    return hosts


def _learners(workers: list[Worker], actors: int) -> list[Learner]:
    rows = [worker for worker in workers if worker.job == "learner"]
    taken = {(worker.ip, worker.tf_port) for worker in rows}
    learners = []
    for rank, worker in enumerate(rows):
        port = worker.tf_port or next(p for p in itertools.count(FIRST_PORT) if (worker.ip, p) not in taken)
        taken.add((worker.ip, port))
        learners.append(Learner(rank, worker, port, tuple(range(rank, actors, len(rows)))))
    return learners


def _check_learners(learners: list[Learner], options: Options) -> None:
    images = {learner.worker.image: learner.worker.row for learner in learners}
    hosts = {learner.worker.host for learner in learners}
    if len(images) > 1 or (len(hosts) > 1 and "" not in images):
        raise ValueError(
            f"rows {', '.join(str(learner.worker.row) for learner in learners)}, column image: several learners run in one "
            "container, so they must be on one host and have one image (docs/deploy.md: on several hosts)"
        )
    if len(hosts) == 1:
        return
    places: dict[str, Worker] = {}
    for learner in learners:
        other = places.setdefault(learner.worker.ip, learner.worker)
        if other.host != learner.worker.host:
            raise ValueError(
                f"rows {other.row} and {learner.worker.row}: mpirun tells hosts apart by address; two learners on "
                f"{learner.worker.ip} must have the same ssh_port and ssh_username"
            )
    folders = {str(Path(python_of(learner.worker, options)[0]).parent): learner.worker.row for learner in learners}
    if len(folders) > 1 and options.mpirun == "auto":
        raise ValueError(
            f"rows {', '.join(map(str, folders.values()))}: Open MPI is looked for in the same folder on every learner's host, "
            f"and these differ: {', '.join(folders)}; give them the same python, or name an mpirun that all have with --mpirun"
        )


def _worker_words(
    worker: Worker, config: Config, options: Options, session: str, health: str, **own: Any
) -> tuple[str, ...]:
    own |= {"token_file": f"{run_folder(session, worker.host)}/token", "heartbeat_folder": health}
    if worker.job == "learner" and worker.local:
        own["logdir"] = str(Path(config.run.logdir).absolute())
    if worker.envs_per_actor:
        own["envs_per_actor"] = worker.envs_per_actor
    folder = folder_of(worker, options)
    python = (f"{folder}/.venv/bin/python",) if worker.image else python_of(worker, options)
    return (*python, f"{folder}/experiment.py", *to_argv(config.replace(**own)))


def _health(session: str, host: str, window: str) -> str:
    return f"{run_folder(session, host)}/health/{window}"


def _learners_window(
    learners: list[Learner], placed: list[Worker], config: Config, options: Options, session: str
) -> SupervisedProcess:
    segments: list[list[str]] = []
    spread = len({learner.worker.host for learner in learners}) > 1
    for learner in learners:
        worker = learner.worker
        actors = ",".join(f"{placed[i].ip}:{placed[i].tf_port or 9001 + i}" for i in learner.actors)
        listen = "127.0.0.1" if options.tunnel else worker.ip
        own = {
            "job_name": "learner",
            "task": learner.rank,
            "learner_host": f"{listen}:{learner.port}",
            "actor_hosts": actors,
        }
        if len(learners) > 1:
            own["num_learners"] = len(learners)
        health = _health(session, worker.host, LEARNERS)
        words = list(_worker_words(worker, config, options, session, health, **own))
        variables = [f"MLMA_ADDRESS={worker.ip}"] if spread else []
        if worker.cuda_visible_devices:
            variables.append(f"CUDA_VISIBLE_DEVICES={worker.cuda_visible_devices}")
        words = ["env", *variables, *words] if variables else words
        if len(learners) > 1:
            where = ["--host", f"{worker.ip}:1"] if spread else []
            words = [*where, "-np", "1", *RUN_AT_HOME, *words]
        segments.append(words)
    head = learners[0].worker
    words, env = segments[0], dict(ENVIRONMENT)
    if len(learners) > 1:
        words = [_mpirun(head, options), *shlex.split(options.mpirun_args), "--oversubscribe", "--bind-to", "none"]
        for number, segment in enumerate(segments):
            words += [":"] * bool(number) + segment
        mpi = _mpi_environment(run_folder(session, head.host), spread)
        env |= mpi
        if head.image:
            words = ["env", *(f"{name}={value}" for name, value in mpi.items()), *words]
    pause = (options.restart_seconds, *BACKOFF_LIMITS)
    return SupervisedProcess(
        head.host,
        LEARNERS,
        in_image(head, tuple(words), options),
        env,
        int(STOP_SIGNAL),
        options.stop_seconds,
        options.worker_restarts,
        pause,
        health=_health(session, head.host, LEARNERS),
        worker_hang_seconds=options.worker_hang_seconds,
        group=len(learners) == 1,
        image=head.image,
    )


def _mpirun(head: Worker, options: Options) -> str:
    if options.mpirun != "auto":
        return options.mpirun
    python = f"{folder_of(head, options)}/.venv/bin/python" if head.image else python_of(head, options)[0]
    return str(Path(python).parent / "mpirun") if "/" in python else "mpirun"


def _mpi_environment(folder: str, spread: bool) -> dict[str, str]:
    """What Open MPI must know, under the names of its versions 5 and 4."""
    env = {"OMPI_MCA_mpi_yield_when_idle": "1"}
    for prefix in ("OMPI", "PRTE"):
        env |= {f"{prefix}_ALLOW_RUN_AS_ROOT": "1", f"{prefix}_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    if spread:
        agent = f"ssh -F {folder}/ssh_config"
        env |= {"PRTE_MCA_plm_ssh_agent": agent, "PRTE_MCA_plm_ssh_no_tree_spawn": "1"}
        env |= {"OMPI_MCA_plm_rsh_agent": agent, "OMPI_MCA_plm_rsh_no_tree_spawn": "1"}
    return env


def _learner_address(worker: Worker, learner: Learner, options: Options, session: str) -> str:
    """Where this actor's host reaches the learner."""
    if not options.tunnel:
        return f"{learner.worker.ip}:{learner.port}"
    if worker.host == learner.worker.host:
        return f"127.0.0.1:{learner.port}"
    return f"unix:{run_folder(session, worker.host)}/learner-{learner.rank}.sock"


def _actor_window(
    index: int, worker: Worker, learners: list[Learner], config: Config, options: Options, session: str
) -> SupervisedProcess:
    learner = learners[index % len(learners)]
    address = _learner_address(worker, learner, options, session)
    own = {"job_name": "actor", "task": index // len(learners), "learner_host": address}
    name = f"actor-{index}"
    health = _health(session, worker.host, name)
    words = in_image(worker, _worker_words(worker, config, options, session, health, **own), options)
    pause = (options.restart_seconds, *BACKOFF_LIMITS)
    return SupervisedProcess(
        worker.host,
        name,
        words,
        dict(ENVIRONMENT),
        int(signal.SIGTERM),
        10.0,
        options.worker_restarts,
        pause,
        health=health,
        worker_hang_seconds=options.worker_hang_seconds,
        image=worker.image,
    )


def _tunnel_windows(
    placed: list[Worker], learners: list[Learner], options: Options, session: str
) -> list[SupervisedProcess]:
    windows = []
    for learner in learners:
        hosts: dict[str, list[str]] = {}
        for index in learner.actors:
            hosts.setdefault(placed[index].host, []).append(f"actor-{index}")
        for host, actors in hosts.items():
            if host != learner.worker.host:
                words = ("ssh", "-F", f"{run_folder(session, host)}/ssh_config", "-N", f"learner-{learner.rank}")
                pause = (1.0, 10.0, 30.0)
                windows.append(
                    SupervisedProcess(
                        host,
                        f"tunnel-{learner.rank}",
                        words,
                        {},
                        int(signal.SIGTERM),
                        5.0,
                        UNLIMITED,
                        pause,
                        tuple(actors),
                    )
                )
    return windows


def worker_kind(name: str) -> str:
    return name if name == LEARNERS else name.partition("-")[0]


def shell_command(window: SupervisedProcess) -> str:
    """The command as one could type it, in the home of its host."""
    variables = [f"{name}={value}" for name, value in window.env.items()]
    return shlex.join(["env", *variables, *window.words] if variables else window.words)


def learners_on(plan: Plan, host: Host) -> list[Worker]:
    return [learner.worker for learner in plan.learners if learner.worker.host == host.key]


def container_engines(plan: Plan, host: Host) -> list[str]:
    """What starts containers there, if any are."""
    return shlex.split(plan.options.container)[:1] if any(window.image for window in plan.on(host.key)) else []
