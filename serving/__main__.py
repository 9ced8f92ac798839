"""`python -m serving`: the HTTP API in the foreground. What is wrong with settings, base model or port is said first.

Ends with 0 after SIGTERM or Ctrl-C, once the answers that were under way are complete; with 1 after one line on what
to mend.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys

from sqlalchemy import Engine

from flywheel.base_model import resolve_base_model
from flywheel.errors import FlywheelError, UserError
from flywheel.settings import Settings, load_settings
from serving.logs import Gathered
from serving.records import open_records


def main() -> int:
    try:
        settings = load_settings()
        resolve_base_model(settings.base_model_path)
        listener = listen(settings)
        set_up_log()
        database = open_records(settings)
    except FlywheelError as error:
        print(f"serving: {error}", file=sys.stderr)
        return 1
    return serve(settings, database, listener)


def listen(settings: Settings) -> socket.socket:
    """The open port (0: any free one). Raises UserError when somebody else has it, or it is not ours to take."""
    host, port = settings.serving.host, settings.serving.port
    if not settings.serving.require_keys and host not in ("127.0.0.1", "::1", "localhost"):
        raise UserError(
            f"serving.host is {host} and serving.require_keys is false: anybody could do everything. Change one."
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise UserError(
            f"Port {port} on {host} cannot be used: {os.strerror(error.errno or 0).lower()}. "
            "Stop the process that has it, or set FLYWHEEL_SERVING__PORT to another one."
        ) from error
    return listener


def serve(settings: Settings, database: Engine, listener: socket.socket) -> int:
    """Run until a signal comes. The heavy libraries are imported here, after everything cheap was checked."""
    import uvicorn  # noqa: PLC0415

    from serving.app import build_app  # noqa: PLC0415
    from serving.http import server_config  # noqa: PLC0415

    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises them again once it is done: that is no error
        signal.signal(number, lambda *_: None)
    server = uvicorn.Server(server_config(build_app(settings, database)))
    host, port = listener.getsockname()[:2]
    print(f"serving: listening on http://{host}:{port}", flush=True)
    server.run(sockets=[listener])
    return 0 if server.started else 1


def set_up_log() -> None:
    """Our own lines, and what the libraries find alarming."""
    stderr = open(sys.stderr.fileno(), "w", encoding="utf-8", closefd=False)  # noqa: SIM115  open to the end
    logging.basicConfig(level=logging.INFO, handlers=[Gathered(stderr)])
    for noisy in ("httpx", "chromadb", "sentence_transformers", "alembic", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)  # everything is closed; only a library that still loads in its thread is not waited for
