"""The review page's server: lists scans, answers with angles while levels are dragged, saves decisions, exports.

All angles come from the library; the page draws and sends levels.
"""

import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from fastapi import FastAPI, HTTPException
from fastapi.requests import Request
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.background import BackgroundTask
from starlette.types import ASGIApp

from sa2net.config import MeasureConfig
from sa2net.errors import Sa2NetError
from sa2net.review.data_set import write_data_set
from sa2net.review.decisions import Edit, Save, make_review, read_edit, saved_version, saved_versions
from sa2net.review.exports import reviewed, table, to_pdf
from sa2net.review.guard import Guard
from sa2net.review.masks import corrected_mask
from sa2net.review.reading import Reading
from sa2net.review.results import Results, mask_as_png
from sa2net.review.store import ConflictError, latest_review, save_review

STATIC = Path(__file__).parent / "static"
_DATA_SET = "scoliosis3classes"
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_FILES = {path.name: path for path in sorted(STATIC.iterdir()) if path.suffix in _KINDS}

T = TypeVar("T")


def make_app(
    results: Results, *, token: str, hosts: tuple[str, ...], cfg: MeasureConfig, subjects: Path | None = None
) -> ASGIApp:
    """The application, guarded.

    Args:
        results: What `sa2net measure` wrote.
        token: Secret of the link.
        hosts: Values of the `Host` header that are this server's.
        cfg: Limits of refusal for levels that were moved.
        subjects: Table that names the subject of each scan, for the data set; None = none is known.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(Sa2NetError, _say)
    for address, page in {"/": "list.html", "/scan/{scan_id}": "scan.html"}.items():
        app.add_api_route(address, _page(page), methods=["GET"])
    app.add_api_route("/favicon.ico", lambda: Response(status_code=204), methods=["GET"])
    app.add_api_route("/static/{name}", lambda name: _file(name), methods=["GET"])
    _add_scans(app, results, cfg)
    _add_exports(app, results, subjects)
    return Guard(app, token=token, hosts=hosts)


def _add_scans(app: FastAPI, results: Results, cfg: MeasureConfig) -> None:
    @app.get("/api/scans")
    def scans() -> list[dict[str, Any]]:
        return [_row(results, scan_id, name) for scan_id, name in results.names.items()]

    @app.get("/api/scans/{scan_id}")
    def scan(scan_id: str) -> dict[str, Any]:
        name, ids = _one(results.names, scan_id), list(results.names)
        place = ids.index(scan_id)
        found, measured = latest_review(results.root, name), results.measured(name)
        return {
            "name": name,
            "measurement": measured.measurement.model_dump(mode="json"),
            "review": found.review.model_dump(mode="json") if found.review else None,
            "measured_again": found.review is not None and found.review.measure_sha256 != measured.sha256,
            "versions": saved_versions(results, name, measured),
            "opened": found.newest,
            "problems": found.problems,
            "before": ids[place - 1] if place else None,
            "after": ids[place + 1] if place + 1 < len(ids) else None,
        }

    pictures = {"scan": results.scan_png, "mask": results.mask_png, "thumbnail": results.thumbnail}

    @app.get("/api/scans/{scan_id}/{picture}.png")
    def picture(scan_id: str, picture: str) -> Response:
        return Response(_one(pictures, picture)(_one(results.names, scan_id)), media_type="image/png")

    @app.post("/api/scans/{scan_id}/angles")
    def angles(scan_id: str, edit: Edit) -> dict[str, Any]:
        name = _one(results.names, scan_id)
        return _reading_json(read_edit(results, name, results.measured(name), edit, cfg))

    @app.post("/api/scans/{scan_id}/mask")
    def mask(scan_id: str, edit: Edit) -> Response:
        name = _one(results.names, scan_id)
        measurement = results.measured(name).measurement
        content = mask_as_png(corrected_mask(results.mask(name), measurement, edit.levels))
        return Response(content, media_type="image/png")

    @app.get("/api/scans/{scan_id}/reviews/{version}")
    def version(scan_id: str, version: int) -> dict[str, Any]:
        name = _one(results.names, scan_id)
        return saved_version(results, name, results.measured(name), version).model_dump(mode="json")

    @app.post("/api/scans/{scan_id}/reviews")
    def save(scan_id: str, given: Save) -> JSONResponse:
        name = _one(results.names, scan_id)
        measured = results.measured(name)
        review = make_review(results, name, measured, given, cfg)
        try:
            save_review(results.root, name, review, opened=given.opened)
        except ConflictError as error:
            return JSONResponse({"error": str(error), "newest": error.newest}, 409)
        return JSONResponse({"version": review.version, "saved_at": review.saved_at.isoformat()}, 201)


def _add_exports(app: FastAPI, results: Results, subjects: Path | None) -> None:
    @app.get("/api/review.csv")
    def csv_table() -> Response:
        return _download(table(reviewed(results)).encode(), "review.csv", "text/csv; charset=utf-8")

    @app.get("/api/review.pdf")
    def pdf() -> Response:
        return _download(to_pdf(results, reviewed(results)), "review.pdf", "application/pdf")

    @app.get(f"/api/{_DATA_SET}.zip")
    def data_set() -> Response:
        folder = tempfile.TemporaryDirectory(prefix="sa2net-review-")
        try:
            written = Path(folder.name) / _DATA_SET
            write_data_set(results.root, written, subjects=subjects)
            packed = written.with_suffix(".zip")
            with zipfile.ZipFile(packed, "w") as archive:  # pictures are packed already
                for path in sorted(item for item in written.rglob("*") if item.is_file()):
                    archive.write(path, path.relative_to(folder.name))
        except BaseException:
            folder.cleanup()
            raise
        return FileResponse(
            packed, media_type="application/zip", filename=packed.name, background=BackgroundTask(folder.cleanup)
        )


def _reading_json(reading: Reading) -> dict[str, Any]:
    return {
        "measurement": reading.measurement.model_dump(mode="json"),
        "chosen": [{**asdict(item), "curve": item.curve.model_dump()} for item in reading.chosen],
    }


def _row(results: Results, scan_id: str, name: str) -> dict[str, Any]:
    """One line of the list; what cannot be read is said in it."""
    found = latest_review(results.root, name)
    row: dict[str, Any] = {
        "id": scan_id,
        "name": name,
        "decision": found.review.decision if found.review else "",
        "reader": found.review.reader if found.review else "",
        "problems": list(found.problems),
    }
    try:
        measurement = results.measured(name).measurement
    except Sa2NetError as error:
        return row | {"status": "damaged", "angle": None, "interval": None, "warnings": 0, "problems": [str(error)]}
    largest = measurement.largest
    reviewed_angle = max((curve.angle_deg for curve in found.review.curves), default=None) if found.review else None
    return row | {
        "status": measurement.status,
        "angle": largest.angle_deg if largest else None,
        "interval": largest.interval_90_deg if largest else None,
        "reviewed": reviewed_angle,
        "warnings": len(measurement.warnings) + len(measurement.refusals),
    }


def _one(known: Mapping[str, T], key: str) -> T:
    """What an address names."""
    if key not in known:
        raise HTTPException(404, "there is no such page or scan")
    return known[key]


def _page(name: str) -> Callable[[], Response]:
    return lambda: _file(name)


def _file(name: str) -> Response:
    path = _one(_FILES, name)
    return Response(path.read_bytes(), media_type=f"{_KINDS[path.suffix]}; charset=utf-8")


def _download(content: bytes, name: str, kind: str) -> Response:
    return Response(content, media_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'})


def _say(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": str(error)}, 422)
