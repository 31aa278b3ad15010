"""The cluster's Kubeflow Pipelines, as far as the commands here need it: the official client, kept on a lead.

By itself the client reads and writes `~/.config/kfp`, asks the server while it is being made, falls back to whatever
cluster `kubectl` points at, and prints. Here the environment's section and a few variables decide, and nothing else.
"""

import contextlib
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kfp
import kfp_server_api
from kfp.client import ServiceAccountTokenVolumeCredentials

from pipelines.environments import Environment
from pipelines.login import GOOGLE_SIGN_IN, TOKEN, authority, endpoint_of, in_the_clear, login
from pipelines.refusals import Address, RefusedError, clean
from pipelines.transport import RETRIES, Recorder, Transport
from sa2net.errors import ClusterError, ConfigError, Sa2NetError

log = logging.getLogger(__name__)
EQUALS = 1  # operation of a filter, as the API numbers them


class _QuietClient(kfp.Client):  # type: ignore[misc] # kfp is not typed
    """The official client without what it does on the side when it is made."""

    def _load_context_setting_or_default(self) -> None:
        self._context_setting = {"namespace": ""}  # not what an earlier command left in ~/.config/kfp

    def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:  # noqa: ARG002 - the client's own signature
        """Answers without asking, so that making a client sends nothing and writes no namespace into a file."""
        return kfp_server_api.V2beta1GetHealthzResponse(multi_user=False)


@dataclass(frozen=True)
class Cluster:
    """Kubeflow Pipelines of one environment.

    Attributes:
        client: The official client.
        address: For messages.
        environment: Where its runs live.
    """

    client: Any
    address: Address
    environment: Environment

    def experiment(self, name: str) -> str:
        """Id of an experiment, made if there is none.

        Raises:
            ClusterError: It cannot be had.
        """
        namespace = self.address.namespace or None
        with asked("an experiment", self.address):
            try:
                found = self.client.create_experiment(name, namespace=namespace)
            except RefusedError as error:
                if error.status != 409:  # somebody made it between the look and the making
                    raise
                found = self.client.get_experiment(experiment_name=name, namespace=namespace)
        return identifier(found, "experiment_id", self.address)

    def start(self, file: Path, experiment: str, name: str) -> str:
        """Start a run of a compiled pipeline.

        Returns:
            Id of the run.
        """
        with asked("a new run", self.address):
            run = self.client.run_pipeline(experiment, name, pipeline_package_path=str(file), **self._place())
        return identifier(run, "run_id", self.address)

    def schedule(self, file: Path, experiment: str, name: str, cron: str) -> str:
        """Start a run at every time of a schedule, one at a time; missed ones are not made up for.

        Returns:
            Id of the recurring run.
        """
        with asked("a recurring run", self.address):
            made = self.client.create_recurring_run(
                experiment,
                name,
                cron_expression=cron,
                max_concurrency=1,
                no_catchup=True,
                pipeline_package_path=str(file),
                **self._place(),
            )
        return identifier(made, "recurring_run_id", self.address)

    def schedules(self, experiment: str, name: str) -> list[str]:
        """Ids of the recurring runs with a name."""
        with asked("recurring runs", self.address):
            listed = self.client.list_recurring_runs(
                experiment_id=experiment, filter=by_name(name), page_size=100
            ).recurring_runs
            return [item.recurring_run_id for item in listed or [] if item.display_name == name]

    def unschedule(self, recurring_run: str) -> None:
        """Delete a recurring run; its runs stay."""
        with asked("a recurring run", self.address):
            self.client.delete_recurring_run(recurring_run)

    def upload(self, file: Path, name: str, version: str) -> tuple[str, str]:
        """Upload a compiled pipeline: as a new pipeline, or as a version of the one that has this name.

        Returns:
            Ids of the pipeline and of its version; the version is empty for a new pipeline.
        """
        namespace = self.address.namespace or None
        with asked("pipelines", self.address):
            listed = self.client.list_pipelines(namespace=namespace, filter=by_name(name), page_size=100).pipelines
            found = [item.pipeline_id for item in listed or [] if item.display_name == name]
            if not found:
                made = self.client.upload_pipeline(str(file), pipeline_name=name, namespace=namespace)
                return identifier(made, "pipeline_id", self.address), ""
            made = self.client.upload_pipeline_version(str(file), version, pipeline_id=found[0])
        return found[0], identifier(made, "pipeline_version_id", self.address)

    def run(self, run_id: str) -> Any:
        """A run as the server describes it."""
        with asked("a run", self.address):
            run = self.client.get_run(run_id)
        identifier(run, "run_id", self.address)
        return run

    def terminate(self, run_id: str) -> None:
        """Ask the server to end a run."""
        with asked("a run", self.address):
            self.client.terminate_run(run_id)

    def link(self, route: str) -> str:
        """A page of the user interface."""
        return f"{str(self.client._get_url_prefix()).rstrip('/')}/#/{route}"

    def _place(self) -> dict[str, Any]:
        environment = self.environment
        return {
            "pipeline_root": environment.pipeline_root or None,
            "service_account": environment.service_account or None,
        }


def connect(
    environment: Environment, *, ca: Path | None = None, seconds: float = 60.0, recorder: Recorder | None = None
) -> Cluster:
    """The Kubeflow Pipelines of an environment. Nothing is sent yet, and no file written.

    Args:
        environment: Names endpoint and namespace.
        ca: File of the authorities that may sign its certificate.
        seconds: Longest wait for an answer.
        recorder: Keeps the requests instead of sending them.

    Raises:
        ConfigError: Endpoint, login or authority cannot be used.
    """
    url, opened = endpoint_of(environment), login()
    address = Address(url, environment.namespace, opened.said_as)
    google = bool(os.environ.get(GOOGLE_SIGN_IN)) or (urlsplit(url).hostname or "").endswith("googleusercontent.com")
    if google and not opened.token:
        raise ConfigError(
            "sign-in through Google's proxy is not done here", action=f"Get a token there, and set {TOKEN}."
        )
    if in_the_clear(url, opened):
        log.warning("%s goes over the network unencrypted: the endpoint is http://", opened.said_as)
    # The namespace goes with each request; here the default keeps the client from looking for one.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # "only works with Kubeflow Pipelines 2"
        client = _QuietClient(
            host=url,
            existing_token=opened.token or None,
            cookies=opened.cookies or None,
            credentials=ServiceAccountTokenVolumeCredentials(str(opened.token_file)) if opened.token_file else None,
            ssl_ca_cert=authority(ca) or None,
        )
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # else it tells of every retry
    sender = client._run_api.api_client
    sender.rest_client.pool_manager.connection_pool_kw["retries"] = RETRIES
    sender.request = recorder or Transport(sender.request, address, seconds)
    return Cluster(client, address, environment)


@contextlib.contextmanager
def asked(what: str, address: Address) -> Iterator[None]:
    """Around a question to the server: the client's own prints are swallowed, and what it cannot read is said so.

    Raises:
        ClusterError: The answer has another form than the API's.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except Sa2NetError:
        raise
    except OSError as error:
        raise ClusterError(
            f"asking for {what} failed before it was sent",
            evidence=f"{type(error).__name__}: {error}",
            action=f"Check {address.login or 'the files that the command names'}.",
        ) from error
    except (TypeError, ValueError, AttributeError, LookupError, kfp_server_api.OpenApiException) as error:
        raise _malformed(what, address, f"{type(error).__name__}: {clean(str(error))[:150]}") from error


def identifier(answer: Any, name: str, address: Address) -> str:
    """An id of an answer.

    Raises:
        ClusterError: It has none: whoever answered is not Kubeflow Pipelines.
    """
    found = getattr(answer, name, None)
    if not isinstance(found, str) or not found:
        raise _malformed("an object", address, f"{name} is missing")
    return found


def by_name(name: str) -> str:
    """A filter of the API for one name."""
    return json.dumps({"predicates": [{"operation": EQUALS, "key": "display_name", "stringValue": name}]})


def _malformed(what: str, address: Address, evidence: str) -> ClusterError:
    return ClusterError(
        f"{address.url} answers the question for {what} in a form that is not the API's",
        evidence=evidence,
        action="Check the endpoint, and that the server is Kubeflow Pipelines 2.",
    )
