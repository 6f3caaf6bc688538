"""The model of many learners against sums by hand, and the slow network that it is checked on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.runs import ROOT

TALK = """
import os, socket, time
if os.environ["OMPI_COMM_WORLD_RANK"] == "0":
    with socket.create_server(("10.77.0.1", 5555)) as server:
        peer = server.accept()[0]
        while (data := peer.recv(1)) == b"x":
            peer.sendall(data)
        begun, count = time.monotonic(), 0
        while data := peer.recv(2**20):
            count += len(data)
        print("mbit", 8e-6 * count / (time.monotonic() - begun))
else:
    for _ in range(50):
        try:
            peer = socket.create_connection(("10.77.0.1", 5555))
            break
        except OSError:
            time.sleep(0.1)
    taken = []
    for _ in range(20):
        begun = time.monotonic()
        peer.sendall(b"x")
        peer.recv(1)
        taken.append(time.monotonic() - begun)
    print("round trip", 1000 * min(taken))
    peer.sendall(bytes(20_000_000))
    peer.close()
"""


def output(*words: str) -> str:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120).stdout


def namespaces() -> set[str]:
    folder = Path("/run/netns")
    return {path.name for path in folder.iterdir() if path.name.startswith("mlma")} if folder.exists() else set()


def test_the_model_adds_up() -> None:
    table = output("sandbox/scaling/model.py", "--compute_ms=100", "--mb=10", "--mbit=800", "--latency_ms=1", "--copy_ms=2")
    steps = {int(n): float(ms) for n, ms in re.findall(r"\| (\d+) \| ([\d.]+) \|", table)}
    assert steps[1] == 100
    assert steps[2] == 100 + 2 * 1 * (1 + 50) + 20  # 10 MB at 100 MB/s are 100 ms, half of it in each of 2 messages
    assert steps[5] == 100 + 2 * 4 * (1 + 20) + 20


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
@pytest.mark.skipif(not all(map(shutil.which, ("ip", "tc"))), reason="no ip or tc: apt-get install iproute2")
@pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="no tun device")
def test_the_slow_network_is_as_slow_as_asked_for_and_leaves_nothing() -> None:
    before = namespaces()
    said = output("sandbox/scaling/limited.py", "--hosts=2", "--mbit=100", "--delay_ms=2", "--", "-c", TALK)
    found = dict(re.findall(r"(mbit|round trip) ([\d.]+)", said))
    assert 30 < float(found["mbit"]) < 110  # a busy machine may be slower
    assert 4 < float(found["round trip"]) < 20
    assert namespaces() == before
