"""How records look in a terminal: tables and sentences for people, JSON for programs. Input is the API's JSON."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from flywheel.tried import arms_in_words, gate_note, tried
from flywheel.variants import SHIPPED, Variant

if TYPE_CHECKING:
    from flywheel.doctor import Finding

Row = Mapping[str, Any]
Step = Callable[[], None]


def progress(console: Console) -> Progress:
    """The one progress bar of the command line: what, how far, how long."""
    columns = (TextColumn("  {task.description}"), BarColumn(bar_width=28), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("{task.fields[note]}"), console=console)


def value(console: Console, raw: Any, sentence: RenderableType, *, as_json: bool) -> None:
    """The raw JSON, or the rendering for a person."""
    console.print_json(json.dumps(raw, default=str)) if as_json else console.print(sentence)


def rows(console: Console, found: Sequence[Row], fields: Iterable[str], *, as_json: bool) -> None:
    """A table with a column for each field, or the whole records as JSON."""
    value(console, found, rows_table(found, fields), as_json=as_json)


def rows_table(found: Sequence[Row], fields: Iterable[str]) -> RenderableType:
    """A column for each field; a sentence where there is no row."""
    names = tuple(fields)
    table = Table(*(name.replace("_", " ") for name in names), box=None, pad_edge=False)
    for row in found:
        table.add_row(*(escape(_short(row.get(name))) for name in names))
    return table if found else "Nothing yet."


def _short(cell: Any) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:.3g}"
    return str(cell)


def pairs_table(pairs: Iterable[tuple[str, Any]]) -> Table:
    """Two columns without a frame: name and value."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column()
    for name, cell in pairs:
        table.add_row(name, cell if isinstance(cell, Table) else escape(_short(cell)))
    return table


def status(console: Console, found: Row, *, as_json: bool) -> None:
    """The appliance at a glance."""
    value(console, found, status_table(found), as_json=as_json)


def status_table(found: Row) -> Table:
    """Live adapter, experiment, counts and engines from GET /v1/status."""
    live, counts = found["live"], found["counts"]
    return pairs_table(
        [
            ("live", f"{_live(live) or 'nothing yet'} for alias {live['alias']}"),
            *(("experiment", _trial(experiment)) for experiment in found["experiments"]),
            ("counts", ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())),
            ("engines", ", ".join(f"{e['url']} {'ready' if e['ready'] else 'not ready'}" for e in found["engines"])),
            *((("merge", _merge_words(found["merge"])),) if found.get("merge") else ()),
        ]
    )


def _trial(experiment: Row) -> str:
    evidence, challenger = experiment.get("evidence") or {}, arms_in_words(experiment)[1]
    return f"{challenger} – {evidence.get('verdict', 'no look yet')}: {evidence.get('sentence', '')}"


def _merge_words(merge: Row) -> str:
    words = {
        "asked": "allowed; the worker will write the weights",
        "written": "weights written; their engine is being started",
        "serving": "merged weights answer",
        "failed": f"not merged: {merge['trouble']}",
    }[merge["state"]]
    rests = "" if merge["applies"] or merge["state"] == "failed" else " (rests, or has ended)"
    return f"{merge['adapter']}: {words}{rests}"


def findings(console: Console, found: Sequence[Finding], *, as_json: bool) -> None:
    """The doctor's report: a mark, what was looked at, what was seen, and what mends it."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in found:
        mark = "[green]ok[/]" if finding.ok else "[red]mend[/]"
        seen = escape(finding.seen) + (f"\n[yellow]→ {escape(finding.mend)}[/]" if not finding.ok else "")
        table.add_row(mark, f"[bold]{finding.name}[/]", seen)
    value(console, [asdict(finding) for finding in found], table, as_json=as_json)


def follow_run(console: Console, read: Callable[[], Row], *, poll_seconds: float = 1.0) -> Row:
    """Show a run's stage and progress until it has ended; the ended run."""
    with progress(console) as bar:
        task, seen = bar.add_task("waiting for the worker", total=None, note=""), 0
        while True:
            run = read()
            for event in run["events"][seen:]:
                bar.console.print(f"  {escape(event['text'])}", soft_wrap=True)
            seen = len(run["events"])
            step = run["progress"]
            loss = f"loss {step['loss']:.3f}" if isinstance(step.get("loss"), int | float) else ""
            bar.update(
                task,
                description=run["stage"] or run["state"],
                completed=step.get("done", 0),
                total=step.get("total"),
                note=loss,
            )
            if run["ended_at"]:
                bar.update(task, description=run["state"], completed=1, total=1, note="")
                break
            time.sleep(poll_seconds)
    if run["error"]:
        console.print(f"  [red]{escape(run['error'])}[/]")
    return run


def gate(console: Console, adapter: Row, *, as_json: bool) -> None:
    """The offline gate's checks: before, after, interval."""
    report = adapter.get("gate")
    if report is None:
        return value(console, None, f"{adapter['name']} was made by no run, so it has no gate report.", as_json=as_json)
    console.print("" if as_json else f"[bold]{escape(report['sentence'])}[/]")
    return value(console, report, gate_table(report), as_json=as_json)


def gate_table(report: Row) -> Table:
    """One row per check of a gate report."""
    table = Table("check", "before", "after", "difference (95 %)", "", box=None, pad_edge=False)
    for check in report["checks"]:
        low_high = check.get("interval")
        interval = f"{low_high[0]:+.3f} … {low_high[1]:+.3f}" if low_high else "–"
        verdict = "[green]passed[/]" if check["passed"] else "[red]failed[/]"
        table.add_row(
            check["name"].replace("_", " "), _short(check.get("before")), _short(check.get("after")), interval, verdict
        )
    return table


def experiment(console: Console, found: Row, *, as_json: bool) -> None:
    """An experiment with its evidence, in the order in which an operator reads it."""
    value(console, found, experiment_table(found), as_json=as_json)


def experiment_table(found: Row) -> Table:
    """Verdict first, then users, difference, e-value, sample ratio, guardrails."""
    evidence = found.get("evidence") or {}
    champion, challenger = arms_in_words(found)
    lines: list[tuple[str, Any]] = [
        ("experiment", f"{found['id']} ({found['state']})"),
        ("champion", champion),
        ("challenger", challenger),
        ("how", tried(found)),
        *([("gate", note)] if (note := gate_note(found)) else []),
    ]
    if evidence:
        users, (low, high) = evidence["users"], evidence["confidence"] or (None, None)
        lines += [
            ("verdict", f"{evidence['verdict']} – {evidence['sentence']}"),
            ("users", f"{users['champion']} champion, {users['challenger']} challenger"),
            ("difference", f"{_short(evidence['difference'])} (confidence sequence {_short(low)} … {_short(high)})"),
            ("e-value", f"{_short(evidence['e_value'])} (ships at {1 / evidence['alpha']:.0f})"),
            ("sample ratio", "ok" if evidence["sample_ratio"]["ok"] else "off"),
            ("guardrails", ", ".join(f"{g['name']} {'ok' if g['ok'] else 'BROKEN'}" for g in evidence["guardrails"])),
            ("evidence", found["evidence_hash"]),
        ]
    approvals = found.get("approvals") or {"needed": 1, "given": [], "missing": []}
    if approvals["needed"] > 1:
        lines += [("approved", f"by {given['actor']}: {given['reason']}") for given in approvals["given"]]
        lines += [("missing", sentence) for sentence in approvals["missing"]]
    return pairs_table(lines)


def ledger(console: Console, found: Row, *, as_json: bool) -> None:
    """Who is (or was) live, and the decisions that made it so."""
    live = found["live"]
    who = f"{_live(live) or 'nothing'} {'was' if live.get('at') else 'is'} live for {live['alias']}"
    for trial in live.get("experiments") or ():
        share = trial["participants"] * trial["traffic_share"]
        who += f"; {arms_in_words(trial)[1]} answered {share:.0%} of the users in {trial['id']}"
    if not as_json:
        console.print(escape(who + (f" at {live['at']}." if live.get("at") else ".")), soft_wrap=True)
    fields = ("created_at", "kind", "adapter", "prompt", "previous", "actor", "reason")
    decided = [row | {"prompt": row.get("prompt") or SHIPPED} for row in found["data"]]
    value(console, found, rows_table(decided, fields), as_json=as_json)


def _live(live: Row) -> str | None:
    return str(Variant(live["adapter"], live.get("prompt"))) if live["adapter"] else None


def lineage(console: Console, found: Row, *, as_json: bool) -> None:
    """One answer's ancestry."""
    value(console, found, lineage_table(found), as_json=as_json)


def lineage_table(found: Row) -> Table:
    """From the completion (or the adapter alone) back to the judged pairs."""
    adapter, run, dataset = found["adapter"], found["run"], found["dataset"]
    recipe = (adapter or {}).get("recipe") or {}
    pairs = found["pairs"]
    lines: list[tuple[str, Any]] = [
        *(_completion_lines(found["completion"]) if "completion" in found else []),
        ("adapter", adapter["name"] if adapter else "none (a fixed text)"),
        *([("prompt", _prompt_line(prompt))] if (prompt := found.get("prompt")) else []),
        (
            "training run",
            f"{run['id']}, asked for by {run['requested_by']}" if run else "none: this adapter changes nothing",
        ),
        ("recipe", recipe.get("name")),
        ("dataset", f"{dataset['name']}, {dataset['train_rows']} training rows" if dataset else None),
    ]
    later = [(record, row) for record in ("experiment", "promotion") if (row := found.get(record))]
    lines += [(record, f"{row['id']}, {row.get('state') or row.get('kind')}") for record, row in later]
    for pair in pairs[:3]:
        judges = ", ".join(f"{j['reviewer']} ({j['source']})" for j in pair["judgments"])
        rated = ", ".join(f"{_short(r['score'])} by {r['actor'] or r['source']}" for r in pair["ratings"])
        words = f"{pair['question']}\n  + {pair['chosen']}\n  - {pair['rejected']}\n  judged by {judges}"
        lines.append(("pair", words + (f"\n  rated {rated}" if rated else "")))
    return pairs_table(lines)


def _prompt_line(prompt: Row) -> str:
    whose = f" by {prompt['actor']}" if prompt["actor"] else ""
    return f"{prompt['version']}{whose}: {prompt['note'] or 'no note'} (flywheel prompts show {prompt['version']})"


def _completion_lines(completion: Row) -> list[tuple[str, Any]]:
    parts = ("prompt", "index", "router")
    versions = ", ".join(f"{part} {completion[f'{part}_version'] or '–'}" for part in parts)
    return [("completion", f"{completion['id']} – {completion.get('answer') or ''}"), ("versions", versions)]


def user_lineage(console: Console, found: Row, *, as_json: bool) -> None:
    """Everything that was made from a user's words."""
    value(console, found, user_lineage_table(found), as_json=as_json)


def user_lineage_table(found: Row) -> Table:
    """Each step with its number and its newest rows."""
    lines: list[tuple[str, Any]] = [("user", found["user"])]
    for step, count in found["counts"].items():
        newest = [str(row.get("name") or row.get("id") or row.get("completion_id")) for row in found[step][:3]]
        more = ["…"] if count > len(newest) else []
        lines.append((step, f"{count}: {', '.join(newest + more)}" if count else "none"))
    return pairs_table(lines)
