"""The token that learners and actors of a run share."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path


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
        token = Path(token_file).read_text().strip()
    except OSError as error:
        raise ValueError(f"--token_file={token_file}: {error.strerror}") from None
    if not token:
        raise ValueError(f"--token_file={token_file}: is empty")
    return token


def token_digest(token: str) -> bytes:
    """What travels and is compared instead of the token: always 64 bytes."""
    return hashlib.sha256(f"mlma {token}".encode()).hexdigest().encode()
