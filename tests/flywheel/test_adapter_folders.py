"""What a published folder may not be: linked, incomplete, renamed, or told by a manifest that cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flywheel.adapter_files import MANIFEST
from flywheel.errors import UserError
from tests.made_adapters import opened

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, MANIFEST])
def test_symbolic_links_are_refused(published: Path, check: Callable[..., Any], tmp_path: Path, name: str) -> None:
    file = opened(published, name)
    file.rename(tmp_path / name)
    file.symlink_to(tmp_path / name)
    with pytest.raises(UserError, match=f"holds {name}"):
        check(published)


def test_a_linked_folder_is_refused(published: Path, check: Callable[..., Any], tmp_path: Path) -> None:
    link = tmp_path / published.name
    link.symlink_to(published)
    with pytest.raises(UserError, match="no folder"):
        check(link)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, MANIFEST])
def test_a_missing_file_is_named(published: Path, check: Callable[..., Any], name: str) -> None:
    opened(published, name).unlink()
    with pytest.raises(UserError, match=f"lacks {name}"):
        check(published)


def test_a_swapped_configuration_is_refused(published: Path, check: Callable[..., Any]) -> None:
    file = opened(published, CONFIG)
    file.write_text(file.read_text().replace('"lora_alpha": 8', '"lora_alpha": 80'))
    with pytest.raises(UserError, match=r"adapter_config\.json of adapter"):
        check(published)


def test_a_folder_under_another_adapters_name_is_refused(published: Path, check: Callable[..., Any]) -> None:
    published.chmod(0o755)
    renamed = published.rename(published.with_name("lora-000000000000"))
    with pytest.raises(UserError, match="does not hold what its name stands for"):
        check(renamed)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b'{"files": [], "kind": 1}'])
def test_a_manifest_that_cannot_be_read_is_refused(published: Path, check: Callable[..., Any], content: bytes) -> None:
    opened(published, MANIFEST).write_bytes(content)
    with pytest.raises(UserError, match=MANIFEST.replace(".", r"\.") + "|manifest"):
        check(published)
