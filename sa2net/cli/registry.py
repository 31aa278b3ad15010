"""What the release owner does: look, promote, approve, go back, verify."""

import json
from pathlib import Path

import click

from sa2net.cli.options import PATH, cli, load, settings_options

MODEL = "sa2net"


class _ShowsByDefault(click.Group):
    """A group whose first argument may be the name of a model: `registry sa2net` is `registry show sa2net`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["show", *args]
        return super().parse_args(ctx, args)


@cli.command()
@click.argument("name")
@click.argument("version", type=click.IntRange(min=1))
@click.option("--data", type=PATH, default=None, help="Data set, where the champion must be scored again on it.")
@click.option("--reason", default="", metavar="TEXT", help="Why; kept in the audit log.")
@click.option("--override", is_flag=True, help="Whatever the gate says; needs --reason, recorded as an override.")
@click.option("--require-approval", is_flag=True, help="Only ask: a second person has to --approve.")
@click.option("--approve", is_flag=True, help="Sign what somebody else asked for, with $SA2NET_APPROVAL_KEY.")
@settings_options
def promote(
    name: str,
    version: int,
    data: Path | None,
    reason: str,
    override: bool,
    require_approval: bool,
    approve: bool,
    params: Path | None,
    overrides: tuple[str, ...],
) -> None:
    """Ask the gate about a version now; make it champion if it says so. Exit code 1: it says no.

    Example: sa2net promote sa2net 3 --require-approval
    """
    from sa2net.errors import ConfigError, NegativeAnswerError
    from sa2net.registry import release
    from sa2net.steps.register import rescorer

    if approve and (override or require_approval or reason):
        raise ConfigError("--approve stands alone", action="The request says already what is asked for, and why.")
    cfg = load(params, overrides).register.model_copy(update={"name": name})
    if require_approval:
        cfg = cfg.model_copy(update={"require_approval": True})
    done = (
        release.approve(cfg, version)
        if approve
        else release.promote(cfg, version, rescore=rescorer(data), reason=reason, against=override)
    )
    for item in done.decision.get("reasons", []):
        click.echo(f"  {'+' if item['holds'] else '-'} {item['text']}")
    if done.entry.action == "decide":
        raise NegativeAnswerError(
            done.sentence(),
            evidence=f"the gate says: {done.decision['verdict']}",
            action='The champion stays. Against the gate: --override --reason "why".',
        )
    click.echo(done.sentence())
    if done.entry.action == "request":
        click.echo(f"a second person: sa2net promote {name} {version} --approve")


@cli.command()
@click.argument("name", default=MODEL)
@click.option("--reason", default="", metavar="TEXT", help="Why; kept in the audit log.")
@settings_options
def rollback(name: str, reason: str, params: Path | None, overrides: tuple[str, ...]) -> None:
    """Make the champion before champion again; called again, the one before that. Exit code 1: there is none.

    Example: sa2net rollback sa2net --reason "misses ribs on the new probe"
    """
    from sa2net.registry import release

    cfg = load(params, overrides).register.model_copy(update={"name": name})
    done = release.rollback(cfg, reason=reason)
    click.echo(done.sentence())


@cli.group(cls=_ShowsByDefault)
def registry() -> None:
    """A table of a model's versions; or export and import it whole.

    \b
    Example: sa2net registry sa2net
    """  # noqa: D301 - click wants the backspace itself


@registry.command()
@click.argument("name", default=MODEL)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@settings_options
def show(name: str, as_json: bool, params: Path | None, overrides: tuple[str, ...]) -> None:
    """The versions of a model: aliases, Dice, data, code, the last decision, who and when."""
    from sa2net.registry import overview, store

    cfg = load(params, overrides).register
    client = store.connect()
    state = overview.inspect(client, name, signers=cfg.signers, approvers=cfg.approvers)
    rows = overview.rows(client, name, state.log)
    if as_json:
        content = {"schema_version": 1, "name": name, "versions": [row.to_dict() for row in rows]}
        click.echo(json.dumps({**content, "faults": list(state.faults)}, indent=2))
        return
    head = ("version", "alias", "Dice (interval)", "data", "code", "decision", "by", "when")
    lines = [
        (
            str(row.version), ", ".join(row.aliases) or "-", row.dice or "-", row.data or "-", row.revision or "-",
            row.decision or "-", row.by or "-", row.time.replace("T", " ").removesuffix("+00:00") or "-",
        )
        for row in rows
    ]  # fmt: skip
    click.echo(table([head, *lines]))
    for fault in state.faults:
        click.echo(f"! {fault}")
    if state.faults:
        click.echo(f"! sa2net audit {name}")


@cli.command()
@click.argument("name", default=MODEL)
@click.option("--accept", default="", metavar="REASON", help="Go on behind the faults; recorded with the reason.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@settings_options
def audit(name: str, accept: str, as_json: bool, params: Path | None, overrides: tuple[str, ...]) -> None:
    """Verify and print the audit log of a model. Exit code 1: it is not whole, or not what this machine saw.

    Example: sa2net audit sa2net
    """
    from sa2net.errors import ConfigError, NegativeAnswerError
    from sa2net.registry import ledger, overview, store, witness
    from sa2net.registry.audit import describe

    cfg = load(params, overrides).register
    client = store.connect()
    state = overview.inspect(client, name, signers=cfg.signers, approvers=cfg.approvers)
    if accept:
        if not state.faults:
            raise ConfigError(f"the audit log of {name} has no fault to accept", action="Leave --accept out.")
        ledger.Ledger(client, name, signers=cfg.signers).accept(accept)
        state = overview.inspect(client, name, signers=cfg.signers, approvers=cfg.approvers)
    if as_json:
        entries = [
            json.loads(placed.text) | {"number": placed.number, "hash": placed.hash} for placed in state.log.chain
        ]
        content = {"schema_version": 1, "name": name, "entries": entries, "void": state.log.void}
        click.echo(json.dumps({**content, "faults": list(state.faults), "notes": list(state.notes)}, indent=2))
    else:
        for placed in state.log.chain:
            click.echo(f"{placed.number:5} {placed.hash[:12]} {describe(placed.entry)}")
        for note in state.notes:
            click.echo(f"note: {note}")
        for fault in state.faults:
            click.echo(f"! {fault}")
    if state.faults:
        raise NegativeAnswerError(
            f"the audit log of {name} is not whole",
            evidence=f"{state.faults[0]}{f'; {len(state.faults) - 1} more' if state.faults[1:] else ''}",
            action=f"Find out who changed it. Once you know: sa2net audit {name} --accept REASON.",
        )
    witness.keep(state.log)
    if not as_json:
        void = f", {state.log.void} lost a race" if state.log.void else ""
        click.echo(f"whole: {len(state.log.chain)} entries{void}; head {state.log.head_hash[:12] or 'none'}")


def table(rows: list[tuple[str, ...]]) -> str:
    """Rows as aligned columns; the first is the head."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
