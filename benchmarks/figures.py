"""What every benchmark ends with: figures, as a table or as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import isfinite

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One measured number, beside a peer's and a target where there is one."""

    figure: str
    value: float
    unit: str
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    """value / peer_value"""
    target: str | None = None
    holds: bool | None = None


def measured(
    figure: str,
    value: float,
    unit: str,
    *,
    peer: tuple[str, float] | None = None,
    target: tuple[str, float] | None = None,
) -> Figure:
    """`target` is ("<=", limit) or (">=", limit)."""
    name, peer_value = peer if peer and isfinite(peer[1]) else (None, None)
    ratio = value / peer_value if peer_value else None
    if target is None:
        return Figure(figure, value, unit, name, peer_value, ratio)
    holds = value <= target[1] if target[0] == "<=" else value >= target[1]
    return Figure(figure, value, unit, name, peer_value, ratio, f"{target[0]} {target[1]:g}", bool(holds))


def show(figures: list[Figure], title: str, *, as_json: bool) -> None:
    """Print them."""
    if as_json:
        print(json.dumps([asdict(figure) for figure in figures], indent=2, ensure_ascii=False))
        return
    table = Table(title=title)
    for column in ("figure", "value", "unit", "peer", "peer value", "ratio", "target", "holds"):
        table.add_column(column, justify="right" if "value" in column or column == "ratio" else "left")
    for f in figures:
        peer_value = "" if f.peer_value is None else f"{f.peer_value:,.2f}"
        ratio = "" if f.ratio is None else f"{f.ratio:,.3f}"
        holds = "" if f.holds is None else "yes" if f.holds else "[bold red]no[/]"
        table.add_row(f.figure, f"{f.value:,.2f}", f.unit, f.peer or "", peer_value, ratio, f.target or "", holds)
    console = Console()
    # Piped, rich would fold every row into eighty columns.
    Console(width=console.width if console.is_terminal else 160).print(table)
