"""Hosts on one machine: each a network namespace with its own address, host name, user, home and sshd, joined by a bridge.

`with make_hosts(4) as hosts:` builds them and takes everything away again, also after a failure. This machine is on
the bridge too. Needs root, iproute2, OpenSSH's server and useradd; `missing()` says what is not there. A link can be cut,
everything on a host can be killed as by a reboot, and `host.run` runs a command on it, `tc` included: the device is eth0.
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
HOME_SIZE = "64m"  # a home is a file system of its own, so that it can be full
SBIN = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def missing() -> str:
    """Why hosts cannot be built here, or nothing."""
    if os.geteuid() != 0:
        return "needs root, to make network namespaces and users"
    lacking = [tool for tool in TOOLS if shutil.which(tool, path=SBIN) is None]
    if lacking:
        return f"needs {', '.join(lacking)}"
    name = f"mlma{secrets.token_hex(2)}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return "may not make network namespaces"
    subprocess.run(["ip", "netns", "delete", name], check=True)
    return ""


def root(*words: str, stdin: str = "", check: bool = True) -> str:
    """Runs a command of the system as root; its output."""
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, env=os.environ | {"PATH": SBIN})
    assert done.returncode == 0 or not check, f"{' '.join(words)}: {done.stderr}"
    return done.stdout


@dataclasses.dataclass
class Host:
    name: str  # of the host, of its namespace, and of its user
    ip: str
    home: Path
    folder: Path  # its sshd's files
    password: str
    sshd: subprocess.Popen[bytes] | None = None

    def start_sshd(self) -> None:
        """The sshd, in namespaces of its own for the network, mounts and the host's name; what it starts is in them too."""
        script = _enter(self)
        words = ["ip", "netns", "exec", self.name, "unshare", "--mount", "--uts", "sh", "-ec", script]
        self.sshd = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={"PATH": SBIN}
        )

    def enter(self, user: bool = False) -> list[str]:
        """The words that make a command run on this host, as root or as its user."""
        assert self.sshd is not None
        words = ["nsenter", f"--target={self.sshd.pid}", "--net", "--mount", "--uts"]
        who = ["setpriv", f"--reuid={self.name}", f"--regid={self.name}", "--init-groups", "env", f"HOME={self.home}"]
        return [*words, *(who if user else [])]

    def run(self, *words: str, check: bool = True, user: bool = False) -> str:
        return root(*self.enter(user), *words, check=check)

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Something of the user's that goes on."""
        return subprocess.Popen([*self.enter(user=True), *words], stdin=subprocess.DEVNULL, env={"PATH": SBIN})

    def cut(self) -> None:
        root("ip", "link", "set", f"v{self.name}", "down")

    def mend(self) -> None:
        root("ip", "link", "set", f"v{self.name}", "up")

    def pids(self) -> list[int]:
        """Everything that runs on this host but for its sshd."""
        found = [int(pid) for pid in root("ip", "netns", "pids", self.name, check=False).split()]
        return [pid for pid in found if not _command(pid).startswith("sshd")]

    def processes(self) -> list[str]:
        return [line for line in (_command(pid) for pid in self.pids()) if line]

    def kill_all(self) -> None:
        """What a power cut does to processes."""
        for pid in root("ip", "netns", "pids", self.name, check=False).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        if self.sshd:
            self.sshd.wait()
            self.sshd = None

    def new_host_key(self) -> None:
        (self.folder / "host_key").unlink(missing_ok=True)
        root("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / "host_key"))

    def wait_for_sshd(self) -> None:
        end = time.monotonic() + 10
        while f"{self.ip}:22" not in root("ip", "netns", "exec", self.name, "ss", "-Hltn", check=False):
            assert time.monotonic() < end, f"no sshd on {self.name}"
            time.sleep(0.02)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


def _enter(host: Host) -> str:
    """The script that becomes the sshd: Python and this checkout must be readable by an ordinary user, wherever they are."""
    lines = [f"hostname {host.name}", f"mount --bind {host.folder}/etc_hosts /etc/hosts", "mkdir -p /run/sshd"]
    needed = [Path(sys.base_prefix), Path(sys.prefix), ROOT]
    closed = {top for path in needed for top in reversed(path.parents) if not top.stat().st_mode & 0o001}
    for top in sorted(closed):
        if any(other in top.parents for other in closed):
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
AuthorizedKeysFile {home}/.ssh/authorized_keys
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
    """The hosts, and the key that opens all of them."""

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
        (host.folder / "sshd_config").write_text(SSHD_CONFIG.format(ip=host.ip, folder=host.folder, home=host.home))

    def known_hosts(self, path: Path) -> Path:
        """A file that knows all of them."""
        keys = [(host.ip, (host.folder / "host_key.pub").read_text().split()[:2]) for host in self.all]
        path.write_text("".join(f"{ip},[{ip}]:2222 {' '.join(key)}\n" for ip, key in keys))
        return path

    def janitor(self) -> subprocess.Popen[bytes]:
        """A process that takes everything away when its standard input ends: when we say so, or when this process is killed."""
        words = [sys.executable, "-m", "tests.support.hosts", self.bridge, str(self.folder)]
        words += [word for host in self.all for word in (host.name, str(host.home))]
        return subprocess.Popen(words, stdin=subprocess.PIPE, cwd=ROOT, start_new_session=True)


def clean(bridge: str, folder: str, hosts: list[tuple[str, str]]) -> None:
    for name, home in hosts:
        for pid in root("ip", "netns", "pids", name, check=False).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        root("ip", "netns", "delete", name, check=False)
        root("ip", "link", "delete", f"v{name}", check=False)
        root("umount", "--lazy", home, check=False)
        with contextlib.suppress(KeyError):
            uid = pwd.getpwnam(name).pw_uid
            for path in Path("/tmp").iterdir():  # sockets of tmux, of MPI
                with contextlib.suppress(OSError):  # others come and go
                    if path.lstat().st_uid == uid:
                        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
        root("userdel", "--force", name, check=False)
    root("ip", "link", "delete", bridge, check=False)
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def make_hosts(count: int) -> Iterator[Hosts]:
    folder = Path(tempfile.mkdtemp(prefix="mlma-hosts-"))  # not in pytest's own folders, which are for one user's eyes
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
