from __future__ import annotations

import json
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from flywheel.adapter_files import MANIFEST, content_hash, file_hash, publish_adapter
from flywheel.base_model import base_model_hash
from flywheel.errors import UserError
from flywheel.identity_adapter import write_identity_adapter
from tests.made_adapters import opened

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def republished(folder: Path) -> Path:
    """The folder after a change, under a manifest and a name that fit it: what somebody who can hash would leave."""
    manifest = json.loads((folder / MANIFEST).read_text())
    files = {file.name: file_hash(file) for file in folder.iterdir() if file.name != MANIFEST}
    digest = content_hash("lora", files, manifest["base_model_hash"])
    (folder / MANIFEST).chmod(0o644)
    (folder / MANIFEST).write_text(json.dumps(manifest | {"files": files, "content_hash": digest}))
    target = folder.with_name(f"lora-{digest[:12]}")
    folder.chmod(0o755)
    return folder.rename(target) if target != folder else folder


def change_weights(folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> Path:
    file = opened(folder, WEIGHTS)
    tensors = {name: tensor.copy() for name, tensor in load_file(file).items()}
    change(tensors)
    save_file(tensors, file)
    return republished(folder)


def test_a_whole_adapter_passes_and_its_manifest_names_it(published: Path, check: Callable[..., Any]) -> None:
    manifest = check(published)
    assert manifest["name"] == published.name == f"lora-{manifest['content_hash'][:12]}"
    assert set(manifest["files"]) == {WEIGHTS, CONFIG}


def test_published_files_are_read_only_and_publishing_again_changes_nothing(
    published: Path, write_adapter: Callable[..., Path]
) -> None:
    manifest = json.loads((published / MANIFEST).read_text())
    before = {file.name: file.stat().st_mtime_ns for file in published.iterdir()}
    again = publish_adapter(
        write_adapter(),
        adapters_folder=published.parent,
        kind="lora",
        manifest={"base_model_hash": manifest["base_model_hash"]},
    )
    assert again == published.name
    assert {file.name: file.stat().st_mtime_ns for file in published.iterdir()} == before
    assert [entry.name for entry in published.parent.iterdir()] == [published.name]
    assert published.stat().st_mode & 0o222 == 0
    assert all(file.stat().st_mode & 0o222 == 0 for file in published.iterdir())


def test_only_configuration_weights_and_card_are_published(write_adapter: Callable[..., Path], tmp_path: Path) -> None:
    source = write_adapter()
    (source / "README.md").write_text("A card.")
    (source / "training_args.bin").write_bytes(pickle.dumps({}))
    (source / "ref").mkdir()
    name = publish_adapter(source, adapters_folder=tmp_path / "a", kind="lora", manifest={"base_model_hash": "b"})
    assert {file.name for file in (tmp_path / "a" / name).iterdir()} == {WEIGHTS, CONFIG, "README.md", MANIFEST}


def test_other_bytes_another_base_or_another_kind_is_another_name(
    write_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    def name(base: str, **values: Any) -> str:
        source = write_adapter(**values)
        return publish_adapter(source, adapters_folder=tmp_path / "a", kind="lora", manifest={"base_model_hash": base})

    assert len({name("one"), name("two"), name("one", lora_alpha=16), name("one", rank=2), name("one")}) == 4


def test_an_adapter_without_a_base_model_hash_is_not_published(
    write_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="base_model_hash is missing"):
        publish_adapter(write_adapter(), adapters_folder=tmp_path / "a", kind="lora", manifest={})


def test_the_identity_adapter_passes_and_has_the_same_name_wherever_it_is_made(
    tiny_base: Path, tmp_path: Path, check: Callable[..., Any]
) -> None:
    copy = shutil.copytree(tiny_base, tmp_path / "elsewhere")
    names = []
    for base, folder in ((tiny_base, tmp_path / "i1"), (copy, tmp_path / "i2")):
        write_identity_adapter(base, folder)
        manifest = {"base_model_hash": base_model_hash(str(base))}
        names.append(publish_adapter(folder, adapters_folder=tmp_path / "a", kind="identity", manifest=manifest))
    assert names[0] == names[1]
    assert check(tmp_path / "a" / names[0])["kind"] == "identity"


def test_an_identity_adapter_that_changes_answers_is_refused(
    write_adapter: Callable[..., Path], tiny_base: Path, tmp_path: Path, check: Callable[..., Any]
) -> None:
    manifest = {"base_model_hash": base_model_hash(str(tiny_base))}
    name = publish_adapter(write_adapter(), adapters_folder=tmp_path / "a", kind="identity", manifest=manifest)
    with pytest.raises(UserError, match="although it is the identity adapter"):
        check(tmp_path / "a" / name)


@pytest.mark.parametrize("tenth", range(10))
def test_a_cut_file_is_refused_wherever_it_is_cut(published: Path, check: Callable[..., Any], tenth: int) -> None:
    file = opened(published, WEIGHTS)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * tenth // 10])
    with pytest.raises(UserError, match="not the file that was published"):
        check(published)
    with pytest.raises(UserError, match=r"cut|damaged"):
        check(republished(published))


def test_a_hundred_flipped_bits_are_all_seen(published: Path, check: Callable[..., Any]) -> None:
    file = opened(published, WEIGHTS)
    whole, chance = file.read_bytes(), random.Random(1)
    for _ in range(100):
        place = chance.randrange(len(whole))
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << chance.randrange(8)]) + whole[place + 1 :])
        with pytest.raises(UserError, match="not the file that was published"):
            check(published)
    file.write_bytes(whole)
    check(published)


def set_value(value: float) -> Callable[[dict[str, np.ndarray]], None]:
    def change(tensors: dict[str, np.ndarray]) -> None:
        next(iter(tensors.values()))[1, 1] = value

    return change


def zero_all_b(tensors: dict[str, np.ndarray]) -> None:
    for name in tensors:
        if "lora_B" in name:
            tensors[name][:] = 0


def reshape_one(tensors: dict[str, np.ndarray]) -> None:
    name = next(iter(tensors))
    tensors[name] = tensors[name].reshape(-1, 2)


def add_one(tensors: dict[str, np.ndarray]) -> None:
    tensors["base_model.model.lm_head.lora_A.weight"] = np.ones((4, 16), np.float32)


def make_doubles(tensors: dict[str, np.ndarray]) -> None:
    tensors.update({name: tensor.astype(np.float64) for name, tensor in tensors.items()})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_value(float("nan")), "NaN or infinity"),
        (set_value(float("inf")), "NaN or infinity"),
        (set_value(float("-inf")), "NaN or infinity"),
        (lambda tensors: tensors.pop(next(iter(tensors))), "lacks the tensor"),
        (add_one, "without a target"),
        (zero_all_b, "changes nothing"),
        (reshape_one, "has shape"),
        (make_doubles, "stored as F64"),
    ],
)
def test_weights_that_an_engine_would_load_without_a_word_are_refused_even_with_fitting_hashes(
    published: Path, check: Callable[..., Any], change: Callable[[dict[str, np.ndarray]], None], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        check(change_weights(published, change))


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC0])
def test_bfloat16_weights_are_read_and_their_infinities_and_nans_seen(
    published: Path, check: Callable[..., Any], bits: int
) -> None:
    file = opened(published, WEIGHTS)
    tensors = load_file(file)
    halves = {name: (tensor.view(np.uint32) >> 16).astype(np.uint16) for name, tensor in tensors.items()}

    def write(halves: dict[str, np.ndarray]) -> Path:
        save_file(halves, file)
        raw = file.read_bytes().replace(b'"U16"', b'"BF16"')
        length = int.from_bytes(raw[:8], "little")
        header = raw[8 : 8 + length + len(halves)]  # each dtype grew by one letter
        file.write_bytes((length + len(halves)).to_bytes(8, "little") + header + raw[8 + length + len(halves) :])
        return republished(file.parent)

    folder = write(halves)
    check(folder)
    file = opened(folder, WEIGHTS)
    next(iter(halves.values()))[0, 0] = bits
    with pytest.raises(UserError, match="NaN or infinity"):
        check(write(halves))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"lora_bias": True}, "lora_bias"),
        ({"bias": "all"}, "bias all"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"r": 16}, "rank 16"),
        ({"r": 0}, "rank 0"),
        ({"r": 2}, "has shape"),
        ({"lora_alpha": 0}, "lora_alpha"),
        ({"target_modules": ["k_proj"]}, "which the base model lacks"),
        ({"target_modules": ["q_proj"]}, "without a target"),
    ],
)
def test_configurations_that_cannot_be_served_or_do_not_fit_the_weights_are_refused(
    write_adapter: Callable[..., Path],
    tiny_base: Path,
    tmp_path: Path,
    check: Callable[..., Any],
    config: dict[str, Any],
    words: str,
) -> None:
    source = write_adapter()
    whole = json.loads((source / CONFIG).read_text()) | config
    (source / CONFIG).write_text(json.dumps(whole))
    manifest = {"base_model_hash": base_model_hash(str(tiny_base))}
    name = publish_adapter(source, adapters_folder=tmp_path / "a", kind="lora", manifest=manifest)
    with pytest.raises(UserError, match=words):
        check(tmp_path / "a" / name)


def test_an_adapter_of_another_base_model_is_refused(
    published: Path, tiny_base: Path, check: Callable[..., Any]
) -> None:
    (tiny_base / "tokenizer.json").write_text('{"other": 1}')
    with pytest.raises(UserError, match="another base model"):
        check(published)


def test_a_rank_beyond_the_engines_is_refused(published: Path, check: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="the engine serves 1 to 2"):
        check(published, max_rank=2)


@pytest.mark.parametrize("name", ["adapter_model.bin", "tokenizer.json", "notes.txt", "adapter_model.pkl"])
def test_a_file_that_belongs_to_no_adapter_is_refused(published: Path, check: Callable[..., Any], name: str) -> None:
    published.chmod(0o755)
    (published / name).write_bytes(pickle.dumps({}))
    with pytest.raises(UserError, match=f"holds {name}"):
        check(published)
    with pytest.raises(UserError, match=f"holds {name}"):
        check(republished(published))
