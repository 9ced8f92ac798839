"""How many tokens a conversation has for a base model: its own chat template and tokenizer, without a training library.

(`transformers.AutoTokenizer` takes ten CPU seconds to import; the worker only counts.)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from flywheel.base_model import resolve_base_model
from flywheel.errors import UserError
from flywheel.messages import Message


class ChatTokens:
    """The base model's tokenizer and chat template. Raises UserError when it lacks one of them."""

    def __init__(self, base_model: str) -> None:
        folder = resolve_base_model(base_model)
        if not (folder / "tokenizer.json").is_file():
            raise UserError(f"{folder} has no tokenizer.json: save the base model's tokenizer in the fast format.")
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        config = _read(folder / "tokenizer_config.json")
        self._template = _template(folder, config)
        self._special = {
            key: value["content"] if isinstance(value, dict) else value
            for key in ("bos_token", "eos_token", "pad_token", "unk_token")
            if (value := config.get(key)) is not None
        }

    def count(self, messages: Sequence[Message]) -> int:
        """Tokens of the whole conversation as the trainer sees it."""
        # It returns the texts and the places of generated ones, whatever its annotation says.
        rendered: Any = render_jinja_template([list(messages)], chat_template=self._template, **self._special)[0]
        return len(self._tokenizer.encode(rendered[0], add_special_tokens=False).ids)

    def count_text(self, text: str) -> int:
        """Tokens of one text alone."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)


def _template(folder: Path, config: dict[str, Any]) -> str:
    file = folder / "chat_template.jinja"
    template = file.read_text() if file.is_file() else config.get("chat_template")
    if isinstance(template, list):  # several named ones: the plain one counts
        template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
    if not isinstance(template, str):
        raise UserError(f"{folder} has no chat template: add chat_template.jinja to the base model's directory.")
    return template


def _read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text())) if file.is_file() else {}
