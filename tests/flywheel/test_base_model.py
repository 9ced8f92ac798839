from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from flywheel import base_model
from flywheel.base_model import base_model_hash, module_shapes, read_header, resolve_base_model
from flywheel.errors import UserError
from flywheel.identity_adapter import write_identity_adapter


def test_the_shapes_are_outputs_and_inputs_of_every_linear_layer(tiny_base: Path) -> None:
    shapes = module_shapes(str(tiny_base))
    assert shapes["model.layers.1.self_attn.v_proj"] == (8, 16)
    assert "model.norm" not in shapes


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors", "chat_template.jinja"])
def test_a_change_of_configuration_tokenizer_template_or_weights_is_another_hash(tiny_base: Path, name: str) -> None:
    before = base_model_hash(str(tiny_base))
    file = tiny_base / name
    content = file.read_bytes() if file.exists() else b""
    file.write_bytes(content[:-4] + b"\0\1\2\3")
    assert base_model_hash(str(tiny_base)) != before


def test_a_readme_does_not_change_the_hash(tiny_base: Path) -> None:
    before = base_model_hash(str(tiny_base))
    (tiny_base / "README.md").write_text("about")
    assert base_model_hash(str(tiny_base)) == before


def test_large_weights_are_hashed_by_their_headers(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base_model, "SMALL_BYTES", 100)
    before = base_model_hash(str(tiny_base))
    file = tiny_base / "model.safetensors"
    save_file({"model.layers.0.self_attn.q_proj.weight": np.ones((16, 16), np.float32)}, file)
    assert base_model_hash(str(tiny_base)) != before


def test_a_name_is_found_in_the_local_cache(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = tmp_path / "hub" / "models--acme--tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc\n")
    (cached / "snapshots").mkdir()
    tiny_base.rename(cached / "snapshots" / "abc")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert resolve_base_model("acme/tiny") == (cached / "snapshots" / "abc").resolve()


def test_a_base_model_that_is_nowhere_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a directory nor a name") as raised:
        resolve_base_model("acme/nowhere")
    assert len(str(raised.value).splitlines()) == 1
    with pytest.raises(UserError, match=r"no config\.json"):
        resolve_base_model(str(tmp_path))


def test_a_base_model_without_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=r"no \*.safetensors"):
        base_model_hash(str(tmp_path))


def header_file(folder: Path, header: object, body: bytes = b"\0" * 8, *, length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    file = folder / "x.safetensors"
    file.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + body)
    return file


@pytest.mark.parametrize(
    "header",
    [
        b"{",
        [1],
        {"a": 1},
        {"a": {"dtype": "F32", "shape": [2]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 8]}},
        {"a": {"data_offsets": [0, 8]}, "b": {"data_offsets": [4, 8]}},
        {"a": {"data_offsets": [0, 4]}, "b": {"data_offsets": [4, "8"]}},
        {"a": {"data_offsets": [8, 0]}},
    ],
)
def test_a_header_that_does_not_describe_its_file_is_refused(tmp_path: Path, header: object) -> None:
    with pytest.raises(UserError, match=r"cut|damaged"):
        read_header(header_file(tmp_path, header))


def test_a_header_longer_than_its_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not fit"):
        read_header(header_file(tmp_path, {}, length=2**60))


def test_a_base_model_without_the_usual_attention_layers_cannot_get_an_identity_adapter(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    save_file({"h.0.attn.c_attn.weight": np.ones((4, 4), np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="q_proj and v_proj"):
        write_identity_adapter(tmp_path, tmp_path / "identity")
