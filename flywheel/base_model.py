"""The base model's directory: where it is, what it is (a hash), and which linear layers it has.

Only JSON and safetensors headers are read here, never through a training library. The hash covers what decides an
answer: configuration, tokenizer, chat template, weights. Weights up to 10 MB are hashed whole; of larger ones the
name, the size and the header, which is quick and finds an exchanged file, not a flipped bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path
from typing import Any

from flywheel.errors import UserError

SMALL_BYTES = 10_000_000
HEADER_LIMIT = 100_000_000
DESCRIBING_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def resolve_base_model(name_or_path: str) -> Path:
    """The directory behind `base_model`: a directory, or a name in the local Hugging Face cache. Raises UserError."""
    folder = Path(name_or_path).expanduser()
    if (folder / "config.json").is_file():
        return folder.resolve()
    if folder.is_dir():
        raise UserError(f"{folder} is not a base model: it holds no config.json. Set base_model to one that does.")
    cached = _hub_cache() / ("models--" + name_or_path.replace("/", "--"))
    branch = cached / "refs" / "main"
    snapshot = cached / "snapshots" / branch.read_text().strip() if branch.is_file() else cached
    if not (snapshot / "config.json").is_file():
        raise UserError(
            f"No base model {name_or_path!r}: neither a directory nor a name in the Hugging Face cache "
            f"({_hub_cache()}). Set base_model to the directory of one, or to `starter`."
        )
    return snapshot.resolve()


def _hub_cache() -> Path:
    home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")


def base_model_hash(path: str) -> str:
    """SHA-256 over the base model's configuration, tokenizer and weights. Raises UserError."""
    folder = resolve_base_model(path)
    weights = _weight_files(folder)
    whole = sum(file.stat().st_size for file in weights) <= SMALL_BYTES
    digest = hashlib.sha256()
    for file in [folder / name for name in DESCRIBING_FILES if (folder / name).is_file()] + weights:
        if whole or file not in weights:
            content = file.read_bytes()
        else:
            content = json.dumps([file.stat().st_size, read_header(file)], sort_keys=True).encode()
        digest.update(f"{file.name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def module_shapes(path: str) -> dict[str, tuple[int, int]]:
    """Every module with a two-dimensional weight: its name, and (outputs, inputs) of a linear layer."""
    shapes: dict[str, tuple[int, int]] = {}
    for file in _weight_files(resolve_base_model(path)):
        for name, tensor in read_header(file).items():
            if name.endswith(".weight") and len(tensor["shape"]) == 2:
                shapes[name.removesuffix(".weight")] = (tensor["shape"][0], tensor["shape"][1])
    return shapes


def _weight_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} holds no *.safetensors file: save the base model in that format first.")
    return files


def read_header(file: Path) -> dict[str, dict[str, Any]]:
    """The tensors that a safetensors file announces: {name: {"dtype", "shape", "data_offsets"}}. Raises UserError.

    Also checked: the announced bytes fill the file exactly, without gap or overlap.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(size - 8, HEADER_LIMIT):
            raise UserError(f"{file.name} is cut or is no safetensors file: its header does not fit. Copy it again.")
        raw = stream.read(length)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        spans = sorted(tuple(tensor["data_offsets"]) for tensor in header.values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file.name} is damaged: its header cannot be read. Copy it again.") from error
    ends = [0, *(end for _, end in spans)]
    if [begin for begin, _ in spans] != ends[:-1] or ends[-1] != size - 8 - length:
        raise UserError(f"{file.name} is cut or damaged: its tensors do not fill the file. Copy it again.")
    return dict(header)
