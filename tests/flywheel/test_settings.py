from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from flywheel.errors import UserError
from flywheel.settings import load_settings, setting_names


@pytest.fixture(autouse=True)
def fresh_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))
    return tmp_path


def write_file(home: Path, text: str) -> None:
    (home / "flywheel.toml").write_text(text)


def test_flags_come_before_the_environment_and_the_environment_before_the_file(
    fresh_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(fresh_home, 'tenant = "from file"\n[serving]\nport = 1\nalias = "filed"\n')
    monkeypatch.setenv("FLYWHEEL_SERVING__PORT", "2")
    assert load_settings().serving.port == 2
    found = load_settings(serving={"port": 3})
    assert (found.serving.port, found.serving.alias, found.tenant) == (3, "filed", "from file")


def test_the_home_given_as_a_flag_decides_which_file_is_read(fresh_home: Path) -> None:
    write_file(fresh_home, 'tenant = "one"')
    other = fresh_home / "other"
    other.mkdir()
    write_file(other, 'tenant = "two"')
    assert load_settings(home=other).tenant == "two"


def test_the_database_lies_in_the_home_unless_a_url_is_set(fresh_home: Path) -> None:
    assert load_settings().resolved_database_url == f"sqlite:///{fresh_home.resolve()}/flywheel.db"
    assert load_settings(database_url="postgresql://h/n").resolved_database_url == "postgresql://h/n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[serving]\nprot = 1", "Did you mean serving.port?"),
        ("[serving]\nport = 70000", "serving.port"),
        ("[serving]\nport = 'x'", "FLYWHEEL_SERVING__PORT"),
        ("[retrain]\ntraffic_share = 1.0", "retrain.traffic_share"),
        ("[[[", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_place(fresh_home: Path, text: str, words: str) -> None:
    write_file(fresh_home, text)
    with pytest.raises(UserError) as raised:
        load_settings()
    assert words in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


def test_an_unknown_variable_is_refused_and_the_nearest_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLYWHEEL_SERVING__PROT", "1")
    with pytest.raises(UserError, match="Did you mean FLYWHEEL_SERVING__PORT"):
        load_settings()


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        load_settings().serving.port = 1


def test_every_setting_has_a_name() -> None:
    names = setting_names()
    assert {"home", "base_model", "serving.port", "engine.max_loras", "retrain.minimum_users"} <= set(names)
    assert len(names) == len(set(names))
