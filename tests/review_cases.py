"""A folder of measurements to review, and a running review page."""

import http.client
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from spine_cases import draw

from sa2net.artifacts import write_json
from sa2net.config import MeasureConfig
from sa2net.data.pictures import write_png
from sa2net.review.results import Results
from sa2net.review.server import review_server
from sa2net.scoliosis import Source, measure
from sa2net.scoliosis.folder import RESULT, mask_file, scan_file

HOSTILE = ("'quoted' \"twice\"", "<img src=x onerror=alert(1)>", "-rf", "größe 日本", "=1+1", "%2e%2e%2f")


def write_results(
    folder: Path, names: Sequence[str] = ("mild", "severe"), angles: Sequence[float] = (18.0, 48.0)
) -> Path:
    """What `sa2net measure --masks` writes of drawn spines at full scale."""
    for seed, (name, angle) in enumerate(zip(names, angles, strict=True)):
        drawn = draw(seed, angle)
        measurement = measure(
            drawn.mask, scan=drawn.scan, cfg=MeasureConfig(), spacing_mm=(0.18, 0.18), source=Source(scan=f"{name}.png")
        )
        write_png(scan_file(folder, name), drawn.scan)
        write_png(mask_file(folder, name), drawn.mask)
        write_json(folder / f"{name}{RESULT}", measurement.model_dump(mode="json"))
    return folder


def copy_results(folder: Path, source: Path, names: Sequence[str]) -> Path:
    """Many scans that share the measurement of one, with small pictures."""
    content = json.loads((source / "mild.measure.json").read_text(encoding="utf-8"))
    picture = np.full((60, 20), 90, np.uint8)
    for name in names:
        write_png(scan_file(folder, name), picture)
        write_png(mask_file(folder, name), np.zeros_like(picture))
        write_json(folder / f"{name}{RESULT}", content)
    return folder


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The page, running; yields its link."""
    with review_server(Results(folder), MeasureConfig()) as running:
        thread = threading.Thread(target=running.run, daemon=True)
        thread.start()
        deadline = time.monotonic() + 30
        while not running.server.started and time.monotonic() < deadline:
            time.sleep(0.02)
        yield running.link
        running.server.should_exit = True
        thread.join(10)


class Reader:
    """A client with the cookie of the link."""

    def __init__(self, link: str) -> None:
        self.parts = urlsplit(link)
        status, headers, _ = self.ask("GET", f"{self.parts.path}?{self.parts.query}", cookie="")
        assert status == 303, status
        self.cookie = headers["set-cookie"].partition(";")[0]

    def ask(
        self, method: str, path: str, content: Any = None, *, cookie: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (names in lower case) and body of an answer."""
        connection = http.client.HTTPConnection(self.parts.hostname or "", self.parts.port, timeout=30)
        sent = {"Cookie": self.cookie if cookie is None else cookie, **headers}
        body = None
        if content is not None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            sent = {"Content-Type": "application/json", **sent}
        try:
            connection.request(method, path, body=body, headers=sent)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """The JSON of an answer that must be good."""
        status, _, body = self.ask("GET", path)
        assert status == 200, (status, body)
        return json.loads(body)

    def scans(self) -> dict[str, dict[str, Any]]:
        """The rows of the list by name."""
        return {row["name"]: row for row in self.get("/api/scans")}


def edit_of(scan: dict[str, Any], **more: Any) -> dict[str, Any]:
    """What the page sends of the levels as they were measured."""
    levels = [
        {"origin": index, **{key: level[key] for key in ("kind", "middle", "left", "right")}}
        for index, level in enumerate(scan["measurement"]["levels"])
    ]
    return {"levels": levels, "chosen": [], **more}
