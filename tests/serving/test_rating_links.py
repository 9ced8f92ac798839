"""The secret that rating links are signed with."""

from __future__ import annotations

from pathlib import Path

import pytest

from flywheel.errors import UserError
from serving.rating_links import link_secret


def test_secret_is_made_once_for_its_owner_alone_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    secret, file = link_secret(tmp_path), tmp_path / "link-secret"
    assert link_secret(tmp_path) == secret
    assert file.stat().st_mode & 0o777 == 0o600
    file.write_bytes(secret[:-1])
    with pytest.raises(UserError, match="is damaged"):
        link_secret(tmp_path)
