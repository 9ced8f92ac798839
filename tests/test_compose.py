"""What compose.yaml promises: a private engine, health checks, secrets that must be given, settings that fit."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from flywheel.parts import CPU_ENGINE_ENVIRONMENT, ENGINE_ENVIRONMENT, engine_command
from flywheel.settings import STARTER, load_settings, setting_names

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "compose.yaml").read_text()
VARIABLE = re.compile(r"(?<!\$)\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}")
GIVEN = {"POSTGRES_PASSWORD": "given"}


def resolved() -> dict[str, Any]:
    """compose.yaml as Compose would read it with nothing but the required variables given."""
    loaded: dict[str, Any] = yaml.safe_load(VARIABLE.sub(lambda m: GIVEN.get(m["name"]) or m["rest"], TEXT))
    return loaded


SERVICES: dict[str, dict[str, Any]] = resolved()["services"]
ENGINES = ["engine-cpu", "engine-gpu"]
OURS = ["api", "dashboard", "worker-cpu", "worker-gpu"]


def networks(service: str) -> set[str]:
    return set(SERVICES[service]["networks"])


@pytest.mark.parametrize("engine", ENGINES)
def test_engine_publishes_no_port_and_stands_in_its_private_network_alone(engine: str) -> None:
    assert "ports" not in SERVICES[engine]
    assert "network_mode" not in SERVICES[engine]
    assert networks(engine) == {"engine"}
    assert resolved()["networks"]["engine"]["internal"] is True


def test_only_the_api_shares_the_engines_network() -> None:
    assert {name for name in SERVICES if "engine" in networks(name)} == {"api", *ENGINES}


def test_ports_are_published_on_loopback_unless_asked_otherwise() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert ports == {
        "api": ["127.0.0.1:8080:8080"],
        "dashboard": ["127.0.0.1:8501:8501"],
        "grafana": ["127.0.0.1:3000:3000"],
    }


@pytest.mark.parametrize("service", sorted(SERVICES))
def test_every_service_has_a_health_check(service: str) -> None:
    check = SERVICES[service]["healthcheck"]
    assert check["test"][0] == "CMD"
    assert {"interval", "timeout", "retries", "start_period"} <= check.keys()
    if "-c" in check["test"]:
        compile(check["test"][-1], service, "exec")


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_every_profile_is_a_whole_appliance(profile: str) -> None:
    names = {name for name, service in SERVICES.items() if profile in service["profiles"]}
    assert names == {"api", "dashboard", "chroma", "postgres", f"engine-{profile}", f"worker-{profile}"}
    for name in names:
        for needed, how in SERVICES[name].get("depends_on", {}).items():
            assert needed in names or how.get("required") is False, f"{name} waits for {needed}, which is not there"


def test_secrets_must_be_given_and_say_what_they_are() -> None:
    secrets = [found for found in VARIABLE.finditer(TEXT) if re.search("PASSWORD|SECRET|TOKEN|KEY$", found["name"])]
    assert secrets
    assert all(found["kind"] == "?" and len(found["rest"]) > 10 for found in secrets)


def test_every_other_variable_has_a_default() -> None:
    others = [found for found in VARIABLE.finditer(TEXT) if found["name"] not in GIVEN]
    assert all(found["kind"] == "-" and found["rest"] for found in others)


def test_variables_that_look_like_settings_are_settings() -> None:
    known = {"FLYWHEEL_" + name.upper().replace(".", "__") for name in setting_names()}
    used = {found["name"] for found in VARIABLE.finditer(TEXT) if found["name"].startswith("FLYWHEEL_")}
    assert used <= known, "flywheel refuses unknown FLYWHEEL_ variables on the machine where they are exported"


@pytest.mark.parametrize("service", OURS)
def test_settings_of_a_service_are_accepted(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVICES[service]["environment"].items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    if service == "dashboard":
        assert settings.api_url == "http://api:8080"
        return
    assert settings.resolved_database_url == "postgresql://flywheel:given@postgres/flywheel"
    assert settings.engine.urls == ["http://engine:8100"]
    assert not settings.engine.start
    assert settings.rag.chroma_url == "http://chroma:8000"


@pytest.mark.parametrize("service", [*ENGINES, "api", "worker-cpu", "worker-gpu"])
def test_adapters_stand_under_one_path_and_an_engine_only_reads_them(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLYWHEEL_HOME", SERVICES["api"]["environment"]["FLYWHEEL_HOME"])
    mount = f"adapters:{load_settings().adapters_folder}"
    assert (mount + ":ro" if service in ENGINES else mount) in SERVICES[service]["volumes"]


@pytest.mark.parametrize("engine", ENGINES)
def test_engine_starts_as_flywheel_up_starts_it(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SERVICES["api"]["environment"].items():
        monkeypatch.setenv(name, value)
    cpu = engine == "engine-cpu"
    expected = engine_command(load_settings(), cpu=cpu)[1:]
    expected[expected.index("--model") + 1] = "starter"  # the folder of that name in working_dir
    expected[expected.index("--host") + 1] = "0.0.0.0"
    command = SERVICES[engine]["command"] if cpu else []
    assert SERVICES[engine]["entrypoint"][1:] + command == expected
    needed = ENGINE_ENVIRONMENT | (CPU_ENGINE_ENVIRONMENT if cpu else {})
    assert SERVICES[engine]["environment"].items() >= needed.items()


@pytest.mark.parametrize("engine", ENGINES)
def test_starter_is_mounted_where_its_name_is_looked_up(engine: str) -> None:
    inside = f"{SERVICES[engine]['working_dir']}/starter"
    assert f"./{STARTER.relative_to(ROOT)}:{inside}:ro" in SERVICES[engine]["volumes"]


def test_images_carry_the_version_of_the_project_and_of_the_pinned_gpu_engine() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert SERVICES["api"]["image"] == f"flywheel:{project['version']}"
    (pin,) = project["optional-dependencies"]["gpu"]
    assert SERVICES["engine-gpu"]["image"] == "vllm/vllm-openai:v" + pin.partition("==")[2]


def test_image_copies_only_what_the_build_context_lets_through() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (.+) \S+$", SERVICES["api"]["build"]["dockerfile_inline"], re.MULTILINE)
    assert {name for line in copied for name in line.split()} - {"."} <= let_through
