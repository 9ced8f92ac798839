"""A training row: tokens, which of them are learnt, and what in the row they are taken from.

The last is what `learning.py` shows the pointing heads: choosing the right sentence is what a model this small learns
slowest from its answers alone.
"""

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from types import MappingProxyType
from typing import NamedTuple

NOWHERE = -1
NOTHING_ALIKE: Mapping[int, int] = MappingProxyType({})


class Row(NamedTuple):
    """Four lists of one length.

    `source` is the place of the token that a learnt token copies; `anchor` the place where the quoted sentence ends,
    the first at which a causal model can know all that it says. Both are -1 where there is none.
    """

    tokens: list[int]
    learnt: list[bool]
    source: list[int]
    anchor: list[int]


def place_of(tokens: Sequence[int], part: Sequence[int]) -> int:
    """Where a run of tokens first stands in another; -1 where it does not."""
    size = len(part)
    starts = (at for at in range(len(tokens) - size + 1) if tokens[at] == part[0])
    return next((at for at in starts if list(tokens[at : at + size]) == list(part)), NOWHERE) if size else NOWHERE


def shared_run(start: int, quoted: Sequence[int], answer: Sequence[int]) -> list[int]:
    """The source of each token of an answer, by the longest run it shares with a sentence that stands at `start`."""
    source = [NOWHERE] * len(answer)
    run = SequenceMatcher(None, answer, quoted, autojunk=False).find_longest_match()
    source[run.a : run.a + run.size] = range(start + run.b, start + run.b + run.size)
    return source


def add(
    row: Row,
    tokens: Sequence[int],
    *,
    learnt: bool = False,
    quoted: Sequence[int] = (),
    alike: Mapping[int, int] = NOTHING_ALIKE,
) -> None:
    """Puts tokens at the end of a row. A quoted sentence that the row does not hold is ignored.

    `alike` names for a token the one that counts as the same when sources are sought.
    """
    start = place_of(row.tokens, quoted) if learnt else NOWHERE
    if start == NOWHERE:
        row.source.extend([NOWHERE] * len(tokens))
        row.anchor.extend([NOWHERE] * len(tokens))
    else:
        same_quoted, same_tokens = ([alike.get(token, token) for token in run] for run in (quoted, tokens))
        row.source.extend(shared_run(start, same_quoted, same_tokens))
        row.anchor.extend([start + len(quoted)] * len(tokens))
    row.tokens.extend(tokens)
    row.learnt.extend([learnt] * len(tokens))
