"""The record under SIGKILL, with the harness of `benchmarks.crash`."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.crash import Compared, killed

KILLS = {"sqlite": 100, "postgresql": 5}


@pytest.mark.timeout(600)
def test_nothing_acknowledged_is_lost_or_doubled(database_url: str, tmp_path: Path) -> None:
    kills = KILLS[database_url.partition(":")[0]]
    notes, compared = killed(kills, home=tmp_path, database_url=database_url)
    assert compared == Compared(0, 0, 0, 0, 0, 0, interrupted=compared.interrupted)
    assert compared.interrupted >= kills  # the kills met answers that were under way
    assert len(notes.done) >= kills / 4
    assert len(notes.rated) >= kills / 4
