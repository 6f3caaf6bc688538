"""The Slurm job, unchanged, on a real Slurm: a controller and three nodes, each in its own network namespace."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mlma.learning.checkpoint_file import load_checkpoint
from tests.support.hosts import Hosts, make_hosts
from tests.support.runs import ROOT, frames, rows, wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1500)]
TOOLS = ("slurmctld", "slurmd", "sbatch", "scontrol", "munged")
BEST = 2 - 2**0.5  # p(right) of the best stochastic policy, .586
FLAGS = ["--level_name=corridor", "--total_environment_frames=6e5", "--report_every_seconds=1"]

CONF = """ClusterName=mlma
SlurmctldHost={head}({ip})
SlurmUser=root
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmctldTimeout=30
SlurmdTimeout=60
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,sched_min_interval=100000
ReturnToService=2
GresTypes=gpu
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """Slurm's daemons with their own configuration, as root."""

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        self.hosts, self.folder = hosts, folder
        self.daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Starts the daemons and waits until all nodes are idle."""
        folder, head = self.folder, self.hosts[0]
        (folder / "key").write_bytes(os.urandom(128))
        (folder / "key").chmod(0o400)
        (folder / "state").mkdir()
        nodes = [
            f"NodeName={host.name} NodeAddr={host.ip} CPUs=8 RealMemory=1000000 Gres=gpu:1 State=UNKNOWN"
            for host in self.hosts
        ]
        (folder / "slurm.conf").write_text(
            CONF.format(head=head.name, ip=head.ip, folder=folder, nodes="\n".join(nodes))
        )
        (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        munge = ["munged", "--foreground", "--force", f"--key-file={folder}/key", f"--socket={folder}/munge.socket"]
        munge += [
            f"--pid-file={folder}/munge.pid",
            f"--log-file={folder}/munge.log",
            f"--seed-file={folder}/munge.seed",
        ]
        self.daemon(0, *munge)
        wait_for((folder / "munge.socket").exists, 20, lambda: "no munged")
        self.daemon(0, "slurmctld", "-D")
        for i, host in enumerate(self.hosts):
            self.daemon(i, "slurmd", "-D", "-N", host.name)
        wait_for(
            lambda: self.call("sinfo", "-h", "-o", "%T %D").split() == ["idle", str(len(self.hosts))], 60, self.logs
        )

    def daemon(self, host: int, *argv: str) -> None:
        """Starts a daemon on a host."""
        argv = (*self.hosts[host].enter(), "env", f"SLURM_CONF={self.folder}/slurm.conf", *argv)
        with (self.folder / f"{argv[-1].strip('/-')}.out".replace("/", "_")).open("ab") as out:
            self.daemons.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out))

    def call(self, *argv: str) -> str:
        """Runs a command of Slurm. Returns its output, or what failed."""
        command = [*self.hosts[0].enter(), "env", f"SLURM_CONF={self.folder}/slurm.conf", *argv]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        return result.stdout if result.returncode == 0 else f"code {result.returncode}: {result.stderr}"

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.log")))

    def state(self, job: str) -> str:
        """State of the job's learners, from squeue."""
        return self.call("squeue", "-h", "-j", job, "-o", "%i %T %r").strip()

    def stop(self) -> None:
        """Ends the daemons."""
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(10)


@pytest.fixture
def slurm() -> Iterator[Slurm]:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: apt-get install slurmctld slurmd slurm-client munge")
    with make_hosts(3) as hosts:
        folder = Path(tempfile.mkdtemp(prefix="slurm-", dir=hosts.folder))
        cluster = Slurm(hosts, folder)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def test_the_job_trains_is_requeued_and_resumes(slurm: Slurm) -> None:
    logdir, log = slurm.folder / "run", slurm.folder / "job.out"
    flags = [f"--logdir={logdir}", *FLAGS, "--checkpoint_every_seconds=3600"]
    sizes = ["--cpus-per-task=1", f"--output={log}", ":", "--ntasks=4", "--mem-per-cpu=100M"]
    env = {"MLMA_PYTHON": sys.executable, "MLMA_MPIRUN": f"{Path(sys.executable).parent}/mpirun"}
    env |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    export = ",".join(["--export=ALL", *(f"{name}={value}" for name, value in env.items())])
    output = slurm.call("sbatch", export, f"--chdir={ROOT}", *sizes, f"{ROOT}/sandbox/slurm/train.sbatch", *flags)
    (job,) = re.findall(r"Submitted batch job (\d+)", output) or [output]

    def explain() -> str:
        return f"{slurm.state(job)}\n{log.read_text() if log.exists() else ''}\n{slurm.logs()}"

    wait_for(lambda: frames(logdir) > 1e5, 300, explain)
    table = rows(logdir)
    slurm.call("scontrol", "requeue", job)
    wait_for(lambda: any((logdir / "checkpoints").glob("checkpoint-*.npz")), 60, explain)
    wait_for(lambda: "PENDING" in slurm.state(job), 60, explain)
    (saved,) = (logdir / "checkpoints").glob("checkpoint-*.npz")
    _, meta = load_checkpoint(saved)
    assert meta["frames"] >= table[-1]["frames"] > 1e5, "saved on the signal, not earlier"
    requeued = time.monotonic()
    wait_for(lambda: frames(logdir) > meta["frames"], 300, explain)
    print(f"trains again after {time.monotonic() - requeued:.0f} s")
    assert f"resumed {saved} at {meta['frames']:,} frames" in log.read_text()
    wait_for(lambda: job not in slurm.state(job), 400, explain)
    after = rows(logdir)
    assert all(later["frames"] >= earlier["frames"] for earlier, later in itertools.pairwise(after))
    assert after[-1]["frames"] >= 6e5
    p_right = [row["policy/p_action_1"] for row in after if row["frames"] > 0.8 * after[-1]["frames"]]
    print(f"p(right) {np.nanmean(p_right):.3f} after {after[-1]['frames']:,.0f} frames, {after[-1]['seconds']:.0f} s")
    assert abs(np.nanmean(p_right) - BEST) < 0.05
    assert "learners ended with code 0" in log.read_text()
