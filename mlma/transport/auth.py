"""Authentication: the shared token, and which addresses may be used without one."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from mlma.utils.network import is_local_ip


def read_token(token_file: str) -> str:
    """The shared secret, or "" if there is none. ValueError if the file can be read by others."""
    if token := os.environ.get("MLMA_TOKEN", ""):
        return token
    if not token_file:
        return ""
    try:
        mode = stat.S_IMODE(os.stat(token_file).st_mode)
        if mode & 0o077:
            raise ValueError(
                f"--token_file={token_file}: has mode {mode:04o}, others could read it; allowed: 0600 (chmod 600 {token_file})"
            )
        token = Path(token_file).read_text().strip()
    except OSError as error:
        raise ValueError(f"--token_file={token_file}: {error.strerror}") from None
    if not token:
        raise ValueError(f"--token_file={token_file}: is empty")
    return token


def check_address(address: str, token: str) -> str:
    """The address as the runtime wants it; ValueError if it is malformed, or open to a network without a token."""
    if address.startswith("unix:"):
        if len(address) > 100:
            raise ValueError(f"--learner_host={address}: too long for a unix socket (at most 95 characters of path)")
        return address
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"--learner_host={address}: must be host:port or unix:/path")
    if host == "localhost":
        host = "127.0.0.1"
    if not (host.startswith("127.") or host == "[::1]") and not token:
        raise ValueError(
            f"--learner_host={address}: is open to the network, which needs a shared token; set MLMA_TOKEN or --token_file"
        )
    return f"{host}:{port}"


def is_local_address(address: str) -> bool:
    """Whether this is an address of this machine; one end of a tunnel is, too."""
    host, _, _ = address.rpartition(":")
    return address.startswith(("unix:", "[::1]:")) or is_local_ip(host)


def token_digest(token: str) -> bytes:
    """What is sent and compared: always 64 bytes."""
    return hashlib.sha256(f"mlma {token}".encode()).hexdigest().encode()
