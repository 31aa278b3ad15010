"""The data contract, run: the checks as a Great Expectations suite over the manifest.

The only home of great_expectations. It is imported when a suite runs (that takes seconds), lives in an ephemeral
context, and reports nothing to anybody.
"""

import logging
import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sa2net.anatomy import FOREGROUND
from sa2net.artifacts import CheckResult, DataBounds
from sa2net.config import ValidateConfig
from sa2net.data.checks import Check, all_checks
from sa2net.data.manifest import Row, flat, flat_columns, near_duplicates
from sa2net.data.survey import LISTED, Survey

_NAMED = 3  # copies that are named beside a scan


def run_contract(
    survey: Survey,
    rows: Sequence[Row],
    cfg: ValidateConfig,
    bounds: DataBounds | None,
    *,
    data_docs: Path | None = None,
) -> list[CheckResult]:
    """Hold a data set against its contract.

    Args:
        survey: What its lists and folders hold.
        rows: Its manifest.
        cfg: Labels, limits and distances.
        bounds: Ranges learnt from train; None where train could not be read (then they are not checked).
        data_docs: Folder for GX's Data Docs; its pages load scripts from outside, hence on demand only.

    Returns:
        One result per check, in the order of the page.
    """
    scans = scan_table(rows, cfg)
    supports = pd.DataFrame(
        [(item.file, item.problem, item.cure, None if item.problem else item.scans) for item in survey.supports],
        columns=["file", "problem", "cure", "filled"],
    )
    held_out = scans[(scans["split"] != "train") & (scans["place"] == LISTED)]
    tables = {"supports": supports, "scans": scans, "held_out": held_out}
    checks = [check for check in all_checks(cfg, bounds) if len(tables[check.table])]
    outcomes = _expect(tables, checks, data_docs)
    return [_result(check, tables[check.table], outcomes[check.name]) for check in checks]


def scan_table(rows: Sequence[Row], cfg: ValidateConfig) -> pd.DataFrame:
    """The manifest as a frame, with the columns that compare scans with each other.

    Text columns that explain a fault are empty where there is none; number columns are NaN where a check does not apply.
    """
    table = pd.DataFrame([flat(row) for row in rows], columns=flat_columns())
    listed = [row.place == LISTED for row in rows]
    table["key"] = [
        unicodedata.normalize("NFC", row.name).casefold() if known else None
        for row, known in zip(rows, listed, strict=True)
    ]
    pixels = table[[f"pixels_{item.name}" for item in FOREGROUND]].astype(float)
    table["foreground"] = pixels.sum(axis=1, min_count=1)
    for item in FOREGROUND:  # an empty mask is one fault, not four
        table[f"required_{item.name}"] = pixels[f"pixels_{item.name}"].where(table["foreground"] > 0)
    table["spacing_missing"] = [
        "no spacing" if known and not row.name_problem and row.spacing_x_mm is None else ""
        for row, known in zip(rows, listed, strict=True)
    ]
    table["subject_splits"], table["subject_leak"] = _subject_columns(rows)
    for column, texts in _copy_columns(rows, cfg.near_duplicate_distance).items():
        table[column] = texts
    return table


def _subject_columns(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    splits: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.subject:
            splits[row.subject].add(row.split)
    words = [" and ".join(sorted(splits[row.subject])) if row.subject else "" for row in rows]
    return words, [text if " and " in text else "" for text in words]


def _copy_columns(rows: Sequence[Row], distance: int) -> dict[str, list[str]]:
    """For each scan the others that it copies, exactly or nearly, inside its split and across."""
    found: dict[str, list[list[str]]] = {
        name: [[] for _ in rows]
        for name in ("copies_across", "copies_inside", "near_across", "near_inside", "shared_mask")
    }

    def note(kind: str, first: int, second: int) -> None:
        found[kind][first].append(rows[second].scan)
        found[kind][second].append(rows[first].scan)

    for first, second in _equal_pairs(rows, lambda row: row.scan_sha256):
        note("copies_inside" if rows[first].split == rows[second].split else "copies_across", first, second)
    for first, second in near_duplicates([row.phash for row in rows], distance):
        one, other = rows[first], rows[second]
        if one.scan_sha256 != other.scan_sha256:
            note("near_inside" if one.split == other.split else "near_across", first, second)
    for first, second in _equal_pairs(rows, lambda row: row.mask_sha256 if any(row.pixels) else ""):
        if rows[first].scan_sha256 != rows[second].scan_sha256:
            note("shared_mask", first, second)
    return {name: [_some(names) for names in columns] for name, columns in found.items()}


def _equal_pairs(rows: Sequence[Row], key: Callable[[Row], str]) -> list[tuple[int, int]]:
    """Each row with the first one of the same key; a file that is listed twice is no copy of itself."""
    first: dict[str, int] = {}
    pairs = []
    for index, row in enumerate(rows):
        if not key(row):
            continue
        earlier = first.setdefault(key(row), index)
        if rows[earlier].scan != row.scan:
            pairs.append((earlier, index))
    return pairs


def _some(names: Sequence[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _expect(
    tables: Mapping[str, pd.DataFrame], checks: Sequence[Check], data_docs: Path | None
) -> dict[str, tuple[bool, list[int]]]:
    """Run one suite per table; check name -> (passed, positions of the offending rows)."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read by the releases that still post usage
    import great_expectations as gx
    from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults

    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    settings = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        analytics_enabled=False,
        progress_bars={"globally": False, "metric_calculations": False},
    )
    context = gx.get_context(mode="ephemeral", project_config=settings)
    source = context.data_sources.add_pandas("data_set")
    outcomes: dict[str, tuple[bool, list[int]]] = {}
    for name in dict.fromkeys(check.table for check in checks):
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("all")
        expectations = [_expectation(gx, check) for check in checks if check.table == name]
        suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations))
        definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
        table = tables[name].reset_index(drop=True)
        outcome = definition.run(batch_parameters={"dataframe": table}, result_format={"result_format": "COMPLETE"})
        outcomes |= dict(_outcome(result) for result in outcome.results)
    if data_docs is not None:
        _write_data_docs(context, data_docs)
    return outcomes


def _expectation(gx: Any, check: Check) -> Any:
    return getattr(gx.expectations, check.expectation)(
        **check.settings,
        meta={"check": check.name},
        notes=f"{check.says} {check.cure}",
        severity="critical" if check.severity == "failure" else "warning",
    )


def _outcome(result: Any) -> tuple[str, tuple[bool, list[int]]]:
    name = result.expectation_config.meta["check"]
    info = result.exception_info
    for raised in [info] if "raised_exception" in info else info.values():
        if raised["raised_exception"]:
            raise RuntimeError(f"the check {name} could not be run: {raised['exception_message']}")
    return name, (bool(result.success), list(result.result.get("unexpected_index_list") or []))


def _result(check: Check, table: pd.DataFrame, outcome: tuple[bool, list[int]]) -> CheckResult:
    passed, positions = outcome
    records = table.iloc[positions].to_dict(orient="records") if positions else []
    offenders = dict.fromkeys(
        check.detail.format(**{str(key): value for key, value in record.items()}) for record in records
    )
    return CheckResult(
        name=check.name,
        says=check.says,
        severity=check.severity,
        passed=passed,
        offenders=tuple(offenders),
        cure="" if passed else check.cure,
    )


def _write_data_docs(context: Any, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    store = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder.resolve())}
    index = {"class_name": "DefaultSiteIndexBuilder"}
    context.add_data_docs_site(
        site_name="sa2net",
        site_config={"class_name": "SiteBuilder", "store_backend": store, "site_index_builder": index},
    )
    context.build_data_docs(site_names=["sa2net"])
