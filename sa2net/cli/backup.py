"""A registered model into one file, and back into an empty registry."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from sa2net.cli.options import PATH, load, quiet_option, settings_options
from sa2net.cli.registry import MODEL, registry, table
from sa2net.config import RegisterConfig, as_section

if TYPE_CHECKING:
    from sa2net.registry.backup import Exported


@registry.command("export")
@click.argument("file", type=PATH)
@click.option("--name", default=MODEL, show_default=True, help="Registered model.")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@settings_options
@quiet_option
def export_(file: Path, name: str, force: bool, params: Path | None, overrides: tuple[str, ...], quiet: bool) -> None:
    """Write a model whole into one file: versions, their runs, aliases, audit log. The registry is only read.

    Exit code 1: it is written, and something in the registry is not as it should be.

    Example: sa2net registry export /backup/sa2net-2026-11-25.zip
    """
    from sa2net.errors import NegativeAnswerError
    from sa2net.registry import backup, store

    name = _checked(name)
    signers = load(params, overrides).register.signers
    done = backup.export(store.connect(), name, file, signers=signers, force=force, progress=not quiet)
    if not quiet:
        click.echo(_summary(done))
        for note in done.notes:
            click.echo(f"note: {note}")
    for fault in done.faults:
        click.echo(f"! {fault}")
    if done.faults:
        raise NegativeAnswerError(
            f"{file} is written, and {name} is not as it should be",
            evidence=f"{done.faults[0]}{f'; {len(done.faults) - 1} more' if done.faults[1:] else ''}",
            action=f"Keep the backup before this one. Look at `sa2net audit {name}` and at the artifact store.",
        )


@registry.command("import")
@click.argument("file", type=PATH)
@click.option("--name", default="", help="Call the model so; default: as in the file.")
@settings_options
@quiet_option
def import_(file: Path, name: str, params: Path | None, overrides: tuple[str, ...], quiet: bool) -> None:
    """Bring an exported model into a registry that holds none of its name, with the same numbers and the same log.

    An interrupted import goes on where it was when it is repeated; nothing is to be seen under the name before all of it is
    there. Exit code 1: it is there, and its audit log does not verify.

    Example: sa2net registry import /backup/sa2net-2026-11-25.zip
    """
    from sa2net.errors import NegativeAnswerError
    from sa2net.registry import backup, store

    new_name = _checked(name) if name else ""
    signers = load(params, overrides).register.signers
    done = backup.restore(store.connect(), file, name=new_name, signers=signers, progress=not quiet)
    if not quiet:
        numbers = ", ".join(map(str, done.content.model.numbers)) or "none"
        click.echo(f"versions {numbers} of {done.name}, {len(done.runs)} runs (with new ids)")
        click.echo(f"aliases: {_aliases(done.content.model.aliases)}")
        click.echo(f"audit log: {len(done.log.chain)} entries, head {done.log.head_hash[:12] or 'none'}")
        for note in done.notes:
            click.echo(f"note: {note}")
    for fault in done.faults:
        click.echo(f"! {fault}")
    if done.faults:
        raise NegativeAnswerError(
            f"{done.name} is imported, and its audit log does not verify",
            evidence=done.faults[0],
            action=f"Once you know why: sa2net audit {done.name} --accept 'restored from the backup of DATE'.",
        )
    if not quiet:
        click.echo(f"now: sa2net audit {done.name}")


def _checked(name: str) -> str:
    return as_section(RegisterConfig, {"name": name}, source="--name").name


def _aliases(aliases: dict[str, int]) -> str:
    return ", ".join(f"{alias} {number}" for alias, number in aliases.items()) or "none"


def _summary(done: "Exported") -> str:
    model = done.content.model
    void = f", {done.log.void} void" if done.log.void else ""
    rows: list[tuple[str, ...]] = [
        ("what", "how many", "size", ""),
        ("versions", str(len(model.versions)), _size(done.version_bytes), ", ".join(map(str, model.numbers))),
        ("runs", str(len(done.runs)), _size(done.run_bytes), f"{done.points} values of metrics"),
        ("aliases", str(len(model.aliases)), "", _aliases(model.aliases)),
        ("audit log", str(len(done.log.chain)), "", f"head {done.log.head_hash[:12] or 'none'}{void}"),
    ]
    return f"{table(rows)}\n{done.file}: {done.files} files, {_size(done.size)}, manifest {done.identity[:12]}"


def _size(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
