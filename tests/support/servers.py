"""Servers of tests, which must live until the process ends: TensorFlow does not support deleting one."""

from __future__ import annotations

from mlma.transport.server import Server

SERVERS: list[Server] = []
