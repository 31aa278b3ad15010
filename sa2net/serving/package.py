"""A version, checked and wrapped again, for servers that must not run what lies in the artifact store.

`mlflow models serve -m models:/NAME@champion` runs the code that was stored with the version: whoever can change the
artifact store can run code on the server. Here only weights and JSON are fetched, held against the sha256 in the
registry, and wrapped with the code that is installed on this machine. What is served from that folder has no more
need of the registry, nor of its credentials.
"""

import tempfile
from pathlib import Path

import yaml

from sa2net.artifacts import check_replaceable
from sa2net.errors import StorageError
from sa2net.registry import store
from sa2net.registry.packaging import write_package
from sa2net.registry.versions import SHA_TAG, Version, find_number, resolve, with_alias
from sa2net.serving.answers import VERSION_FILE


def write_checked(model: str, out: Path) -> Path:
    """Write an MLflow model that `mlflow models serve -m OUT` can serve.

    Args:
        model: `models:/NAME@ALIAS`, `models:/NAME/NUMBER` or a model folder.
        out: Folder that does not exist yet, or is empty.

    Returns:
        The folder.

    Raises:
        ConfigError: Neither a model folder nor an address of a version.
        DataError: `out` holds files.
        StorageError: No such version, or it cannot be fetched or checked, or it was changed since it was registered.
    """
    check_replaceable(out, ())
    version = _find(model)
    if version is not None and not version.model_sha256:
        raise StorageError(
            f"{version.uri} cannot be checked",
            evidence=f"it has no tag {SHA_TAG}",
            action="Serve a version that `register` made, or a model folder that you trust.",
        )
    folder = resolve(version.uri if version else model)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        package = Path(scratch) / "package"
        write_package(folder, package)
        if version is not None:
            meta = {"model_name": version.name, "model_version": str(version.number)}
            (package / VERSION_FILE).write_text(yaml.safe_dump(meta), encoding="utf-8")
        package.replace(out)
    return out


def _find(model: str) -> Version | None:
    """The version that an address means now; None where there is none, or it is a folder: `resolve` says what to do."""
    if not model.startswith("models:/"):
        return None
    named, _, alias = model.removeprefix("models:/").partition("@")
    name, _, number = named.rpartition("/")
    with store.storage_errors(f"give {model}"):
        if alias:
            return with_alias(store.connect(), named, alias)
        return find_number(store.connect(), name, int(number)) if name and number.isdecimal() else None
