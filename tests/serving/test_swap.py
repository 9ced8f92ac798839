"""Nobody hears another adapter than the one that is recorded, with the users and the judge of `benchmarks.swap`."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

from benchmarks.box import Act, Home, Operator
from benchmarks.greedy_users import Crowd, Fingerprints, Heard, fingerprints
from benchmarks.swap_figures import answer_figures, seconds_until_all, stale, whose_words
from flywheel.settings import load_settings
from serving.engine import Engine
from tests.conftest import Served, serving_on

QUESTIONS = [f"{begin} the {thing}?" for begin in ("How much is", "Where is", "Who opens") for thing in ("bay", "yard")]
KNOWN: Fingerprints = {"when?": {"lora-1": "at noon", "lora-2": "by train"}}


def heard(adapter: str, *, asked_at: float = 0, over_at: float = 1, text: str = "at noon") -> Heard:
    return Heard("when?", asked_at, over_at=over_at, status=200, adapter=adapter, text=text)


@pytest.mark.engine
def test_every_answer_during_swaps_is_the_recorded_adapters_own(
    engine_url: str, base_model: str, tmp_path: Path
) -> None:
    serving = {"port": 0, "reconcile_seconds": 0.3}
    home = Home(load_settings(home=tmp_path, base_model=base_model, engine={"urls": [engine_url]}, serving=serving))
    adapters = [home.made_adapter(seed=seed) for seed in (1, 2)]
    folders = {name: home.folder(name) for name in [home.identity, *adapters]}
    known = asyncio.run(known_on(engine_url, folders))
    with serving_on(home.settings) as served:
        crowd, acts = asyncio.run(swapped(served, home, adapters, list(known)))
    figures = list(answer_figures(crowd.heard, acts, known, home.database))
    home.database.dispose()
    assert [act.kind for act in acts] == ["promote", "roll_back"] * 2
    assert {home.identity, *adapters} == {one.adapter for one in crowd.heard}
    assert [figure for figure in figures if figure.holds is False] == []
    assert sum(figure.holds is True for figure in figures) == 6


async def known_on(engine_url: str, folders: dict[str, Path]) -> Fingerprints:
    engine = Engine(engine_url)
    try:
        return await fingerprints([engine], folders, QUESTIONS)
    finally:
        engine.close()


async def swapped(served: Served, home: Home, adapters: list[str], questions: list[str]) -> tuple[Crowd, list[Act]]:
    """Two promotions and rollbacks while six users ask."""
    async with aiohttp.ClientSession(served.url, headers=served.authorized) as http:
        operator = Operator(http, home.settings.engine.urls)
        await operator.until_loaded(home.identity, home.settings.engine.urls)
        async with Crowd(served.url, questions, key=served.key).under_way(at_once=6) as crowd:
            for adapter in adapters:
                await crowd.until(len(crowd.heard) + 10)
                await operator.promote(adapter, trial_seconds=0.3)
                await crowd.until(len(crowd.heard) + 10)
                await operator.roll_back()
    return crowd, operator.acts


def test_words_are_the_speakers_own_anothers_or_nobodys() -> None:
    assert whose_words(heard("lora-1"), KNOWN) == "own"
    assert whose_words(heard("lora-2"), KNOWN) == "another"
    assert whose_words(heard("lora-1", text="at train"), KNOWN) == "mixed"


def test_an_answer_counts_as_stale_only_while_nobody_is_deciding() -> None:
    up = Act("promote", 10, 11, "lora-2", opened_at=5, ready_at=6)
    back = Act("roll_back", 20, 21, "lora-1")
    late = heard("lora-1", asked_at=12, over_at=13)
    across = heard("lora-1", asked_at=10.5, over_at=13)
    meanwhile = heard("lora-1", asked_at=19, over_at=20.5)
    afterwards = heard("lora-2", asked_at=22, over_at=23)
    assert [stale([one], [up, back]) for one in (late, across, meanwhile, afterwards)] == [1, 0, 0, 1]


def test_a_decision_holds_from_the_first_request_after_the_last_that_another_answered() -> None:
    act = Act("promote", 10, 10.5, "lora-2")
    asked = {9.0: "lora-1", 10.1: "lora-2", 10.2: "lora-1", 10.4: "lora-2", 10.6: "lora-2", 12.1: "lora-1"}
    found = seconds_until_all(act, 12, [heard(name, asked_at=time) for time, name in asked.items()])
    assert found == pytest.approx(0.4)
    assert seconds_until_all(act, 12, [heard("lora-1", asked_at=11)]) is None
