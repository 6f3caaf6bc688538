"""Addresses of this machine."""

from __future__ import annotations

import re
import socket


def is_local_ip(ip: str) -> bool:
    """Whether an IPv4 address is one of this machine's, found by binding to it; False for a host name."""
    if not re.fullmatch(r"\d+\.\d+\.\d+\.\d+", ip):
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((ip, 0))
        except OSError:
            return False
    return True
