from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from sqlalchemy.engine import Engine

from flywheel.database import reading
from flywheel.dataset_versions import DatasetVersion, pair_ids_of
from flywheel.errors import UserError
from retrain.chat_tokens import ChatTokens
from retrain.freeze import Row, freeze, split_by_conversation

AddPair = Callable[..., str]


@pytest.fixture
def frozen(records: Engine, home: Path, tokenizer_folder: Path) -> Callable[..., DatasetVersion]:
    def run(**values: int) -> DatasetVersion:
        options = {"max_tokens": 300, "minimum_rows": 1} | values
        return freeze(records, tenant="default", home=home, tokens=ChatTokens(str(tokenizer_folder)), **options)

    return run


def test_same_pairs_give_the_same_version(
    frozen: Callable[..., DatasetVersion], twenty_pairs: list[str], home: Path
) -> None:
    first, second = frozen(), frozen()
    assert first.name == second.name
    assert first.created_at == second.created_at
    assert [folder.name for folder in (home / "datasets").iterdir()] == [first.name]


def test_another_pair_gives_another_version(
    frozen: Callable[..., DatasetVersion], twenty_pairs: list[str], add_pair: AddPair
) -> None:
    first = frozen()
    add_pair("What is new?", "This [1].", "Thanks!")
    assert frozen().name != first.name


def test_files_are_read_only_and_in_the_preference_format(
    frozen: Callable[..., DatasetVersion], twenty_pairs: list[str], home: Path
) -> None:
    folder = home / frozen().folder
    rows = {row["pair_id"]: row for row in pq.read_table(folder / "train.parquet").to_pylist()}
    row = rows[twenty_pairs[1]]
    assert row["prompt"] == [{"role": "user", "content": "What costs 1?"}]
    assert row["chosen"] == [{"role": "assistant", "content": "It costs 1 euros [1]."}]
    assert row["rejected"] == [{"role": "assistant", "content": "Thanks! 1 Have a wonderful day!"}]
    assert {path.stat().st_mode & 0o222 for path in (folder, *folder.iterdir())} == {0}


def test_every_row_is_linked_to_its_pair_and_split(
    frozen: Callable[..., DatasetVersion], twenty_pairs: list[str], records: Engine, home: Path
) -> None:
    version = frozen()
    with reading(records) as session:
        linked = {split: pair_ids_of(session, version.name, split=split) for split in ("train", "validation")}
    for split, ids in linked.items():
        assert ids == pq.read_table(home / version.folder / f"{split}.parquet")["pair_id"].to_pylist()
    assert sorted(linked["train"] + linked["validation"]) == sorted(twenty_pairs)


def test_exact_duplicates_and_equal_answers_are_dropped_and_counted(
    frozen: Callable[..., DatasetVersion], twenty_pairs: list[str], add_pair: AddPair
) -> None:
    add_pair("What  costs 3?", "It costs 3 euros [1]. ", "Thanks! 3 Have a wonderful day!", conversation="other")
    add_pair("What costs 99?", "The same.", "The  same.")
    version = frozen()
    assert version.train_rows + version.validation_rows == 20
    assert version.report["duplicates"] == version.report["equal_answers"] == 1
    assert version.report["pairs_read"] == 22
    assert version.report["judgments"] == {"rule": 20}


def test_contradicting_pairs_are_counted(
    frozen: Callable[..., DatasetVersion], twenty_pairs: list[str], add_pair: AddPair
) -> None:
    add_pair("What costs 3?", "Thanks! 3 Have a wonderful day!", "It costs 3 euros [1].", conversation="other")
    assert frozen().report["contradictions"] == 1


def test_rows_too_long_are_dropped_and_counted_never_cut(
    frozen: Callable[..., DatasetVersion], twenty_pairs: list[str], add_pair: AddPair, home: Path
) -> None:
    add_pair("Short?", "long " * 300, "short")
    version = frozen()
    assert version.report["too_long"] == 1
    kept = pq.read_table(home / version.folder / "train.parquet")["chosen"].to_pylist()
    assert all(len(row[0]["content"]) < 100 for row in kept)


def test_too_few_pairs_are_refused_with_the_counts(
    frozen: Callable[..., DatasetVersion], twenty_pairs: list[str]
) -> None:
    with pytest.raises(UserError, match="20 usable pairs of 20 decided ones, 50 are needed"):
        frozen(minimum_rows=50)


def test_pairs_of_another_tenant_stay_out(
    frozen: Callable[..., DatasetVersion], twenty_pairs: list[str], add_pair: AddPair
) -> None:
    add_pair("Whose?", "Theirs [1].", "Thanks!", tenant="other")
    assert frozen().report["pairs_read"] == 20


def test_conversation_never_stands_in_both_splits_and_about_a_tenth_is_held_back() -> None:
    rows = [Row(f"p{n}", f"c{n % 500}", [{"role": "user", "content": str(n)}], "a", "b") for n in range(2000)]
    splits = split_by_conversation(rows)
    sides = {split: {row.conversation for row in some} for split, some in splits.items()}
    assert not sides["train"] & sides["validation"]
    assert 0.05 < len(splits["validation"]) / 2000 < 0.15
    assert split_by_conversation(rows[::-1]) == splits


@pytest.mark.parametrize("conversations", [2, 3, 5])
def test_few_conversations_still_give_both_splits(conversations: int) -> None:
    rows = [Row(f"p{n}", f"c{n % conversations}", [], "a", "b") for n in range(20)]
    assert all(split_by_conversation(rows).values())


def test_tokens_are_counted_in_the_base_models_own_template(tokenizer_folder: Path) -> None:
    tokens = ChatTokens(str(tokenizer_folder))
    bare = tokens.count_text("user\nWe open at nine.")
    assert tokens.count([{"role": "user", "content": "We open at nine."}]) == bare + 3  # start, end, newline


def test_written_files_do_not_depend_on_the_day(
    frozen: Callable[..., DatasetVersion], twenty_pairs: list[str], home: Path
) -> None:
    folder = home / frozen().folder
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())]
    folder.chmod(0o755)
    for file in list(folder.iterdir()):
        file.unlink()
    folder.rmdir()
    assert frozen().folder == folder.relative_to(home).as_posix()
    assert [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())] == digests
