"""Hosts on one machine: network namespaces with an address, host name, user, home and sshd each, on one bridge.

`with make_hosts(4) as hosts:` builds them and removes everything again, also after a failure. This machine is on the
bridge, too. Needs root, iproute2, OpenSSH's server and useradd; `missing()` says what is not installed. A host's link
can be cut, its processes can be killed as by a reboot, and `host.run` runs a command on it, including `tc`: the network
device is eth0.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.runs import ROOT

TOOLS = ("ip", "sshd", "ssh", "ssh-keygen", "useradd", "userdel", "chpasswd", "unshare", "nsenter", "mount", "tmux")
HOME_SIZE = "64m"  # a home is a separate file system, so that a test can fill it
SBIN = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def missing() -> str:
    """Why hosts cannot be built on this machine; empty if they can."""
    if os.geteuid() != 0:
        return "needs root, to make network namespaces and users"
    missing_tools = [tool for tool in TOOLS if shutil.which(tool, path=SBIN) is None]
    if missing_tools:
        return f"needs {', '.join(missing_tools)}"
    name = f"mlma{secrets.token_hex(2)}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return "not permitted to make network namespaces"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return ""


def root(*argv: str, stdin: str = "", check: bool = True) -> str:
    """Runs a system command as root. Returns its output."""
    result = subprocess.run(argv, input=stdin, capture_output=True, text=True, env=os.environ | {"PATH": SBIN})
    assert result.returncode == 0 or not check, f"{' '.join(argv)}: {result.stderr}"
    return result.stdout


@dataclasses.dataclass
class Host:
    """One host."""

    name: str  # of the host, its network namespace, and its user
    ip: str
    home: Path
    folder: Path  # with the files of its sshd
    password: str
    sshd: subprocess.Popen[bytes] | None = None

    def start_sshd(self) -> None:
        """Starts the sshd in its own namespaces for network, mounts and host name, which its children share."""
        argv = ["ip", "netns", "exec", self.name, "unshare", "--mount", "--uts", "sh", "-ec", _sshd_script(self)]
        self.sshd = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={"PATH": SBIN}
        )

    def enter(self, user: bool = False) -> list[str]:
        """A prefix that makes a command run on this host, as root or as its user."""
        assert self.sshd is not None
        argv = ["nsenter", f"--target={self.sshd.pid}", "--net", "--mount", "--uts"]
        as_user = [
            "setpriv",
            f"--reuid={self.name}",
            f"--regid={self.name}",
            "--init-groups",
            "env",
            f"HOME={self.home}",
        ]
        return [*argv, *(as_user if user else [])]

    def run(self, *argv: str, check: bool = True, user: bool = False) -> str:
        """Runs a command on this host. Returns its output."""
        return root(*self.enter(user), *argv, check=check)

    def start(self, *argv: str) -> subprocess.Popen[bytes]:
        """Starts a process of the user without waiting for it."""
        return subprocess.Popen([*self.enter(user=True), *argv], stdin=subprocess.DEVNULL, env={"PATH": SBIN})

    def cut(self) -> None:
        """Disconnects the host from the network."""
        root("ip", "link", "set", f"v{self.name}", "down")

    def reconnect(self) -> None:
        """Connects the host again."""
        root("ip", "link", "set", f"v{self.name}", "up")

    def firewall(self, closed: bool) -> None:
        """Drops what comes from other hosts to any port from 1024 on, without an answer; SSH passes."""
        first, local = ("0", "10") if closed else ("10", "0")  # the rule for own addresses has to come after this one
        ports = ["ipproto", "6", "sport", "1024-65534", "dport", "1024-65534"]  # 6 is TCP: not all have its name
        self.run("ip", "rule", "delete", "pref", "5", check=False)
        self.run("ip", "rule", "add", "pref", local, "lookup", "local", check=False)
        self.run("ip", "rule", "delete", "pref", first, "lookup", "local", check=False)
        if closed:
            self.run("ip", "rule", "add", "pref", "5", "iif", "eth0", *ports, "blackhole")

    def pids(self) -> list[int]:
        """All processes on this host except its sshd."""
        pids = [int(pid) for pid in root("ip", "netns", "pids", self.name, check=False).split()]
        return [pid for pid in pids if not command_of(pid).startswith("sshd")]

    def processes(self) -> list[str]:
        """The command lines of `pids`."""
        return [line for line in (command_of(pid) for pid in self.pids()) if line]

    def kill_all(self) -> None:
        """Kills every process, as a power cut does; what they had in /tmp goes, as where it is in memory."""
        for pid in root("ip", "netns", "pids", self.name, check=False).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        if self.sshd:
            self.sshd.wait()
            self.sshd = None
        remove_temporary_files(self.name)

    def new_host_key(self) -> None:
        """Makes a host key, in place of an existing one."""
        (self.folder / "host_key").unlink(missing_ok=True)
        root("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / "host_key"))

    def wait_for_sshd(self) -> None:
        """Waits until the sshd listens."""
        end = time.monotonic() + 10
        while f"{self.ip}:22" not in root("ip", "netns", "exec", self.name, "ss", "-Hltn", check=False):
            assert time.monotonic() < end, f"no sshd on {self.name}"
            time.sleep(0.02)


def command_of(pid: int) -> str:
    """The command line of a process; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


def _sshd_script(host: Host) -> str:
    """The script that becomes the sshd. It makes Python and this checkout readable for ordinary users."""
    lines = [f"hostname {host.name}", f"mount --bind {host.folder}/etc_hosts /etc/hosts", "mkdir -p /run/sshd"]
    needed = [Path(sys.base_prefix), Path(sys.prefix), ROOT]
    unreadable = {top for path in needed for top in reversed(path.parents) if not top.stat().st_mode & 0o001}
    for top in sorted(unreadable):
        if any(other in top.parents for other in unreadable):
            continue
        view = host.folder / f"view{str(top).replace('/', '_')}"
        lines.append(f"mkdir -p {view} && mount -t tmpfs -o mode=0755 none {view}")
        for path in needed:
            if top in path.parents:
                inside = view / path.relative_to(top)
                lines.append(f"mkdir -p {inside} && mount --rbind {path} {inside}")
        lines.append(f"mount --rbind {view} {top}")
    return "\n".join([*lines, f"exec /usr/sbin/sshd -D -e -f {host.folder}/sshd_config"])


SSHD_CONFIG = """Port 22
Port 2222
ListenAddress {ip}
HostKey {folder}/host_key
AuthorizedKeysFile %h/.ssh/authorized_keys
PasswordAuthentication yes
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PidFile none
MaxStartups 100:30:200
MaxSessions 100
Subsystem sftp internal-sftp
"""


class Hosts:
    """The hosts, and a key that all of them accept."""

    def __init__(self, count: int, folder: Path) -> None:
        tag = secrets.token_hex(2)
        self.folder = folder
        self.bridge = f"mlma{tag}"
        subnet = 16 + int(tag, 16) % 64, int(tag, 16) // 64 % 256
        self.gateway = f"10.{subnet[0]}.{subnet[1]}.254"
        self.key = folder / "key"
        self.all = [
            Host(
                f"m{tag}h{i}",
                f"10.{subnet[0]}.{subnet[1]}.{i + 1}",
                folder / f"home{i}",
                folder / f"host{i}",
                f"pw-{tag}-{i}-Zx",
            )
            for i in range(count)
        ]

    def __getitem__(self, index: int) -> Host:
        return self.all[index]

    def __iter__(self) -> Iterator[Host]:
        return iter(self.all)

    def __len__(self) -> int:
        return len(self.all)

    def build(self) -> None:
        """Makes the bridge and the hosts, and starts their sshds."""
        root("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
        root("ip", "link", "add", self.bridge, "type", "bridge")
        root("ip", "address", "add", f"{self.gateway}/24", "dev", self.bridge)
        root("ip", "link", "set", self.bridge, "up")
        for host in self.all:
            self._build(host)
        names = "".join(f"{host.ip} {host.name}\n" for host in self.all)
        for host in self.all:
            (host.folder / "etc_hosts").write_text(f"127.0.0.1 localhost\n{names}")
            host.start_sshd()
        for host in self.all:
            host.wait_for_sshd()

    def _build(self, host: Host) -> None:
        root("ip", "netns", "add", host.name)
        root("ip", "link", "add", f"v{host.name}", "type", "veth", "peer", "name", "eth0", "netns", host.name)
        root("ip", "link", "set", f"v{host.name}", "master", self.bridge, "up")
        inside = ["ip", "-n", host.name]
        root(*inside, "link", "set", "lo", "up")
        root(*inside, "address", "add", f"{host.ip}/24", "dev", "eth0")
        root(*inside, "link", "set", "eth0", "up")
        host.home.mkdir()
        root("useradd", "--no-create-home", "--home-dir", str(host.home), "--shell", "/bin/bash", host.name)
        root("chpasswd", stdin=f"{host.name}:{host.password}\n")
        root(
            "mount",
            "-t",
            "tmpfs",
            "-o",
            f"size={HOME_SIZE},mode=0700,uid={host.name},gid={host.name}",
            "none",
            str(host.home),
        )
        (host.home / ".ssh").mkdir(mode=0o700)
        (host.home / ".ssh" / "authorized_keys").write_text(self.key.with_suffix(".pub").read_text())
        root("chown", "-R", f"{host.name}:{host.name}", str(host.home))
        host.folder.mkdir()
        host.new_host_key()
        (host.folder / "sshd_config").write_text(SSHD_CONFIG.format(ip=host.ip, folder=host.folder))

    def known_hosts(self, path: Path) -> Path:
        """Writes a known_hosts file with all hosts."""
        keys = [(host.ip, (host.folder / "host_key.pub").read_text().split()[:2]) for host in self.all]
        path.write_text("".join(f"{ip},[{ip}]:2222 {' '.join(key)}\n" for ip, key in keys))
        return path

    def janitor(self) -> subprocess.Popen[bytes]:
        """A process that removes everything when its standard input is closed, also because this process was killed."""
        argv = [sys.executable, "-m", "tests.support.hosts", self.bridge, str(self.folder)]
        argv += [word for host in self.all for word in (host.name, str(host.home))]
        return subprocess.Popen(argv, stdin=subprocess.PIPE, cwd=ROOT, start_new_session=True)


def remove_temporary_files(user: str) -> None:
    """Removes what this user has in /tmp: sockets of tmux, of MPI."""
    with contextlib.suppress(KeyError):
        uid = pwd.getpwnam(user).pw_uid
        for path in Path("/tmp").iterdir():
            with contextlib.suppress(OSError):  # processes of others create and remove files there
                if path.lstat().st_uid == uid:
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def clean(bridge: str, folder: str, hosts: list[tuple[str, str]]) -> None:
    """Removes hosts, given by name and home, and everything that belongs to them."""
    for name, home in hosts:
        for pid in root("ip", "netns", "pids", name, check=False).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        root("ip", "netns", "delete", name, check=False)
        root("ip", "link", "delete", f"v{name}", check=False)
        root("umount", "--lazy", home, check=False)
        remove_temporary_files(name)
        root("userdel", "--force", name, check=False)
    root("ip", "link", "delete", bridge, check=False)
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def make_hosts(count: int) -> Iterator[Hosts]:
    """Builds hosts, and removes them afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="mlma-hosts-"))  # pytest's own folders are readable for one user only
    folder.chmod(0o755)
    hosts = Hosts(count, folder)
    with hosts.janitor() as janitor:
        try:
            hosts.build()
            yield hosts
        finally:
            janitor.communicate()
            for host in hosts:
                if host.sshd:
                    host.sshd.wait()


if __name__ == "__main__":
    sys.stdin.read()
    rest = sys.argv[3:]
    clean(sys.argv[1], sys.argv[2], list(zip(rest[::2], rest[1::2], strict=True)))
