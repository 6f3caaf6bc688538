"""sandbox/scaling: the model of many learners against manual calculation, and the simulated slow network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import ROOT

# Run on two hosts: measures the bandwidth and the round trip between them.
TALK = """
import os, socket, time
if os.environ["OMPI_COMM_WORLD_RANK"] == "0":
    with socket.create_server(("10.77.0.1", 5555)) as server:
        peer = server.accept()[0]
        while (data := peer.recv(1)) == b"x":
            peer.sendall(data)
        began, count = time.monotonic(), 0
        while data := peer.recv(2**20):
            count += len(data)
        print("mbit", 8e-6 * count / (time.monotonic() - began))
else:
    for _ in range(50):
        try:
            peer = socket.create_connection(("10.77.0.1", 5555))
            break
        except OSError:
            time.sleep(0.1)
    durations = []
    for _ in range(20):
        began = time.monotonic()
        peer.sendall(b"x")
        peer.recv(1)
        durations.append(time.monotonic() - began)
    print("round trip", 1000 * min(durations))
    peer.sendall(bytes(20_000_000))
    peer.close()
"""


def run_python(*arguments: str) -> str:
    """The output of Python with these arguments."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120).stdout


def namespaces() -> set[str]:
    """The network namespaces of mlma that exist now."""
    folder = Path("/run/netns")
    return {path.name for path in folder.iterdir() if path.name.startswith("mlma")} if folder.exists() else set()


def test_the_model_adds_up() -> None:
    table = run_python(
        "sandbox/scaling/model.py", "--compute_ms=100", "--mb=10", "--mbit=800", "--latency_ms=1", "--copy_ms=2"
    )
    steps = {int(n): float(ms) for n, ms in re.findall(r"\| (\d+) \| ([\d.]+) \|", table)}
    assert steps[1] == 100
    assert steps[2] == 100 + 2 * 1 * (1 + 50) + 20  # 10 MB at 100 MB/s are 100 ms, half of it in each of 2 messages
    assert steps[5] == 100 + 2 * 4 * (1 + 20) + 20


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
@pytest.mark.skipif(not all(map(shutil.which, ("ip", "tc"))), reason="no ip or tc: apt-get install iproute2")
@pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="no tun device")
def test_the_slow_network_has_the_given_speed_and_leaves_nothing() -> None:
    before = namespaces()
    text = run_python("sandbox/scaling/limited.py", "--hosts=2", "--mbit=100", "--delay_ms=2", "--", "-c", TALK)
    measured = dict(re.findall(r"(mbit|round trip) ([\d.]+)", text))
    assert 30 < float(measured["mbit"]) < 110  # a busy machine may be slower
    assert 4 < float(measured["round trip"]) < 20
    assert namespaces() == before
