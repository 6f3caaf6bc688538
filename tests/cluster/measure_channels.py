"""Measures training through each channel of a CSV run, in alternating runs: not a test.

    python -m tests.cluster.measure_channels --rounds=3

A learner and an actor on two hosts (network namespaces of this machine, with a real sshd), Pong, the preset network.
The frames of `seconds` after a warm-up are counted. Actors have the same niceness in all runs, since they share the
cores with the learner. Needs root.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.support.cluster import Cluster
from tests.support.hosts import Hosts, make_hosts
from tests.support.runs import rows, wait_for

CHANNELS = ("plaintext", "ssh", "tls")
NICE = f"nice -n 10 {sys.executable}"  # through SSH, actors do this themselves


def frames_per_second(hosts: Hosts, channel: str, level: str, warm_up: float, seconds: float) -> float:
    """Of one run."""
    folder = Path(tempfile.mkdtemp(dir=hosts.folder))
    folder.chmod(0o755)
    run = Cluster(hosts, folder, sys.executable)
    run.logdir.mkdir(mode=0o777)
    run.logdir.chmod(0o777)
    actor = run.row("actor", hosts[1], num_actors=2, **({} if channel == "ssh" else {"python": NICE}))
    flags = [f"--level_name={level}", "--report_every_seconds=1", "--total_environment_frames=1e9"]
    known = f"--known_hosts={hosts.known_hosts(folder / 'known_hosts')}"
    run.call("up", run.csv([run.row("learner", hosts[0]), actor]), *flags, f"--channel={channel}", known)
    try:
        wait_for((run.logdir / "metrics.csv").exists, 120, lambda: run.call("logs", code=None))
        time.sleep(warm_up + seconds)
    finally:
        run.call("down", known, code=None)
    table = [row for row in rows(run.logdir) if row["seconds"] >= warm_up]
    first, last = table[0], [row for row in table if row["seconds"] <= warm_up + seconds][-1]
    return (last["frames"] - first["frames"]) / (last["seconds"] - first["seconds"])


def main() -> None:
    """Prints every run, then medians."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3, help="each measures every channel twice, in both orders")
    parser.add_argument("--level", default="PongNoFrameskip-v4")
    parser.add_argument("--warm_up", type=float, default=12)
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    results: dict[str, list[float]] = {channel: [] for channel in CHANNELS}
    with make_hosts(2) as hosts:
        for _ in range(arguments.rounds):
            for channel in (*CHANNELS, *reversed(CHANNELS)):
                rate = frames_per_second(hosts, channel, arguments.level, arguments.warm_up, arguments.seconds)
                results[channel].append(rate)
                print(f"{channel} {rate:,.0f} frames/s", flush=True)
    base = statistics.median(results["plaintext"])
    for channel, rates in results.items():
        median = statistics.median(rates)
        print(f"{channel}: median {median:,.0f} frames/s, {median / base:.3f} of plaintext")


if __name__ == "__main__":
    main()
