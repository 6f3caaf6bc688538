"""The token that learners and actors of a run share."""

from __future__ import annotations

import hashlib
import os
import stat

from mlma.utils.input_file import read_input_file

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


def token_digest(token: str) -> bytes:
    """What travels and is compared instead of the token: always 64 bytes."""
    return hashlib.sha256(f"mlma {token}".encode()).hexdigest().encode()
