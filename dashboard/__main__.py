"""`python -m dashboard`: starts the pages on settings.dashboard.host and port, in the foreground, until SIGTERM or
Ctrl-C.

A wrong setting or a port in use is one line on stderr and exit code 1, before Streamlit is imported. Usage statistics
are off and nothing is fetched from elsewhere.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import redirect_stdout
from pathlib import Path

from dashboard.theme import OPTIONS
from flywheel.errors import UserError
from flywheel.settings import DashboardSettings, load_settings


def free_port(settings: DashboardSettings) -> int:
    """The port to listen on; for port 0, one the kernel names. Raises UserError when it cannot be had."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise UserError(
                f"The dashboard cannot listen on {settings.host}:{settings.port} ({error.strerror}). "
                "Stop what uses the port, or choose another: dashboard.port in flywheel.toml, "
                "or FLYWHEEL_DASHBOARD__PORT."
            ) from error
        return int(probe.getsockname()[1])


def command(host: str, port: int) -> list[str]:
    """Streamlit's own command line for our pages."""
    options = OPTIONS | {"server.address": host, "server.port": str(port)}
    return ["run", str(Path(__file__).with_name("app.py")), *(f"--{name}={value}" for name, value in options.items())]


def main() -> None:
    try:
        settings = load_settings()
        port = free_port(settings.dashboard)
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from error
    host = settings.dashboard.host
    print(f"Dashboard on http://{host}:{port}, for the API on {settings.api_url}", flush=True)
    from streamlit.web import cli  # noqa: PLC0415 – a second of imports that a wrong setting should not wait for

    # On SIGTERM Streamlit prints a word before it stops. Into a pipe that nobody reads any more that fails, and it
    # would never stop: its words go nowhere, its log stays on stderr.
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        cli.main(command(host, port), prog_name="streamlit")


if __name__ == "__main__":
    main()
