"""What holds for the repository as a whole: import directions, sizes, names, the lock, and what the wheel carries."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ["flywheel", "serving", "rag", "retrain", "dashboard"]
SOURCES = sorted(
    file.relative_to(ROOT)
    for folder in [*PACKAGES, "tools", "tests", "benchmarks"]
    for file in (ROOT / folder).rglob("*.py")
)
LONGEST = 300
LONGER_BY_NATURE = {Path("flywheel/migrations/versions/0001_first_schema.py")}  # one statement per table
FORBIDDEN_NAMES = re.compile(r"^(utils?|helpers?|common|misc|core|.*_?(manager|service|helper|utils))$")
LOCK = (ROOT / "requirements.lock").read_text()


def test_imports_run_in_the_allowed_directions() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_file_is_longer_than_a_reader_holds() -> None:
    assert {file for file in SOURCES if len((ROOT / file).read_text().splitlines()) > LONGEST} <= LONGER_BY_NATURE


def test_no_file_has_a_name_that_says_nothing() -> None:
    parts = {part for file in SOURCES for part in (*file.parts[:-1], file.stem)}
    assert not {part for part in parts if FORBIDDEN_NAMES.match(part)}


def test_tests_are_no_packages() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_lock_pins_every_line_and_names_no_address() -> None:
    lines = [line for line in LOCK.splitlines() if not line.startswith("#")]
    assert len(lines) > 100
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []
    assert "://" not in LOCK


def test_lock_leaves_out_what_breaks_beside_a_cpu_build_of_torch() -> None:
    assert not re.search(r"^(torchvision|torchaudio|torchcodec|nvidia-|cuda-)", LOCK, re.MULTILINE)


def test_lock_holds_everything_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = list(project["dependencies"])
    for extra, requirements in project["optional-dependencies"].items():
        asked += requirements if extra != "gpu" else []
    names = {re.split(r"[\[<>=]", requirement)[0] for requirement in asked} - {"flywheel"}
    assert names <= set(re.findall(r"^([a-z0-9-]+)==", LOCK, re.MULTILINE))


def test_wheel_carries_what_is_read_at_run_time(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        carried = set(archive.namelist())
    needed = {
        str(file.relative_to(ROOT))
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert needed <= carried
    assert {name.partition("/")[0] for name in carried if ".dist-info/" not in name} == {*PACKAGES, "flywheel_vllm"}
