"""What a step tells MLflow, so that it survives an MLflow that is away.

While the server is out of reach, everything goes to the spool and is sent in order, with its original times, as soon
as the server answers again.
"""

import json
import logging
import math
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

from sa2net.errors import StorageError
from sa2net.registry import alive, environment, spool, store
from sa2net.registry.runs import Status
from sa2net.registry.spool import Call, Spool

log = logging.getLogger(__name__)

FIRST_PAUSE = 30.0
"""Seconds without an attempt after the server was found out of reach; doubled each time, up to `LAST_PAUSE`."""
LAST_PAUSE = 300.0
LONGEST_VALUE = 500
LONGEST_TAG = 5000


class Tracker:
    """What a step tells MLflow. Safe to use from several threads; no call raises because MLflow is away or refuses."""

    def __init__(self, journal: Spool) -> None:
        self._spool = journal
        self._lock = threading.RLock()
        self._retry_at = 0.0
        self._pause = FIRST_PAUSE
        self._away = False
        self.started = journal.header.start / 1000

    @property
    def key(self) -> str:
        """Name of this run that is known from the start, even while the server is away (tag `sa2net.key`)."""
        return self._spool.header.key

    @property
    def run_id(self) -> str:
        """The MLflow run; empty as long as the server was away from the start."""
        return self._spool.header.run_id

    @property
    def parent_id(self) -> str:
        """The run of the whole execution; empty if the step stands alone."""
        return self._spool.header.parent_id

    @property
    def step(self) -> str:
        """Name of the step."""
        return self._spool.header.step

    @property
    def uri(self) -> str:
        """Address of the run for MLflow's own tools."""
        return f"runs:/{self.run_id}" if self.run_id else ""

    @property
    def pending(self) -> int:
        """Calls that MLflow has not got yet."""
        return len(self._spool.pending)

    def log_metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log numbers.

        Args:
            values: Name -> value.
            step: Position on the curve, for example the epoch.
        """
        self._tell("metrics", {"values": {name: float(value) for name, value in values.items()}, "step": int(step)})

    def log_headline(self, values: Mapping[str, float], step: int = 0) -> None:
        """Log the few numbers by which whole executions are compared: to this run and to its parent."""
        self._tell("headline", {"values": {name: float(value) for name, value in values.items()}, "step": int(step)})

    def log_params(self, tree: Mapping[str, Any]) -> None:
        """Log settings under dotted names; values longer than 500 characters are cut, and the whole is kept as a file."""
        flat = flatten(tree)
        short = {name: value if len(value) <= LONGEST_VALUE else value[:499] + "…" for name, value in flat.items()}
        self._tell("params", short)
        if short != flat:
            self.log_text(json.dumps(tree, indent=2, sort_keys=True, default=str) + "\n", "params.json")

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags; a value is cut after 5000 characters."""
        self._tell("tags", {name: str(value)[:LONGEST_TAG] for name, value in tags.items()})

    def log_file(self, path: Path, folder: str = "") -> None:
        """Store a file with the run.

        Args:
            path: The file.
            folder: Where it lies inside the run.
        """
        if not path.is_file():
            raise FileNotFoundError(path)
        self._tell("file", {"path": str(path.resolve()), "folder": folder})

    def log_folder(self, path: Path, folder: str = "") -> None:
        """Store the content of a folder with the run, under `folder` or the folder's own name."""
        if not path.is_dir():
            raise NotADirectoryError(path)
        self._tell("file", {"path": str(path.resolve()), "folder": folder or path.name})

    def log_text(self, text: str, file: str) -> None:
        """Store a text as `file` (a relative path) with the run."""
        place = Path(file)
        with tempfile.TemporaryDirectory(prefix="sa2net-") as scratch:
            path = Path(scratch) / place.name
            path.write_text(text, encoding="utf-8")
            self.log_file(path, "" if place.parent == Path() else place.parent.as_posix())

    def log_picture(self, path: Path, policy: Literal["local", "always", "never"], folder: str = "pictures") -> bool:
        """Store a picture of a scan, or a page that holds some, if the policy lets it go there.

        Args:
            path: The picture.
            policy: `local` stores it only if both the tracking store and its artifacts are on this machine (SQLite, a
                file, a server on the loopback address). What a loopback server does with it is not seen.
            folder: Where it lies inside the run.

        Returns:
            Whether it was handed over.
        """
        if policy == "never" or (policy == "local" and not self._keeps_pictures_here()):
            return False
        self.log_file(path, folder)
        return True

    def write_run_json(self, out: Path, **more: Any) -> None:
        """Write `run.json` into a folder; see `sa2net.registry.environment.write_run_json`."""
        environment.write_run_json(out, self, **more)

    def _keeps_pictures_here(self) -> bool:
        if not store.is_local(self._spool.header.uri):
            return False
        with self._lock:
            if not self.run_id:
                return False
            try:
                artifacts = store.client_for(store.tracking_uri()).get_run(self.run_id).info.artifact_uri
            except Exception as error:
                if not store.is_outage(error):
                    raise
                return False
        return artifacts.startswith("mlflow-artifacts:") or store.is_local(artifacts)

    def _tell(self, kind: str, content: dict[str, Any]) -> None:
        call = Call(kind, int(time.time() * 1000), content)
        with self._lock:
            if not self._spool.pending and self.run_id and time.monotonic() >= self._retry_at:
                if self._attempt(call):
                    return
            elif time.monotonic() >= self._retry_at and self._attempt(None) and self._attempt(call):
                return
            self._keep(call)

    def _attempt(self, call: Call | None) -> bool:
        """Send one call, or with None everything that is pending; False while the store is away."""
        uri = store.tracking_uri()
        try:
            if not store.reachable(uri):
                raise ConnectionError(f"{store.public_uri(uri)} does not answer")
            client = store.client_for(uri)
            if call is None:
                self._spool.send(client)
            else:
                spool.perform(client, self._spool.header, call)
        except Exception as error:
            if call is not None and store.is_refused(error):
                self._spool.set_aside(call, error)
                return True
            if not store.is_outage(error) and not isinstance(error, StorageError):
                raise
            self.lost(error)
            return False
        if self._away:
            log.warning("MLflow is back; everything that it missed was sent")
        self._away, self._pause = False, FIRST_PAUSE
        return True

    def show_life(self) -> None:
        """Tell MLflow that this process lives, and send what is pending; nothing while the server is away."""
        with self._lock:
            if time.monotonic() < self._retry_at or (
                (self._spool.pending or not self.run_id) and not self._attempt(None)
            ):
                return
            try:
                alive.show_life(store.client_for(store.tracking_uri()), self._spool.header)
            except Exception as error:
                if store.is_outage(error):
                    self.lost(error)
                else:  # somebody deleted the run
                    log.debug("no sign of life: %s", error)

    def lost(self, error: Exception) -> None:
        """Note that the store is away: one warning, and no attempt for a while."""
        if not self._away:
            reason = " ".join(str(error).split())[:300]
            log.warning("MLflow cannot be reached, the step goes on and sends the rest later: %s", reason)
        else:
            self._pause = min(self._pause * 2, LAST_PAUSE)
        self._away = True
        self._retry_at = time.monotonic() + self._pause

    def _keep(self, call: Call) -> None:
        if call.kind == "file":
            copy = self._spool.keep_file(Path(call.content["path"]))
            call = Call(call.kind, call.time, {**call.content, "path": str(copy)})
        self._spool.append(call)

    def end(self, status: Status, message: str = "") -> None:
        """End the run and send what is still pending; if the server is still away, the spool stays for the next step."""
        with self._lock:
            content = {"status": status, "message": message[:LONGEST_TAG]}
            self._spool.append(Call("end", int(time.time() * 1000), content))
            self._retry_at = 0.0
            if self._attempt(None):
                self._spool.delete()
                return
            self._spool.release()
            log.warning(
                "MLflow is still away: %d entries of step %s wait in %s; the next step sends them",
                self.pending,
                self.step,
                self._spool.folder,
            )


class Heartbeat:
    """Shows from a thread of its own that the process lives, so that nobody takes the run for dead."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="sign-of-life")

    def _beat(self) -> None:
        while not self._stop.wait(alive.BEAT):
            self._tracker.show_life()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=10.0)


class SystemMetrics(SystemMetricsMonitor):  # type: ignore[misc]
    """MLflow's sampler of processor, memory, disk, network and GPU, told to a tracker: an outage does not end it."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__(run_id="", tracking_uri=store.tracking_uri())
        self._tracker = tracker
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True, name="system-metrics")

    def _sample(self) -> None:
        step = 0
        while True:
            self.collect_metrics()
            waited = self._stop.wait(self.sampling_interval)
            values = {f"system/{name}": value for name, value in self.aggregate_metrics().items()}
            self._tracker.log_metrics({name: value for name, value in values.items() if math.isfinite(value)}, step)
            for monitor in self.monitors:
                monitor.clear_metrics()
            step += 1
            if waited:
                return

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=10.0)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A tree of settings as dotted names with text values; lists become JSON."""
    flat: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            text = json.dumps(list(value)) if isinstance(value, (list, tuple)) else str(value)
            flat[prefix + name] = text
    return flat
