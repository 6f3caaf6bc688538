"""Command lines that have moved: one line that names the new one, for one release."""

from __future__ import annotations

import sys
from typing import NoReturn

from mlma.utils.child_process import EXIT_USAGE


def exit_with_successor(former: str, successor: str) -> NoReturn:
    """Prints the command that replaces `python -m former`, and exits as for a usage error."""
    print(f"python -m {former} is now: python -m {successor}", file=sys.stderr)
    sys.exit(EXIT_USAGE)
