"""Freeze: every decided pair of a tenant becomes a row of an immutable dataset version.

    pair (prompt, chosen, rejected) → exact duplicates out → rows too long out → split by conversation → Parquet

Invariants: the same pairs always give the same version (its name carries the hash of its rows), a conversation never
stands in both splits, and no row is ever cut. Files are written beside and renamed, then read-only:
FLYWHEEL_HOME/datasets/NAME/{train,validation}.parquet in TRL's conversational preference format.
Not covered here: near duplicates, personal data, disagreement between reviewers.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from flywheel.database import now, reading, writing
from flywheel.dataset_versions import DatasetRow, DatasetVersion
from flywheel.errors import UserError
from flywheel.interactions import Interaction
from flywheel.messages import Message, message_text
from flywheel.pairs import Judgment, PreferencePair, decided_pairs
from retrain.chat_tokens import ChatTokens

VALIDATION_SHARE = 0.1
ANSWER_PARTS = ("prompt", "chosen", "rejected")
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
SCHEMA = pa.schema([
    ("pair_id", pa.string()), ("conversation", pa.string()),
    ("prompt", MESSAGES), ("chosen", MESSAGES), ("rejected", MESSAGES),
])  # fmt: skip


@dataclass(frozen=True)
class Row:
    pair_id: str
    conversation: str
    prompt: list[Message]
    chosen: str
    rejected: str

    def record(self) -> dict[str, Any]:
        """The row as TRL reads it."""
        return {
            "pair_id": self.pair_id,
            "conversation": self.conversation,
            "prompt": [{"role": turn["role"], "content": message_text(turn)} for turn in self.prompt],
            "chosen": [{"role": "assistant", "content": self.chosen}],
            "rejected": [{"role": "assistant", "content": self.rejected}],
        }


def freeze(
    database: Engine, *, tenant: str, home: Path, tokens: ChatTokens, max_tokens: int, minimum_rows: int
) -> DatasetVersion:
    """The version of all decided pairs as they stand now; an earlier one when nothing changed. Raises UserError."""
    with reading(database) as session:
        read = _rows(session, tenant=tenant)
        sources = _judgment_sources(session)
    unique, dropped = drop_duplicates(read)
    lengths = {row.pair_id: _lengths(row, tokens) for row in unique}
    rows = [row for row in unique if max(lengths[row.pair_id]["whole"]) <= max_tokens]
    dropped |= {"too_long": len(unique) - len(rows), "max_tokens": max_tokens}
    if len(rows) < minimum_rows:
        raise UserError(
            f"{len(rows)} usable pairs of {len(read)} decided ones, {minimum_rows} are needed: judge more pairs, or "
            f"lower retrain.minimum_pairs ({dropped['duplicates']} duplicates, {dropped['too_long']} too long)."
        )  # fmt: skip
    splits = split_by_conversation(rows)
    report = {"pairs_read": len(read), **dropped, **_quality(splits), "judgments": _count(sources, rows)}
    report["tokens"] = {part: _spread(lengths[row.pair_id][part] for row in rows) for part in ANSWER_PARTS}
    return _store(database, splits, tenant=tenant, home=home, report=report)


def _store(
    database: Engine, splits: dict[str, list[Row]], *, tenant: str, home: Path, report: dict[str, Any]
) -> DatasetVersion:
    digest = content_hash(splits)
    name = f"ds-{digest[:12]}"
    _write(splits, folder=home / "datasets" / name)
    with writing(database) as session:
        known = session.get(DatasetVersion, name)
        if known is not None:
            return known
        version = DatasetVersion(
            name=name, tenant=tenant, content_hash=digest, folder=f"datasets/{name}", report=report, created_at=now(),
            train_rows=len(splits["train"]), validation_rows=len(splits["validation"]),
        )  # fmt: skip
        session.add(version)
        session.flush()
        for split, rows in splits.items():
            session.add_all(DatasetRow(dataset=name, pair_id=row.pair_id, split=split) for row in rows)
    return version


def _rows(session: Session, *, tenant: str) -> list[Row]:
    pairs = decided_pairs(session, tenant=tenant)
    query = (
        select(PreferencePair.id, Interaction.conversation)
        .join(Interaction, col(Interaction.id) == col(PreferencePair.completion_id))
        .where(PreferencePair.tenant == tenant, PreferencePair.state == "decided")
    )
    conversation = {pair_id: str(name) for pair_id, name in session.exec(query)}
    answers = {pair.id: (pair.a, pair.b) if pair.chosen == "a" else (pair.b, pair.a) for pair in pairs}
    return [Row(pair.id, conversation[pair.id], pair.prompt, *answers[pair.id]) for pair in pairs]


def normalised(text: str) -> str:
    """What counts as the same text: Unicode form and white space do not."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _prompt_key(row: Row) -> str:
    return json.dumps([[turn["role"], normalised(message_text(turn))] for turn in row.prompt])


def drop_duplicates(rows: Sequence[Row]) -> tuple[list[Row], dict[str, int]]:
    """The first of each exact duplicate, and counts of what went: duplicates, and pairs of two equal answers."""
    seen: set[tuple[str, str, str]] = set()
    kept, counts = [], {"duplicates": 0, "equal_answers": 0}
    for row in rows:
        key = (_prompt_key(row), normalised(row.chosen), normalised(row.rejected))
        if key[1] == key[2]:
            counts["equal_answers"] += 1
        elif key in seen:
            counts["duplicates"] += 1
        else:
            seen.add(key)
            kept.append(row)
    return kept, counts


def split_by_conversation(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """About a tenth of the conversations for validation, by the hash of their name; at least one on each side."""
    places = {row.conversation: _place(row.conversation) for row in rows}
    ordered = sorted(places, key=places.__getitem__)
    held = {name for name in ordered if places[name] < VALIDATION_SHARE}
    if len(ordered) > 1:
        held = (held or {ordered[0]}) - ({ordered[-1]} if len(held) == len(ordered) else set())
    else:
        held = set()
    in_order = sorted(rows, key=lambda row: row.pair_id)
    return {
        "train": [row for row in in_order if row.conversation not in held],
        "validation": [row for row in in_order if row.conversation in held],
    }


def _place(conversation: str) -> float:
    return int.from_bytes(hashlib.sha256(f"split:{conversation}".encode()).digest()[:8], "big") / 2**64


def content_hash(splits: dict[str, list[Row]]) -> str:
    """SHA-256 over the canonical JSON of every row, split by split."""
    digest = hashlib.sha256()
    for split, rows in sorted(splits.items()):
        for row in rows:
            digest.update(json.dumps([split, row.record()], sort_keys=True, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()


def _write(splits: dict[str, list[Row]], *, folder: Path) -> None:
    if folder.is_dir():  # renamed whole, so it is whole
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".freezing-", dir=folder.parent))
    for split, rows in splits.items():
        file = scratch / f"{split}.parquet"
        pq.write_table(pa.Table.from_pylist([row.record() for row in rows], schema=SCHEMA), file)
        with file.open("rb") as written:
            os.fsync(written.fileno())
        file.chmod(0o444)
    scratch.rename(folder)
    folder.chmod(0o555)


def _lengths(row: Row, tokens: ChatTokens) -> dict[str, list[int]]:
    record = row.record()
    answers = {"chosen": row.chosen, "rejected": row.rejected}
    return {
        "prompt": [tokens.count(record["prompt"])],
        **{part: [tokens.count_text(text)] for part, text in answers.items()},
        "whole": [tokens.count([*record["prompt"], *record[part]]) for part in answers],
    }


def _spread(counts: Iterable[list[int]]) -> dict[str, float]:
    flat = [count for some in counts for count in some]
    return {"least": min(flat), "median": median(flat), "most": max(flat)}


def _quality(splits: dict[str, list[Row]]) -> dict[str, int]:
    rows = [row for some in splits.values() for row in some]
    keys = {(_prompt_key(row), normalised(row.chosen), normalised(row.rejected)) for row in rows}
    trained = {_prompt_key(row) for row in splits["train"]}
    return {
        "conversations": len({row.conversation for row in rows}),
        "contradictions": sum((prompt, rejected, chosen) in keys for prompt, chosen, rejected in keys) // 2,
        "validation_prompts_also_in_train": sum(_prompt_key(row) in trained for row in splits["validation"]),
    }


def _judgment_sources(session: Session) -> list[tuple[str, str]]:
    return list(session.exec(select(Judgment.pair_id, Judgment.source)))


def _count(sources: list[tuple[str, str]], rows: Sequence[Row]) -> dict[str, int]:
    wanted = {row.pair_id for row in rows}
    return dict(Counter(source for pair_id, source in sources if pair_id in wanted))
