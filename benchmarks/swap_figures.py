"""What the swaps did to those who asked: whose words they heard, how soon a decision held, how long a first word took.

Answers are judged by three witnesses: the header's adapter, its greedy fingerprint, and the row of the record. From
POST to "all new requests" is until the first request that the target answered after the last one that another did.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from statistics import median

from sqlalchemy import Engine as Database
from sqlmodel import select

from benchmarks.box import Act
from benchmarks.figures import Figure, measured
from benchmarks.greedy_users import Fingerprints, Heard
from flywheel.database import reading
from flywheel.interactions import Interaction

NONE = ("<=", 0.0)
Span = tuple[float, float]


def quantile(values: list[float], share: float) -> float:
    """Of at least one value."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def whose_words(heard: Heard, fingerprints: Fingerprints) -> str:
    """`own`, `another` or `mixed`: no single adapter says this."""
    words = fingerprints[heard.question]
    if words.get(heard.adapter) == heard.text:
        return "own"
    return "another" if heard.text in words.values() else "mixed"


def answer_figures(
    heard: list[Heard], acts: list[Act], fingerprints: Fingerprints, database: Database
) -> Iterator[Figure]:
    """Every request that came to an end, against who may have spoken."""
    fine = [one for one in heard if not one.failed]
    words = Counter(whose_words(one, fingerprints) for one in fine)
    with reading(database) as session:
        rows = {row.id: row for row in session.exec(select(Interaction).execution_options(yield_per=1000))}
        recorded = sum(_agrees(one, rows.get(one.completion_id)) for one in fine)
    kinds = Counter(act.kind for act in acts)
    yield measured("promotions under load", kinds["promote"], "swaps")
    yield measured("rollbacks under load", kinds["roll_back"], "swaps")
    yield measured("requests", len(heard), "requests")
    yield measured("requests that failed", len(heard) - len(fine), "requests", target=NONE)
    yield measured("answers in another adapter's words", words["another"], "answers", target=NONE)
    yield measured("answers in words of no single adapter", words["mixed"], "answers", target=NONE)
    two = sum(one.speakers != {one.adapter} for one in fine)
    yield measured("answers whose body or events name another adapter", two, "answers", target=NONE)
    yield measured("answers whose row says otherwise, or is missing", len(fine) - recorded, "answers", target=NONE)
    yield measured("answers by an adapter that was not live", stale(fine, acts), "answers", target=NONE)


def _agrees(heard: Heard, row: Interaction | None) -> bool:
    return row is not None and (row.adapter, row.answer, row.status) == (heard.adapter, heard.text, "finished")


def settled(acts: list[Act]) -> list[tuple[Act, float]]:
    """Each act, and when the next experiment or decision began."""
    return list(zip(acts, [act.opened_at or act.begun_at for act in acts[1:]] + [float("inf")], strict=True))


def stale(heard: list[Heard], acts: list[Act]) -> int:
    """Answers that were asked after a decision was acknowledged and over before the next experiment or decision began,
    and that the decision's target did not give."""
    return sum(
        act.over_at < one.asked_at and one.over_at < end and one.adapter != act.target
        for act, end in settled(acts)
        for one in heard
    )


def seconds_until_all(act: Act, end: float, heard: list[Heard]) -> float | None:
    """From an act's POST to the first request after which its target answered all, until `end`; None: nobody asked."""
    after = [one for one in heard if act.begun_at <= one.asked_at < end and not one.failed]
    last = max((one.asked_at for one in after if one.adapter != act.target), default=act.begun_at)
    new = [one.asked_at for one in after if one.adapter == act.target and one.asked_at > last]
    return min(new) - act.begun_at if new else None


def decision_figures(heard: list[Heard], acts: list[Act], raw: list[float]) -> Iterator[Figure]:
    """How soon decisions held, beside `raw`: seconds to load an adapter on the engine directly and to get a token."""
    took: dict[str, list[float]] = {"promote": [], "roll_back": []}
    for act, end in settled(acts):
        seconds = seconds_until_all(act, end, heard)
        if seconds is not None:
            took[act.kind].append(seconds)
    up, back = took["promote"], took["roll_back"]
    if up and raw:
        middle = median(up)
        yield measured(
            "promotion to all new requests, median", middle, "s",
            peer=("raw load + a token", median(raw)), target=("<=", round(1.5 * median(raw), 4)),
        )  # fmt: skip
    if up:
        yield measured("promotion to all new requests, longest", max(up), "s", target=("<=", 1))
    if back:
        yield measured("rollback to all new requests, median", median(back), "s", target=("<=", 1))
        yield measured("rollback to all new requests, longest", max(back), "s", target=("<=", 1))
    ends = sorted(one.over_at for one in heard)
    silence = max((after - before for before, after in pairwise(ends)), default=0.0)
    yield measured("longest time in which nobody heard anything", silence, "s")
    ready = [act.ready_at - act.opened_at for act in acts if act.kind == "promote" and act.ready_at]
    if ready:
        yield measured("experiment opened until both engines are ready, median", median(ready), "s")
        yield measured("experiment opened until both engines are ready, longest", max(ready), "s")


def first_word_figures(heard: list[Heard], acts: list[Act], raw: list[Span]) -> Iterator[Figure]:
    """The time to the first word in the second around a flip, and while a challenger is loaded, beside steady times."""
    flips = [(act.begun_at - 0.5, act.begun_at + 0.5) for act in acts]
    loads = [(act.opened_at, act.ready_at) for act in acts if act.ready_at]
    busy = [(begin - 0.5, end + 0.5) for begin, end in [*flips, *loads, *raw]]
    streams = [one for one in heard if one.first_at is not None and not one.failed]
    steady = [_first_word(one) for one in streams if not _inside(one, busy)]
    if not steady:
        return
    usual = quantile(steady, 0.99)
    yield measured("first word at steady times, median", 1000 * median(steady), "ms")
    for name, spans, target in (("in the second around a flip", flips, True), ("while one is loaded", loads, False)):
        found = [_first_word(one) for one in streams if _inside(one, spans)]
        if found:
            yield measured(
                f"first word {name}, p99 of {len(found)}", 1000 * quantile(found, 0.99), "ms",
                peer=(f"steady, p99 of {len(steady)}", 1000 * usual),
                target=("<=", round(1500 * usual, 1)) if target else None,
            )  # fmt: skip


def _first_word(heard: Heard) -> float:
    assert heard.first_at is not None
    return heard.first_at - heard.asked_at


def _inside(heard: Heard, spans: list[Span]) -> bool:
    return any(begin <= heard.asked_at < end for begin, end in spans)
