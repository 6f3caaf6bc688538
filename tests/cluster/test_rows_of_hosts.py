"""Hosts as a CSV may name them: separators, IPv6, accounts of one host, Hosts of ~/.ssh/config, encrypted keys."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mlma.cluster.options import Options
from mlma.cluster.planning.hosts import plan_hosts, run_folder
from mlma.cluster.planning.launch_plan import make_plan
from mlma.cluster.planning.ssh_config import SshConfig, jump_command
from mlma.cluster.planning.workers_csv import CsvErrors, Worker, read_workers
from mlma.cluster.remote.ssh_login import is_encrypted
from mlma.core.config import Config
from tests.support.workers_csv import BASE_HEADER, FOUR_HOSTS, write_csv

CONFIG = """
Include more/*.conf
Host gpu
    HostName 10.9.0.1
    User ann
    Port 2222
    IdentityFile {folder}/missing
    IdentityFile {folder}/key
    ProxyJump bob@gate:2200,inner
Host cpu*
    HostName %h.example.org
    ProxyCommand nc -X 5 %h %p
Host *
    User carol
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh/more").mkdir(parents=True)
    (tmp_path / "key").write_text("a key")
    (tmp_path / ".ssh/config").write_text(CONFIG.format(folder=tmp_path))
    (tmp_path / ".ssh/more/lab.conf").write_text("Host lab\n    HostName 10.9.0.7\n")
    return tmp_path


def rows(folder: Path, *lines: str, header: str = BASE_HEADER) -> list[Worker]:
    return read_workers(write_csv(folder, "\n".join([header, *lines]) + "\n"))


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_fields_may_be_separated_by_semicolons_or_tabs(tmp_path: Path, delimiter: str) -> None:
    expected = read_workers(write_csv(tmp_path, FOUR_HOSTS))
    text = FOUR_HOSTS.replace('"', "").replace(",", delimiter)
    assert read_workers(write_csv(tmp_path, text)) == expected
    learner, _ = rows(tmp_path, "learner;a;0,1", "actor;a;", header="job;ip;cuda_visible_devices")
    assert learner.cuda_visible_devices == "0,1", "without quotes"
    with pytest.raises(CsvErrors, match=f"contains a {'tab' if delimiter != ';' else 'semicolon'} needs quotes"):
        rows(tmp_path, delimiter.join(["actor", "a", "b", "c"]), header=f"job{delimiter}ip")


def test_an_ipv6_address_is_an_address(tmp_path: Path) -> None:
    learner, actor, other = rows(
        tmp_path, "learner,fd00::1,,,,ann,", "actor,[FD00::0:2],,,2222,ann,", "actor,fd00::3,,,,,"
    )
    assert (learner.host, actor.host) == ("ann@[fd00::1]:22", "ann@[fd00::2]:2222")
    assert other.local is False
    hosts = plan_hosts([learner, actor], Options())
    assert [host.ip for host in hosts.values()] == ["fd00::1", "fd00::2"]
    assert [run_folder("run", key) for key in hosts] == [".mlma/run/fd00--1", ".mlma/run/fd00--2-port2222"]
    argv = " ".join(make_plan([learner, actor], Config(), Options(channel="tls")).processes[1].argv)
    assert "--learner_host=[fd00::1]:8001" in argv
    for bad, hint in (
        ("fd00::1:22x", "IPv4 or IPv6 address"),
        ("10.0.0.1:2222", "ssh_port"),
        ("fe80::1", "link-local"),
    ):
        with pytest.raises(CsvErrors, match=hint):
            rows(tmp_path, f"learner,{bad},,,,,", "actor,b,,,,,")
    with pytest.raises(ValueError, match="row 2, column ip: fd00::1: mpirun takes no IPv6 address"):
        make_plan(
            rows(tmp_path, "learner,fd00::1,,,,u,", "learner,fd00::2,,,,u,", "actor,c,,,,u,", "actor,c,,,,u,"),
            Config(),
            Options(),
        )


def test_accounts_of_one_host_are_told_apart(tmp_path: Path) -> None:
    workers = rows(tmp_path, "learner,a,,,,ann,", "actor,a,,,,bob,", "actor,b,,,,bob,", "actor,b,,,2222,bob,")
    labels = [host.label for host in plan_hosts(workers, Options()).values()]
    assert labels == ["ann@a", "bob@a", "b", "b:2222"]


def test_rows_are_completed_from_the_config_of_ssh(home: Path) -> None:
    learner, actor, third, fourth, local = rows(
        home, "learner,gpu,,,,,", "actor,gpu,,,22,dora,", "actor,cpu7,,,,,", "actor,lab,,,,,", "actor,localhost,,,,,"
    )
    assert (learner.host, learner.alias, learner.ssh_key_file) == ("ann@10.9.0.1:2222", "gpu", f"{home}/key")
    assert learner.proxy == "ssh -o BatchMode=yes -J ssh://bob@gate:2200 -W '[10.9.0.1]:2222' ssh://inner"
    assert actor.host == "dora@10.9.0.1:22", "the row comes first"
    assert (third.host, third.proxy) == ("carol@cpu7.example.org:22", "nc -X 5 cpu7.example.org 22")
    assert fourth.host == "carol@10.9.0.7:22", "of an included file"
    assert local.host == "localhost"
    hosts = plan_hosts([learner, actor], Options())
    assert [host.label for host in hosts.values()] == ["ann@gpu", "dora@gpu"]
    (home / ".ssh/config").write_text("Host a\n  Port many\n")
    with pytest.raises(ValueError, match=r"~/.ssh/config: cannot be read for host 'a'"):
        rows(home, "learner,a,,,,,", "actor,a,,,,,")
    assert SshConfig("").lookup("x") == ("x", 0, "", "", "")
    assert jump_command("gate", "fd00::1", 22).endswith("-W '[fd00::1]:22' ssh://gate")


@pytest.mark.parametrize("form", ["RFC4716", "PEM"])
def test_an_encrypted_key_is_recognised(tmp_path: Path, form: str) -> None:
    for phrase in ("", "secret words"):
        path = tmp_path / f"key-{bool(phrase)}"
        subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-m", form, "-N", phrase, "-f", str(path)], check=True)
        assert is_encrypted(path) == bool(phrase)
    assert not is_encrypted(tmp_path / "missing") and not is_encrypted(tmp_path / "key-True.pub")
