"""The DVC remote: does it answer, and does it hold every object of the data set? Found by listing, not by pulling."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sa2net.data.store import dvc
from sa2net.data.store.cache import object_name
from sa2net.data.store.objects import MissingObjectError, ObjectStore, local_path, open_store
from sa2net.data.store.pointer import Pointer, parse_listing
from sa2net.errors import Sa2NetError
from sa2net.steps.doctor.bucket import endpoint_of_environment, explain, server_fault
from sa2net.steps.doctor.dataset import read_pointer
from sa2net.steps.doctor.findings import Finding, Options, fail, note, ok

_AT_ONCE = 16
"""Listings at once: one for each of the up to 256 folders that DVC spreads objects over."""

_PUSH = "dvc push from a machine that has this data set."


def check_dvc(options: Options) -> Finding:
    """Whether the DVC remote answers and holds all that the pointer names."""
    if not options.pointer.exists():
        return note(f"no {options.pointer} here", "Run this in the project's folder, or name it with --pointer.")
    pointer = read_pointer(options.pointer)
    settings = remote_in_use(options)
    if not settings and options.dvc_remote:
        return fail(f"no DVC remote {options.dvc_remote} is configured here", "`dvc remote list` names them.")
    if not settings:
        return note(
            f"{options.pointer} names no remote that is configured here",
            "dvc remote add NAME s3://BUCKET/PREFIX, and `remote: NAME` in the pointer; or --dvc-remote",
        )
    address = settings["remote"]
    if address.startswith("s3://"):
        fault = server_fault(settings.get("endpoint_url") or endpoint_of_environment(), options.patience)
    else:
        fault = _folder_fault(address)
    return fault or compare(pointer, settings)


def _folder_fault(address: str) -> Finding | None:
    if "://" in address and not address.startswith("file://"):
        return note(f"{address}: only s3:// and folders are looked into", "dvc status --cloud asks the others.")
    if not local_path(address).is_dir():
        return fail(f"the remote folder {address} is not there", "Mount it, or correct .dvc/config.")
    return None


def compare(pointer: Pointer, settings: dict[str, str]) -> Finding:
    """What a remote lacks of a data set.

    Args:
        pointer: Of the data set.
        settings: Address of the remote as `remote`, and maybe `endpoint_url` and `region`.
    """
    address, connection = settings["remote"], {key: settings[key] for key in settings.keys() - {"remote"}}
    step = "read"
    try:
        store = open_store(address, retries=0, connections=_AT_ONCE, **connection)  # type: ignore[arg-type]
        files = parse_listing(store.read(object_name(pointer.md5)), pointer)
        step = "list"
        wanted = {object_name(file.md5) for file in files}
        missing = wanted - present(store, {name.rpartition("/")[0] for name in wanted})
    except MissingObjectError:
        return fail(f"{address} does not hold this data set ({pointer.md5[:8]})", _PUSH)
    except Sa2NetError as error:
        return explain(address, step, error)
    if missing:
        return fail(f"{address} lacks {len(missing)} of {len(wanted)} objects of {pointer.name}", _PUSH)
    return ok(f"{address} holds all {len(wanted)} objects of {pointer.name} ({pointer.md5[:8]})")


def present(store: ObjectStore, folders: set[str]) -> set[str]:
    """Names of the objects in these folders of a store."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        listings = pool.map(lambda folder: [item.name for item in store.list(f"{folder}/")], sorted(folders))
        return {name for names in listings for name in names}


def remote_in_use(options: Options) -> dict[str, str]:
    """Address (`remote`), `endpoint_url` and `region` of the remote; empty where there is none."""
    chosen = options.dvc_remote
    if "://" in chosen or (chosen and Path(chosen).is_dir()):
        return {"remote": chosen, "endpoint_url": options.endpoint_url, "region": options.region}
    return dvc.remote_settings(options.pointer, chosen)
