"""What is on disk before what leaves: the order of system calls, as strace sees it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from benchmarks.processes import free_port, mock_engine, plain_environment

CALLS = "fdatasync,fsync,pwrite64,write,writev,sendto,sendmsg"
SENDS = re.compile(r"\b(write|writev|sendto|sendmsg)\(")
SYNCED = re.compile(r"\bf(data)?sync\(\d+\) += 0|<\.\.\. f(data)?sync resumed>\) += 0")
CHATS = 10


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Serving under strace in front of the mock engine: where it answers, and the trace."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed (Debian: apt-get install strace)")
    trace, url = tmp_path / "trace", f"http://127.0.0.1:{(port := free_port())}"
    command = ["strace", "-f", "--seccomp-bpf", "-s", "100000", "-e", f"trace={CALLS}", "-o", str(trace)]
    with mock_engine() as engine:
        environment = os.environ | plain_environment(tmp_path, port=port, engine=engine)
        with subprocess.Popen(
            [*command, sys.executable, "-m", "serving"], env=environment, stdout=subprocess.DEVNULL, process_group=0
        ) as process:
            try:
                wait_for_a_chat(url)
                yield url, trace
            finally:
                os.killpg(process.pid, signal.SIGKILL)


def wait_for_a_chat(url: str) -> None:
    give_up = time.monotonic() + 120
    body = {"model": "flywheel-plain", "messages": [{"role": "user", "content": "hello"}]}
    while time.monotonic() < give_up:
        try:
            if httpx.post(f"{url}/v1/chat/completions", json=body).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise TimeoutError("serving did not answer under strace")


@pytest.mark.timeout(300)
def test_the_row_is_synced_before_the_first_byte_and_its_end_before_done(traced: tuple[str, Path]) -> None:
    url, trace = traced
    done: list[str] = []
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        for number in range(CHATS):
            wish: Any = [{"role": "user", "content": f"chunks=4 delay=0.00{number}"}]
            chunks = client.chat.completions.create(model="flywheel-plain", messages=wish, stream=True)
            done.append({chunk.id for chunk in chunks}.pop())
        asked: Any = [{"role": "user", "content": "hello"}]
        whole = [client.chat.completions.create(model="flywheel-plain", messages=asked).id for _ in range(CHATS)]
    time.sleep(0.5)  # strace writes behind
    lines = trace.read_text(errors="replace").splitlines()
    synced = [place for place, line in enumerate(lines) if SYNCED.search(line)]
    for completion_id in whole:
        kept = next(place for place, line in enumerate(lines) if "pwrite64(" in line and completion_id in line)
        told = [place for place, line in enumerate(lines) if SENDS.search(line) and completion_id in line]
        left = next(place for place in told if "200 OK" in lines[place])
        assert any(kept < place < left for place in synced), "an answer left before its row was on disk"
    for completion_id in done:
        written = [place for place, line in enumerate(lines) if "pwrite64(" in line and completion_id in line]
        sent = [place for place, line in enumerate(lines) if SENDS.search(line) and completion_id in line]
        begun = max(place for place, line in enumerate(lines[: sent[0] + 1]) if "HTTP/1.1 200" in line)
        over = next(place for place in range(sent[0], len(lines)) if "[DONE]" in lines[place])
        closing = max(place for place in written if place < over)
        assert any(written[0] < place < begun for place in synced), "a byte left before its row was on disk"
        assert closing > begun
        assert any(closing < place < over for place in synced), "[DONE] left before the closed row was on disk"
