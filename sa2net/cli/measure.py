"""Curve angles, as a JSON, a picture and a table."""

from pathlib import Path

import click

from sa2net.cli.options import PATH, cli, counted, load, model_option, quiet_option


class _SpacingOfOneOrTwo(click.Command):
    """`--spacing S` for square pixels, `--spacing X Y` for others: click alone knows a fixed count only."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        joined: list[str] = []
        rest = list(args)
        while rest:
            argument = rest.pop(0)
            joined.append(argument)
            if argument == "--spacing" and len(rest) > 1 and _is_number(rest[0]) and _is_number(rest[1]):
                joined.append(f"{rest.pop(0)} {rest.pop(0)}")
        return super().parse_args(ctx, joined)


class _Spacing(click.ParamType[tuple[float, float]]):
    """One or two sizes in mm."""

    name = "S|X Y"

    def convert(
        self, value: str | tuple[float, float], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float]:
        if isinstance(value, tuple):
            return value
        parts = value.split()
        if len(parts) not in (1, 2) or not all(_is_number(part) for part in parts):
            self.fail(f"{value!r} is neither one size in mm nor two", param, ctx)
        return float(parts[0]), float(parts[-1])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@cli.command(cls=_SpacingOfOneOrTwo)
@click.argument("scans", nargs=-1, required=True)
@click.option(
    "--out", type=PATH, required=True, help="Folder to write: JSON, picture, mask and scan of each, measure.csv."
)
@click.option(
    "--spacing",
    type=_Spacing(),
    default=None,
    help="Pixel size in mm: one for square pixels, or x and y. DICOM files say it.",
)
@click.option("--masks", type=PATH, default=None, help="Folder of label maps (NAME_bone_3.png) to measure instead.")
@model_option
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="evaluate.KEY=VALUE",
    help="mode, scales, flip, device, threads, and the limits of refusal: evaluate.measure.KEY.",
)
@click.option("--params", type=PATH, default=None, help="Settings file; default: params.yaml here, where there is one.")
@click.option(
    "--dicom", is_flag=True, help="DICOM scans: also NAME.seg.dcm and NAME.sr.dcm. They hold who was scanned."
)
@quiet_option
def measure(
    scans: tuple[str, ...],
    out: Path,
    spacing: tuple[float, float] | None,
    masks: Path | None,
    model: str | None,
    overrides: tuple[str, ...],
    params: Path | None,
    dicom: bool,
    quiet: bool,
) -> None:
    """Measure curve angles in scans, with an uncertainty, or say why not. Ultrasound angles, not Cobb. Research use only.

    SCANS are files (PNG, DICOM), folders or globs. A bad file among good ones is reported, the others are done. Exit code 1: every
    scan was refused.

    Example: sa2net measure scan.png --spacing 0.18 --out angles
    """
    from sa2net.registry.versions import default_model, resolve
    from sa2net.steps import measure as step

    cfg = load(params, overrides).evaluate
    if masks is None:
        model = model or default_model()
    done = step.run(
        scans,
        out,
        cfg=cfg,
        model=None if model is None or masks is not None else resolve(model),
        masks=masks,
        spacing_mm=spacing,
        model_name=model or "",
        dicom=dicom,
        progress=not quiet,
    )
    if not quiet:
        click.echo(f"{counted(done.measured)} measured, {done.refused} refused, into {out}")
