"""The command, environment and supervision of each worker: learners, actors, and SSH tunnels between them.

Commands are lists of arguments, relative to the home directory of their host. Not here: which worker runs where
(mlma/cluster/planning/launch_plan.py), how a worker is supervised (mlma/cluster/on_host/supervisor.py).
"""

from __future__ import annotations

import dataclasses
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlma.cluster.options import Options, environment_words
from mlma.cluster.planning.hosts import code_folder, python_command, run_folder
from mlma.cluster.planning.worker_sets import Learner, spans_hosts
from mlma.cluster.planning.workers_csv import Worker
from mlma.core.config import Config, to_argv
from mlma.distributed.mpi_launcher import NO_PORTS
from mlma.monitoring.heartbeat import OVER_SUFFIX
from mlma.utils.child_process import STOP_SIGNAL

LEARNERS = "learners"  # name of the process that is mpirun, or the only learner
WORKER_ENVIRONMENT = {"PYTHONUNBUFFERED": "1"}
LONGEST_BACKOFF_SECONDS = 60.0  # between a crash and the restart
HEALTHY_SECONDS = 60.0  # of running, after which the next restart is quick again
TUNNEL_BACKOFF = (1.0, 10.0, 30.0)  # as SupervisedProcess.backoff
ACTOR_STOP_SECONDS = 10.0  # for an actor to end before it is killed
TUNNEL_STOP_SECONDS = 5.0
UNLIMITED_RESTARTS = 10**9
RUN_IN_HOME = ("sh", "-c", 'cd && exec "$@"', "sh")  # mpirun starts a remote rank in an arbitrary folder


@dataclasses.dataclass(frozen=True)
class SupervisedProcess:
    """A worker in its own tmux window on a host, and how its supervisor treats it."""

    host: str  # key
    name: str
    argv: tuple[str, ...]
    env: dict[str, str]
    stop_signal: int  # requests a clean end
    stop_timeout: float  # seconds from that signal until the worker is killed
    max_restarts: int  # in a row
    # Seconds: first pause, longest pause, running time after which the first applies.
    backoff: tuple[float, float, float]
    required_by: tuple[str, ...] = ()  # workers of this host; once they have ended, this one ends, too
    heartbeat_folder: str = ""
    worker_hang_seconds: float = 0.0  # without a heartbeat, after which the worker is killed
    end_mark: str = ""  # file that the worker leaves if its work is done; empty: it ends with code 0 then
    learner_addresses: tuple[str, ...] = ()  # by rank, of learners that have to find each other
    start_seconds: float = 0.0  # for that
    signal_group: bool = True  # the stop signal goes to all of the worker's processes
    image: str = ""

    def spec(self, session: str) -> dict[str, Any]:
        """The content of workers/NAME.spec, which the supervisor reads."""
        return dataclasses.asdict(self) | {"log": f"{run_folder(session, self.host)}/logs/{self.name}.log"}


class RunSettings(NamedTuple):
    """What the commands of all workers have in common."""

    session: str
    config: Config
    options: Options


def learners_process(learners: list[Learner], placed: list[Worker], settings: RunSettings) -> SupervisedProcess:
    """All learners, under mpirun if there are several. `placed` is the row of each actor."""
    options, head = settings.options, learners[0].worker
    commands = [_learner_argv(learner, learners, placed, settings) for learner in learners]
    argv, env = commands[0], dict(WORKER_ENVIRONMENT)
    if len(learners) > 1:
        argv = [
            mpirun_command(head, options),
            *shlex.split(options.mpirun_args),
            "--oversubscribe",
            "--bind-to",
            "none",
        ]
        for number, command in enumerate(commands):
            argv += [":"] * bool(number) + command
        mpi_environment = _mpi_environment(run_folder(settings.session, head.host), spans_hosts(learners))
        env |= mpi_environment
        if head.image:  # a container has its own environment
            argv = ["env", *(f"{name}={value}" for name, value in mpi_environment.items()), *argv]
    own = environment_words(options.env)
    return SupervisedProcess(
        host=head.host,
        name=LEARNERS,
        argv=_in_container(head, _with_own(own, head, argv), options),
        env=env | own,
        stop_signal=int(STOP_SIGNAL),
        stop_timeout=options.stop_seconds,
        max_restarts=options.worker_restarts,
        backoff=(options.restart_seconds, LONGEST_BACKOFF_SECONDS, HEALTHY_SECONDS),
        heartbeat_folder=_heartbeat_folder(settings.session, head.host, LEARNERS),
        worker_hang_seconds=options.worker_hang_seconds,
        end_mark=f"{_heartbeat_folder(settings.session, head.host, LEARNERS)}/learner-0{OVER_SUFFIX}",
        learner_addresses=tuple(learner.worker.ip for learner in learners) if len(learners) > 1 else (),
        start_seconds=options.start_seconds,
        signal_group=len(learners) == 1,
        image=head.image,
    )


def actor_process(
    number: int, worker: Worker, learner: Learner, placed: list[Worker], settings: RunSettings, task: int
) -> SupervisedProcess:
    """Actor `number` of the run, which is actor `task` of its learner, on the host of `worker`.

    `placed` is the row of each actor as the learners know it.
    """
    options, name = settings.options, f"actor-{number}"
    heartbeat_folder = _heartbeat_folder(settings.session, worker.host, name)
    address = _learner_address(worker, learner, placed, settings)
    flags = {"job_name": "actor", "task": task, "learner_host": address}
    argv, own = _experiment_argv(worker, settings, heartbeat_folder, **flags), environment_words(options.env)
    return SupervisedProcess(
        host=worker.host,
        name=name,
        argv=_in_container(worker, _with_own(own, worker, argv), options),
        env=WORKER_ENVIRONMENT | own,
        stop_signal=int(signal.SIGTERM),
        stop_timeout=ACTOR_STOP_SECONDS,
        max_restarts=options.worker_restarts,
        backoff=(options.restart_seconds, LONGEST_BACKOFF_SECONDS, HEALTHY_SECONDS),
        heartbeat_folder=heartbeat_folder,
        worker_hang_seconds=options.worker_hang_seconds,
        image=worker.image,
    )


def tunnel_processes(learners: list[Learner], placed: list[Worker], session: str) -> list[SupervisedProcess]:
    """An `ssh -N` from each actor host to each learner on another host that its actors need."""
    processes = []
    for learner in learners:
        actors_by_host: dict[str, list[str]] = {}
        for number in learner.actors:
            actors_by_host.setdefault(placed[number].host, []).append(f"actor-{number}")
        for host, actors in actors_by_host.items():
            if host != learner.worker.host:
                process = SupervisedProcess(
                    host=host,
                    name=f"tunnel-{learner.rank}",
                    argv=("ssh", "-F", f"{run_folder(session, host)}/ssh_config", "-N", f"learner-{learner.rank}"),
                    env={},
                    stop_signal=int(signal.SIGTERM),
                    stop_timeout=TUNNEL_STOP_SECONDS,
                    max_restarts=UNLIMITED_RESTARTS,
                    backoff=TUNNEL_BACKOFF,
                    required_by=tuple(actors),
                )
                processes.append(process)
    return processes


def learner_socket(session: str, host_key: str, rank: int) -> str:
    """The socket of a learner on a host, relative to the home directory: its own, or the end of a tunnel to it."""
    return f"{run_folder(session, host_key)}/learner-{rank}.sock"


def worker_kind(name: str) -> str:
    """learners, actor or tunnel."""
    return name if name == LEARNERS else name.partition("-")[0]


def shell_command(process: SupervisedProcess) -> str:
    """The command as it can be typed in the home directory of its host."""
    variables = [f"{name}={value}" for name, value in process.env.items()]
    return shlex.join(["env", *variables, *process.argv] if variables else process.argv)


def mpirun_command(head: Worker, options: Options) -> str:
    """The mpirun next to the Python of the first learner, or that of --mpirun."""
    if options.mpirun != "auto":
        return options.mpirun
    python = _worker_python(head, options)[0]
    return str(Path(python).parent / "mpirun") if "/" in python else "mpirun"


def _learner_argv(learner: Learner, learners: list[Learner], placed: list[Worker], settings: RunSettings) -> list[str]:
    """The command of one learner; with several, the part of mpirun's command that starts it."""
    worker, several = learner.worker, len(learners) > 1
    flags: dict[str, Any] = {
        "job_name": "learner",
        "task": learner.rank,
        "learner_host": _learner_address(worker, learner, placed, settings),
        "actor_hosts": ",".join(_address(placed[i].ip, placed[i].tf_port or 9001 + i) for i in learner.actors),
    }
    if several:
        flags["num_learners"] = len(learners)
    heartbeat_folder = _heartbeat_folder(settings.session, worker.host, LEARNERS)
    argv = list(_experiment_argv(worker, settings, heartbeat_folder, **flags))
    variables = [f"MLMA_ADDRESS={worker.ip}"] if spans_hosts(learners) else []
    if worker.cuda_visible_devices:
        variables.append(f"CUDA_VISIBLE_DEVICES={worker.cuda_visible_devices}")
    argv = ["env", *variables, *argv] if variables else argv
    host_arguments = ["--host", f"{worker.ip}:1"] if spans_hosts(learners) else []
    exported = [word for name in environment_words(settings.options.env) for word in ("-x", name)]  # to other hosts
    return [*host_arguments, *exported, "-np", "1", *RUN_IN_HOME, *argv] if several else argv


def _experiment_argv(worker: Worker, settings: RunSettings, heartbeat_folder: str, **flags: Any) -> tuple[str, ...]:
    """experiment.py with the run's flags, `flags`, and those of the row."""
    flags |= {
        "token_file": f"{run_folder(settings.session, worker.host)}/token",
        "heartbeat_folder": heartbeat_folder,
    }
    if settings.options.channel == "plaintext":
        flags["insecure_plaintext"] = True
    if worker.job == "learner" and worker.local:
        flags["logdir"] = str(Path(settings.config.run.logdir).absolute())
    if worker.envs_per_actor:
        flags["envs_per_actor"] = worker.envs_per_actor
    folder = code_folder(worker, settings.options)
    return (
        *_worker_python(worker, settings.options),
        f"{folder}/experiment.py",
        *to_argv(settings.config.replace(**flags)),
    )


def _worker_python(worker: Worker, options: Options) -> tuple[str, ...]:
    """The command that runs Python for the worker; inside the container if the row names an image."""
    return (f"{code_folder(worker, options)}/.venv/bin/python",) if worker.image else python_command(worker, options)


def _in_container(worker: Worker, argv: tuple[str, ...], options: Options) -> tuple[str, ...]:
    """The command in a container if the row names an image. A shell on the host expands --container."""
    return ("sh", "-c", f'exec {options.container} "$@"', "sh", worker.image, *argv) if worker.image else argv


def _with_own(own: dict[str, str], worker: Worker, argv: Sequence[str]) -> tuple[str, ...]:
    """The command with the variables of --env where the environment of its process does not reach it."""
    return ("env", *(f"{name}={value}" for name, value in own.items()), *argv) if own and worker.image else tuple(argv)


def _heartbeat_folder(session: str, host_key: str, name: str) -> str:
    return f"{run_folder(session, host_key)}/health/{name}"


def _mpi_environment(folder: str, several_hosts: bool) -> dict[str, str]:
    """Settings of Open MPI, under the names of its versions 5 and 4."""
    env = {"OMPI_MCA_mpi_yield_when_idle": "1"}
    for prefix in ("OMPI", "PRTE"):
        env |= {f"{prefix}_ALLOW_RUN_AS_ROOT": "1", f"{prefix}_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    if not several_hosts:
        env["OMPI_MCA_btl"] = NO_PORTS
    else:
        agent = f"ssh -F {folder}/ssh_config"
        env |= {"PRTE_MCA_plm_ssh_agent": agent, "PRTE_MCA_plm_ssh_no_tree_spawn": "1"}
        env |= {"OMPI_MCA_plm_rsh_agent": agent, "OMPI_MCA_plm_rsh_no_tree_spawn": "1"}
    return env


def _learner_address(worker: Worker, learner: Learner, placed: list[Worker], settings: RunSettings) -> str:
    """The address of the learner on this worker's host: a socket in the run's folder, unless actors of other hosts come
    to a port."""
    others = any(placed[number].host != learner.worker.host for number in learner.actors)
    if settings.options.channel != "ssh" and others:
        return _address(learner.worker.ip, learner.port)
    return f"unix:{learner_socket(settings.session, worker.host, learner.rank)}"


def _address(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
