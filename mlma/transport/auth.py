"""Authentication: the shared token, and the addresses that may be used without one."""

from __future__ import annotations

import hashlib
import os
import stat

from mlma.utils.input_file import read_input_file
from mlma.utils.network import is_local_ip

MAX_TOKEN_BYTES = 65_536


def read_token(token_file: str) -> str:
    """The shared secret from MLMA_TOKEN or from the file; "" without either. ValueError if others can read the file."""
    if token := os.environ.get("MLMA_TOKEN", ""):
        return token
    if not token_file:
        return ""
    try:
        mode = stat.S_IMODE(os.stat(token_file).st_mode)
        if mode & 0o077:
            raise ValueError(
                f"--token_file={token_file}: has mode {mode:04o}, so others can read it; "
                f"allowed: 0600 (chmod 600 {token_file})"
            )
        token = _read_text(token_file)
    except OSError as error:
        raise ValueError(f"--token_file={token_file}: {error.strerror}") from None
    if not token:
        raise ValueError(f"--token_file={token_file}: is empty")
    return token


def _read_text(token_file: str) -> str:
    """The text of the file; ValueError for a pipe, a huge file, or one that is not text."""
    try:
        return read_input_file(token_file, MAX_TOKEN_BYTES).decode().strip()
    except UnicodeDecodeError:
        raise ValueError(f"--token_file={token_file}: must be UTF-8 text") from None
    except ValueError as error:
        raise ValueError(f"--token_file={token_file}: {error}") from None


def check_address(address: str, token: str) -> str:
    """The address as gRPC expects it; ValueError if it is malformed, or open to the network without a token."""
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
            f"--learner_host={address}: is open to the network, which needs a shared token: "
            "set MLMA_TOKEN or --token_file"
        )
    return f"{host}:{port}"


def is_local_address(address: str) -> bool:
    """Whether the address is on this machine; the local end of an SSH tunnel counts."""
    host, _, _ = address.rpartition(":")
    return address.startswith(("unix:", "[::1]:")) or is_local_ip(host)


def token_digest(token: str) -> bytes:
    """What travels and is compared instead of the token: always 64 bytes."""
    return hashlib.sha256(f"mlma {token}".encode()).hexdigest().encode()
