"""Processes are started, waited for, restarted and stopped for real; no orphan survives."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flywheel.errors import UserError
from flywheel.processes import Part, Supervisor, port_is_free

SERVER = """
import http.server, sys
handler = http.server.SimpleHTTPRequestHandler
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), handler).serve_forever()
"""
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""
KILLED = """
import sys, time
from pathlib import Path
from flywheel.processes import Part, Supervisor
sleeper = Part("sleeper", [sys.executable, "-c", "import time; time.sleep(60)"], None)
supervisor = Supervisor([sleeper], logs=Path(sys.argv[1]))
supervisor.start()
print(supervisor.running["sleeper"].process.pid, flush=True)
time.sleep(60)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def web_part(port: int) -> Part:
    return Part("web", [sys.executable, "-c", SERVER, str(port)], f"http://127.0.0.1:{port}", start_seconds=20)


def gone(pid: int, *, within_seconds: float = 10) -> bool:
    give_up = time.monotonic() + within_seconds
    while time.monotonic() < give_up:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_part_is_waited_for_until_healthy_and_its_port_is_free_after_stopping(tmp_path: Path) -> None:
    port = free_port()
    with Supervisor([web_part(port)], logs=tmp_path) as supervisor:
        supervisor.start()
        heard: list[str] = []
        supervisor.wait_until_healthy(lambda name, _seconds: heard.append(name))
        assert heard == ["web"]
        assert not port_is_free(f"http://127.0.0.1:{port}")
    assert port_is_free(f"http://127.0.0.1:{port}")


def test_taken_port_is_one_clear_line_before_anything_is_started(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        supervisor = Supervisor([web_part(taken.getsockname()[1])], logs=tmp_path)
        with pytest.raises(UserError, match=r"web cannot listen on .*--set"):
            supervisor.start()
    assert supervisor.running == {}


def test_part_that_dies_while_starting_tells_the_end_of_its_log(tmp_path: Path) -> None:
    part = Part("web", [sys.executable, "-c", "raise SystemExit('no such model')"], "http://127.0.0.1:9")
    with Supervisor([part], logs=tmp_path) as supervisor:
        supervisor.start()
        with pytest.raises(UserError, match="no such model"):
            supervisor.wait_until_healthy()


def test_stopping_a_part_ends_its_children_too(tmp_path: Path) -> None:
    with Supervisor([Part("parent", [sys.executable, "-c", PARENT], None)], logs=tmp_path) as supervisor:
        supervisor.start()
        log = tmp_path / "parent.log"
        while not log.read_text().strip():
            time.sleep(0.05)
        child = int(log.read_text())
    assert gone(child)


def test_parts_end_when_their_supervisor_is_killed(tmp_path: Path) -> None:
    supervisor = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    sleeper = int(supervisor.stdout.readline())
    os.kill(supervisor.pid, signal.SIGKILL)
    supervisor.wait()
    supervisor.stdout.close()
    assert gone(sleeper)


def test_dead_part_is_started_again(tmp_path: Path) -> None:
    with Supervisor([Part("sleeper", ["sleep", "60"], None)], logs=tmp_path) as supervisor:
        supervisor.start()
        first = supervisor.running["sleeper"].process.pid
        os.kill(first, signal.SIGKILL)
        supervisor.running["sleeper"].process.wait()
        assert supervisor.restart_dead() == ["sleeper"]
        assert supervisor.running["sleeper"].alive
        assert supervisor.running["sleeper"].process.pid != first


def test_dead_part_is_started_with_the_command_of_that_moment(tmp_path: Path) -> None:
    commands = iter([["sleep", "60"], ["sleep", "61"]])
    with Supervisor([Part("sleeper", lambda: next(commands), None)], logs=tmp_path) as supervisor:
        supervisor.start()
        os.kill(supervisor.running["sleeper"].process.pid, signal.SIGKILL)
        supervisor.running["sleeper"].process.wait()
        supervisor.restart_dead()
        assert supervisor.running["sleeper"].process.args == ["sleep", "61"]
