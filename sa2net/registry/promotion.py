"""Aliases of the registered model.

`champion` is the version in use and moves only when the gate says so, `previous` is the champion before it, `candidate`
the newest version.
"""

from mlflow import MlflowClient

from sa2net.registry.versions import Version, with_alias

__all__ = [
    "ALIASES",
    "CANDIDATE",
    "CHAMPION",
    "PREVIOUS",
    "aliases_of",
    "make_candidate",
    "make_champion",
    "with_alias",
]

CHAMPION = "champion"
PREVIOUS = "previous"
CANDIDATE = "candidate"
ALIASES = (CHAMPION, PREVIOUS, CANDIDATE)


def aliases_of(client: MlflowClient, version: Version) -> tuple[str, ...]:
    """Our aliases that point to a version."""
    found = client.get_registered_model(version.name).aliases
    return tuple(alias for alias in ALIASES if str(found.get(alias, "")) == str(version.number))


def make_candidate(client: MlflowClient, version: Version) -> None:
    """Let `candidate` point to a version, unless it points to a newer one."""
    current = with_alias(client, version.name, CANDIDATE)
    if current is None or current.number < version.number:
        client.set_registered_model_alias(version.name, CANDIDATE, str(version.number))


def make_champion(client: MlflowClient, version: Version) -> None:
    """Let `champion` point to a version and `previous` to the one before; done twice it changes nothing."""
    current = with_alias(client, version.name, CHAMPION)
    if current is not None and current.number == version.number:
        return
    if current is not None:
        client.set_registered_model_alias(version.name, PREVIOUS, str(current.number))
    client.set_registered_model_alias(version.name, CHAMPION, str(version.number))
