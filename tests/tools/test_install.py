"""What set-up asks for: pip's configuration reaches uv, what is there stays, the CPU build of torch comes first."""

from pathlib import Path

import pytest

from tools import install
from tools.pip_settings import parse_pip_settings, uv_environment

LISTING = """\
:env:.find-links='/srv/wheels'
global.cert='/etc/ssl/machine.crt'
global.extra-index-url='file:///one/simple file:///two/simple'
global.find-links='/overruled'
install.index-url='file:///mirror/simple'
freeze.timeout='10'
"""
NOWHERE = install.Venv(Path("/nowhere"))


def test_pip_settings_of_a_machine_reach_uv() -> None:
    environment = uv_environment(parse_pip_settings(LISTING), {"PATH": "/bin"})
    assert environment["UV_FIND_LINKS"] == "/srv/wheels"
    assert environment["UV_DEFAULT_INDEX"] == "file:///mirror/simple"
    assert environment["UV_INDEX"] == "file:///one/simple file:///two/simple"
    assert environment["SSL_CERT_FILE"] == "/etc/ssl/machine.crt"
    assert environment["PATH"] == "/bin"
    assert "UV_HTTP_TIMEOUT" not in environment


@pytest.mark.parametrize("listing", ["", "WARNING: nothing\n"])
def test_machine_without_pip_settings_gives_uv_none(listing: str) -> None:
    assert (
        not {"UV_INDEX", "UV_DEFAULT_INDEX", "UV_FIND_LINKS"} & uv_environment(parse_pip_settings(listing), {}).keys()
    )


def test_uv_settings_made_by_a_person_win() -> None:
    assert uv_environment(parse_pip_settings(LISTING), {"UV_FIND_LINKS": "/mine"})["UV_FIND_LINKS"] == "/mine"


class Registry:
    """Stands where pip and uv stand; knows which requirements can be had and keeps what it was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, having: set[str], installed: dict[str, str]) -> None:
        self.asked: list[tuple[str, ...]] = []
        self.having, self.installed = having, installed
        monkeypatch.setattr(install, "pip_install", lambda venv, *words, **_: self.answer("pip", *words))
        monkeypatch.setattr(install, "uv_install", lambda venv, *words, **_: self.answer("uv", *words))
        monkeypatch.setattr(install, "installed_versions", lambda venv: self.installed)
        monkeypatch.setattr(install, "locked_version", lambda name: "2.0")

    def answer(self, who: str, *words: str) -> bool:
        self.asked.append((who, *words))
        found = f"{who} {words[-1]}" in self.having
        if found and "--dry-run" not in words:
            self.installed["torch"] = words[-1].partition("==")[2]
        return found


def test_cpu_build_of_torch_is_asked_for_before_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(monkeypatch, having={"pip torch==2.0+cpu", "uv torch==2.0"}, installed={})
    assert install.install_torch(NOWHERE, build="cpu") == "2.0+cpu"
    assert len(registry.asked) == 1


def test_pytorchs_own_index_is_asked_where_pip_knows_no_cpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(monkeypatch, having={"uv torch==2.0+cpu", "uv torch==2.0"}, installed={})
    assert install.install_torch(NOWHERE, build="cpu") == "2.0+cpu"
    assert registry.asked[-1] == ("uv", "--torch-backend", "cpu", "--no-deps", "torch==2.0+cpu")


def test_plain_torch_comes_with_its_dependencies_and_a_notice_where_nothing_else_is_within_reach(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    registry = Registry(monkeypatch, having={"uv torch==2.0"}, installed={})
    assert install.install_torch(NOWHERE, build="cpu") == "2.0"
    assert registry.asked[-1] == ("uv", "torch==2.0")
    assert "No CPU build of torch is within reach" in capsys.readouterr().out


def test_unreachable_registry_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    Registry(monkeypatch, having=set(), installed={})
    with pytest.raises(install.InstallError, match="is the package registry reachable"):
        install.install_torch(NOWHERE, build="cpu")


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "requirements.lock"
    file.write_text("# made\nold==1.0\nnew==1.0\ntorch==2.0\ntriton==3.9\nuv==0.1\n")
    monkeypatch.setattr(install, "LOCK", file)
    return file


@pytest.mark.usefixtures("lock")
def test_package_that_is_there_already_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(monkeypatch, having={"uv triton==3.9"}, installed={"old": "1.0", "new": "0.9"})
    assert install.install_lock(NOWHERE, torch="2.0+cpu") == 2
    assert registry.asked == [("uv", "--no-deps", "new==1.0", "triton==3.9")]


@pytest.mark.usefixtures("lock")
def test_cuda_build_of_torch_keeps_the_triton_it_came_with(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(monkeypatch, having={"pip new==1.0"}, installed={"old": "1.0", "triton": "3.7"})
    assert install.install_lock(NOWHERE, torch="2.0") == 1
    assert [words[0] for words in registry.asked] == ["uv", "pip"], "pip takes over where uv cannot"
