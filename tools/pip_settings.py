"""A machine's pip configuration, said in uv's words.

uv reads neither pip.conf nor PIP_* variables, so a machine that reaches its packages through a mirror, a folder of
wheels or its own certificate would lose them the moment uv takes over. `uv_environment` turns what `pip config list`
prints into the environment variables uv does read. A UV_* variable that is already set always wins.

Not covered: keyring and netrc (uv reads netrc by itself), constraints, per-host certificates.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Mapping

# pip's later sources override its earlier ones in this order; the command's own section stands above [global].
SECTIONS = ("global", "install", ":env:")


def read_pip_settings(python: str = sys.executable) -> dict[str, str]:
    """The settings `pip install` would use on this machine, by name: {"find-links": "/srv/wheels", …}."""
    listing = subprocess.run([python, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    return parse_pip_settings(listing.stdout)


def parse_pip_settings(listing: str) -> dict[str, str]:
    """Parse the lines of `pip config list`, such as ``global.index-url='…'`` or ``:env:.cert='…'``."""
    found: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for line in listing.splitlines():
        key, equals, value = line.partition("=")
        section, _, name = key.strip().rpartition(".")
        if equals and section in found:
            found[section][name.replace("_", "-")] = str(ast.literal_eval(value))
    return found["global"] | found["install"] | found[":env:"]


def uv_environment(settings: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment for uv: the given one, plus what pip's settings say and no UV_* variable says already."""
    said = {
        "UV_DEFAULT_INDEX": settings.get("index-url", ""),
        "UV_INDEX": " ".join(settings.get("extra-index-url", "").split()),
        "UV_FIND_LINKS": ",".join(settings.get("find-links", "").split()),
        "UV_INSECURE_HOST": " ".join(settings.get("trusted-host", "").split()),
        "UV_NO_INDEX": settings.get("no-index", ""),
        "UV_HTTP_TIMEOUT": settings.get("timeout", settings.get("default-timeout", "")),
        "SSL_CERT_FILE": settings.get("cert", ""),
        "SSL_CLIENT_CERT": settings.get("client-cert", ""),
        "HTTPS_PROXY": settings.get("proxy", ""),
        # pip takes the best version from all its indexes, and so must uv to find the same packages.
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_LINK_MODE": "copy",  # the cache is often on another disk: no warning, and nothing shared with other venvs
    }
    return {name: value for name, value in said.items() if value} | dict(environment)
