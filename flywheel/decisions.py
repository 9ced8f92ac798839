"""Commands of who decides: open an experiment, promote, reject, roll back, merge; and what a decision rests on and
leaves behind (the ledger, lineage, model cards, the audit). `flywheel/cli.py` registers them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import quote

import typer
from rich.text import Text

from flywheel import show
from flywheel.client import ApiClient
from flywheel.commands import Actor, AsJson, Reason, console, login, open_api
from flywheel.errors import UserError
from flywheel.tried import arms_in_words, made_live

Which = Annotated[str, typer.Option("--experiment", help="Its id, where several run.")]


def experiment(  # noqa: PLR0913  an option each
    challenger: Annotated[
        str | None, typer.Argument(help="Let this adapter challenge the live one. Without it, the newest is shown.")
    ] = None,
    prompt: Annotated[
        str,
        typer.Option(help="A prompt version (`flywheel prompts`), or shipped; without an adapter, of the live one."),
    ] = "",
    mode: Annotated[str | None, typer.Option(help="split, shadow or interleaved (docs/api.md).")] = None,
    share: Annotated[float | None, typer.Option(help="The challenger's share of who takes part.")] = None,
    participants: Annotated[
        float | None, typer.Option(help="The share of all users who take part; others are free for another experiment.")
    ] = None,
    ramp: Annotated[
        list[float] | None, typer.Option(help="A smaller share to begin with; give it again for more.")
    ] = None,
    users: Annotated[int | None, typer.Option(help="Per arm, before it may say SHIP.")] = None,
    hours: Annotated[float | None, typer.Option(help="The least time before it may say SHIP.")] = None,
    actor: Actor = "",
    as_json: AsJson = False,
) -> None:
    """The newest experiment with its evidence; or open one."""
    api = open_api()
    if challenger is not None or prompt:
        variant = {"challenger": challenger, "prompt": prompt or None}
        plan = {"mode": mode, "participants": participants, "traffic_share": share, "ramp": ramp}
        plan |= {"minimum_users": users, "minimum_hours": hours}
        given = {name: value for name, value in plan.items() if value not in (None, [])}
        opened = api.post("/v1/experiments", {**variant, "actor": actor or login(), **given})
        return show.experiment(console, opened, as_json=as_json)
    newest = api.get("/v1/experiments", limit=1)["data"]
    if not newest:
        raise UserError("There has been no experiment yet: `flywheel turn` trains an adapter and opens one.")
    return show.experiment(console, api.get(f"/v1/experiments/{newest[0]['id']}"), as_json=as_json)


def promote(
    reason: Reason,
    actor: Actor = "",
    evidence: Annotated[
        str, typer.Option(help="The evidence hash you looked at; without it, you are shown it and asked.")
    ] = "",
    override: Annotated[bool, typer.Option(help="Promote without the verdict SHIP.")] = False,
    experiment_id: Which = "",
) -> None:
    """Make the challenger of the running experiment live, or give the first of two approvals."""
    api = open_api()
    running = _running_experiment(api, experiment_id)
    if not evidence:
        show.experiment(console, running, as_json=False)
        if not typer.confirm(f"Promote {arms_in_words(running)[1]}?"):
            raise SystemExit(1)
    body = {"act": "promote", "experiment_id": running["id"], "evidence_hash": evidence or running["evidence_hash"]}
    done = api.post("/v1/promotions", body | {"actor": actor or login(), "reason": reason, "override": override})
    if done.get("object") == "approval":
        return console.print(f"Your approval is kept; {'; '.join(done['approvals']['missing'])}.", soft_wrap=True)
    return console.print(f"{made_live(done)} is live.", soft_wrap=True)


def reject(reason: Reason, actor: Actor = "", experiment_id: Which = "") -> None:
    """End the running experiment; the champion stays live."""
    api = open_api()
    body = {
        "act": "reject",
        "experiment_id": _running_experiment(api, experiment_id)["id"],
        "actor": actor or login(),
        "reason": reason,
    }
    done = api.post("/v1/promotions", body)
    console.print(f"{made_live(done)} is rejected; {done['previous']} stays live.", soft_wrap=True)


def rollback(
    reason: Reason,
    actor: Actor = "",
    to: Annotated[str, typer.Option(help="An adapter that was live before, with the prompt it had then.")] = "",
    prompt: Annotated[
        str, typer.Option(help="A prompt version that was live before, or shipped; without --to, for the live adapter.")
    ] = "",
) -> None:
    """Make an earlier variant live again: without --to and --prompt, the previous adapter with its prompt."""
    target = {"adapter": to or None, "prompt": prompt or None}
    done = open_api().post(
        "/v1/promotions", {"act": "roll_back", **target, "actor": actor or login(), "reason": reason}
    )
    console.print(f"{made_live(done)} is live again.", soft_wrap=True)


def merge(
    reason: Reason,
    actor: Actor = "",
    withdraw: Annotated[bool, typer.Option(help="Serve the adapter as an adapter again.")] = False,
) -> None:
    """Allow that the champion is served merged into the base weights, at their speed, until the next decision."""
    body = {"act": "withdraw" if withdraw else "allow", "actor": actor or login(), "reason": reason}
    done = open_api().post("/v1/merges", body)
    then = "is served as an adapter again" if withdraw else "is being merged; `flywheel status` tells how far it is"
    console.print(f"{done['adapter']} {then}.", soft_wrap=True)


def _running_experiment(api: ApiClient, named: str) -> dict[str, Any]:
    running = [row["id"] for row in api.get("/v1/experiments")["data"] if row["state"] == "running"]
    if not (running or named):
        raise UserError("No experiment is running. `flywheel turn` trains a challenger and opens one.")
    if len(running) > 1 and not named:
        raise UserError(f"Several experiments run: say which with --experiment ({', '.join(running)}).")
    return api.get(f"/v1/experiments/{quote(named or running[0], safe='')}")


def promotions(
    at: Annotated[
        str, typer.Option(help="A moment, e.g. 2026-11-20T14:30 (UTC where it names no zone): who served then.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Who is live, or was at a moment, and the ledger of decisions, newest first."""
    show.ledger(console, open_api().get("/v1/promotions", at=at or None), as_json=as_json)


def lineage(
    of: Annotated[str, typer.Argument(help="A completion's id, or an adapter's name.")] = "",
    user: Annotated[str, typer.Option(help="From a user forth: everything made from their words.")] = "",
    as_json: AsJson = False,
) -> None:
    """From one answer back to the adapter, run, dataset version, pairs, judgments and ratings that shaped it."""
    if bool(of) == bool(user):
        raise UserError("Name one of them: the id of an answer (or an adapter's name), or --user NAME.")
    if user:
        return show.user_lineage(console, open_api().get("/v1/lineage", user=user), as_json=as_json)
    path = f"/v1/lineage/{quote(of, safe='')}"
    if of.startswith(("lora-", "identity-")):
        path = f"/v1/adapters/{of}/lineage"
    return show.lineage(console, open_api().get(path), as_json=as_json)


def card(adapter: Annotated[str, typer.Argument(help="An adapter's name.")], as_json: AsJson = False) -> None:
    """An adapter's model card: what it is, how it was trained, what the gate measured."""
    found = open_api().get(f"/v1/adapters/{adapter}/card")
    show.value(console, found, Text(found["text"]), as_json=as_json)


def audit(
    what: Annotated[Literal["list", "verify"], typer.Argument(help="verify: recompute the chain of hashes.")] = "list",
    head: Annotated[str, typer.Option(help="verify: a head that was kept elsewhere; a cut-off end shows.")] = "",
    as_json: AsJson = False,
) -> None:
    """Who did what, newest first; or whether the chain of hashes is whole, and its head to keep elsewhere."""
    if what == "list":
        fields = ("position", "created_at", "actor", "act", "subject")
        return show.rows(console, open_api().get("/v1/audit")["data"], fields, as_json=as_json)
    found = open_api().get("/v1/audit/verify", head=head or None)
    broken, whole = found["first_broken_position"], f"The chain of {found['entries']} entries is whole"
    sentence = (
        f"{whole}; head {found['entries']}:{found['head']}" if broken is None else f"Broken at position {broken}."
    )
    show.value(console, found, sentence, as_json=as_json)
    raise SystemExit(0 if broken is None else 1)
