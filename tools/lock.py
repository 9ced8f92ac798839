"""Resolves pyproject.toml into requirements.lock: every package pinned, no address, no build's own suffix. `make lock`.

Versions already in the lock are kept unless `--upgrade` (all) or `--upgrade-package NAME` is given: all arguments go to
`uv pip compile`. The resolution must see the CPU build of torch, because the CUDA build's dependencies would be locked
with it; where neither the configured indexes nor PyTorch's own have it, nothing is written. The lock then names torch's
plain version, which every build of that version satisfies.

Invariant: no torchvision, torchaudio, torchcodec (pyproject.toml overrides them away), no nvidia packages.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.install import INDEX_PATIENCE_SECONDS, LOCK, ROOT, UNWANTED, locked_version
from tools.pip_settings import read_pip_settings, uv_environment

EXTRAS = ("serving", "rag", "retrain", "dashboard", "demo", "cpu", "dev")  # all but gpu
HEADER = (
    "# Made by `make lock` from pyproject.toml; installed by `make setup` with --no-deps. Python 3.11, Linux x86-64.\n"
)


def resolve(target: Path, arguments: list[str]) -> bool:
    environment = uv_environment(read_pip_settings())
    override = target.with_suffix(".override")
    override.write_text(f"torch=={locked_version('torch')}+cpu\n")
    extras = [word for extra in EXTRAS for word in ("--extra", extra)]
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", *extras, "--override", str(override)]
    command += ["--python", sys.executable, "--python-version", "3.11", *arguments]  # also 3.11.0: Debian 12 has 3.11.2
    command += ["--no-annotate", "--no-header", "--quiet", "-o", str(target)]
    patient = environment | {"UV_HTTP_TIMEOUT": INDEX_PATIENCE_SECONDS, "UV_HTTP_RETRIES": "0"}
    return (
        subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode == 0
        or subprocess.run([*command, "--torch-backend", "cpu"], cwd=ROOT, env=patient, check=False).returncode == 0
    )


def tidy(resolved: str) -> str:
    """Drop what belongs to one build or one machine, and refuse what must never be locked."""
    lines = [re.sub(r"\+cpu$", "", line) for line in resolved.splitlines() if line and line[0] not in "#-"]
    refused = [line for line in lines if re.match(rf"({'|'.join(sorted(UNWANTED))}|nvidia-|cuda-)", line)]
    if refused:
        sys.exit(f"The resolution holds {', '.join(refused)}, so nothing was written: see [tool.uv] in pyproject.toml.")
    return HEADER + "\n".join(lines) + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "resolved.lock"
        target.write_text(LOCK.read_text())  # what is there is preferred
        if not resolve(target, sys.argv[1:]):
            sys.exit(
                "Nothing was written: no resolution (the lines above say why), or no CPU build of torch within reach."
            )
        text = tidy(target.read_text())
    before = LOCK.read_text()
    LOCK.write_text(text)
    changed = set(text.splitlines()) ^ set(before.splitlines())
    print(f"{text.count('==')} packages pinned, {len(changed)} lines differ from before.")


if __name__ == "__main__":
    main()
