"""What every group of settings is: frozen, and closed to keys that it does not know."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen group of settings that knows all its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]


def refuse_changed(section: Section, names: tuple[str, ...], when: str) -> None:
    """Refuse settings that differ from their defaults but would do nothing."""
    fields: dict[str, Any] = dict(type(section).model_fields)
    changed = [name for name in names if getattr(section, name) != fields[name].default]
    if changed:
        raise ValueError(f"{', '.join(changed)} would have no effect {when}")
