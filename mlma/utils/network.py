"""Which addresses are this machine's."""

from __future__ import annotations

import re
import socket


def is_local_ip(ip: str) -> bool:
    """Of an IPv4 address."""
    if not re.fullmatch(r"\d+\.\d+\.\d+\.\d+", ip):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((ip, 0))
        except OSError:
            return False
    return True
