"""What the acceptance tests share."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def free_ports() -> Callable[[int], list[int]]:
    """Ports on the loopback address that nothing listens on now."""

    def find(count: int) -> list[int]:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
        ports = [int(one.getsockname()[1]) for one in sockets]
        for one in sockets:
            one.close()
        return ports

    return find
