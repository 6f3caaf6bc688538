"""`status --watch` on a terminal: the content of the screen, also while a host is cut off."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.hosts import Hosts
from tests.support.runs import wait_for

pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("width", [80, pytest.param(140, marks=pytest.mark.slow)])
def test_the_table_is_refreshed_while_a_host_is_cut_off(
    cluster: Cluster, hosts: Hosts, width: int, tmp_path: Path
) -> None:
    cluster.call("up", cluster.two_learners())
    tmux = ["tmux", "-S", str(tmp_path / "t")]
    watch = shlex.join(cluster.command("status", "--watch", "--every_seconds=0.5", "--connect_seconds=5"))
    subprocess.run([*tmux, "new-session", "-d", "-x", str(width), "-y", "24", f"env -u TMUX {watch}"], check=True)

    def screen() -> str:
        return subprocess.run([*tmux, "capture-pane", "-p"], capture_output=True, text=True, check=True).stdout

    try:
        wait_for(lambda: screen().count(" running ") == 8, 40, screen)
        hosts[2].cut()
        wait_for(lambda: screen().count(" unreachable ") == 2, 40, screen)
        ages = re.findall(r"running +(\S+)", screen())
        # Other hosts are still polled: less than the 10 s for which a request to the cut host may take.
        wait_for(lambda: re.findall(r"running +(\S+)", screen()) != ages, 8, screen)
        assert screen().count(" running ") == 6
        assert f"actor-2, actor-3 on {hosts[2].ip}: no answer" in screen()
        assert all(len(line) <= width for line in screen().splitlines())
        hosts[2].reconnect()
        wait_for(lambda: screen().count(" running ") == 8, 40, screen)
    finally:
        hosts[2].reconnect()
        subprocess.run([*tmux, "kill-server"], check=False)
        cluster.call("down")
