"""An adapter's files: published once under the hash of their content, read-only, checked before an engine sees them.

    FLYWHEEL_HOME/adapters/NAME/    NAME = KIND-<twelve digits of content_hash>
        adapter_config.json         PEFT's configuration
        adapter_model.safetensors   the weights
        README.md                   the model card, where there is one
        manifest.json               file hashes, base model hash, recipe, parent, run, dataset, probes

Invariant: `content_hash` covers every file's hash and the base model's, so a name never stands for other bytes; the
manifest's remaining fields are provenance and are kept in the database too. An engine loads broken adapters without a
word, so nothing is loaded that `verify_adapter` has not passed. What an adapter answers is not checked here: that is
the fingerprint's part (`serving/fingerprint.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from flywheel.adapter_tensors import CONFIG, WEIGHTS, check_config, check_tensors, read_json
from flywheel.database import now
from flywheel.errors import NotFoundError, UserError

MANIFEST = "manifest.json"
CARD = "README.md"
PUBLISHED = (CONFIG, WEIGHTS, CARD)
NAME = re.compile(r"(lora|identity)-[0-9a-f]{12}")


def publish_adapter(
    source: Path, *, adapters_folder: Path, kind: Literal["lora", "identity"], manifest: dict[str, Any]
) -> str:
    """Copy configuration, weights and model card from `source` into a folder of their own and return its name.

    `manifest` needs `base_model_hash`; the rest of it is kept as given. Whatever else lies in `source` (tokenizer,
    checkpoints) stays there. Publishing the same content again changes nothing.
    """
    if "base_model_hash" not in manifest:
        raise UserError("An adapter's manifest names the base model it was trained on: base_model_hash is missing.")
    adapters_folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".publishing-", dir=adapters_folder) as scratch:
        folder = Path(scratch) / "adapter"
        folder.mkdir()
        for file in (source / name for name in PUBLISHED):
            if file.name != CARD or file.is_file():
                shutil.copyfile(file, folder / file.name)
        files = {file.name: file_hash(file) for file in sorted(folder.iterdir())}
        digest = content_hash(kind, files, manifest["base_model_hash"])
        name = f"{kind}-{digest[:12]}"
        own = {"name": name, "kind": kind, "content_hash": digest, "files": files}
        whole = {"created_at": now().isoformat()} | manifest | own
        (folder / MANIFEST).write_text(json.dumps(whole, indent=2, sort_keys=True, allow_nan=False) + "\n")
        _settle(folder)
        if not (adapters_folder / name).exists():
            folder.rename(adapters_folder / name)
            (adapters_folder / name).chmod(0o555)
            flush(adapters_folder)
    return name


def _settle(folder: Path) -> None:
    for file in folder.iterdir():
        flush(file)
        file.chmod(0o444)
    flush(folder)


def flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def file_hash(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_hash(kind: str, files: Mapping[str, str], base_model_hash: str) -> str:
    """What an adapter's name is made of."""
    content = {"kind": kind, "files": dict(files), "base_model_hash": base_model_hash}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def model_card(folder: Path) -> str:
    """The card that was published with an adapter. Raises NotFoundError where there is none."""
    if not (folder / CARD).is_file():
        raise NotFoundError(f"Adapter {folder.name} was published without a model card.")
    return (folder / CARD).read_text(errors="replace")


def verify_adapter(
    folder: Path, *, base_model_hash: str, max_rank: int, shapes: Mapping[str, tuple[int, int]]
) -> dict[str, Any]:
    """The manifest of an adapter that is whole and fits the base model. Raises UserError with the first thing wrong.

    `shapes` is `flywheel.base_model.module_shapes` of the base model: the tensors must be exactly A and B of every
    module that the configuration targets in it.
    """
    _check_folder(folder)
    manifest = read_json(folder / MANIFEST)
    _check_hashes(folder, manifest)
    if manifest["base_model_hash"] != base_model_hash:
        raise UserError(
            f"Adapter {folder.name} was trained on another base model ({manifest['base_model_hash'][:12]}, "
            f"not {base_model_hash[:12]}): set base_model back, or train anew."
        )
    config = check_config(folder, max_rank=max_rank)
    check_tensors(folder, config=config, shapes=shapes, identity=manifest["kind"] == "identity")
    return manifest


def _check_folder(folder: Path) -> None:
    if not NAME.fullmatch(folder.name):
        raise UserError(f"{folder.name!r} is not an adapter's name (lora- or identity- and twelve hexadecimal digits).")
    if folder.is_symlink() or not folder.is_dir():
        raise UserError(f"Adapter {folder.name} has no folder at {folder}: restore it from a backup.")
    for entry in folder.iterdir():
        if entry.is_symlink() or not entry.is_file() or entry.name not in (*PUBLISHED, MANIFEST):
            raise UserError(f"Adapter {folder.name} holds {entry.name}, which belongs to no adapter: remove it.")
    for required in (CONFIG, WEIGHTS, MANIFEST):
        if not (folder / required).is_file():
            raise UserError(f"Adapter {folder.name} lacks {required}: restore it from a backup.")


def _check_hashes(folder: Path, manifest: dict[str, Any]) -> None:
    present = {file.name for file in folder.iterdir()} - {MANIFEST}
    files, kind, base = (manifest.get(key) for key in ("files", "kind", "base_model_hash"))
    if not isinstance(files, dict) or set(files) != present or not isinstance(kind, str) or not isinstance(base, str):
        raise UserError(f"Adapter {folder.name} has a manifest that does not name its files: restore it from a backup.")
    for name, expected in files.items():
        if file_hash(folder / name) != expected:
            raise UserError(f"{name} of adapter {folder.name} is not the file that was published: restore it.")
    if folder.name != f"{kind}-{content_hash(kind, files, base)[:12]}":
        raise UserError(f"Adapter {folder.name} does not hold what its name stands for: restore it from a backup.")
