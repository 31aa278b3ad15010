"""Reading the settings: defaults < `params.yaml` < overrides; every fault with its place and the nearest known key."""

import contextlib
import copy
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from sa2net.config.base import Section
from sa2net.config.sections import EvaluateConfig, RegisterConfig, ValidateConfig
from sa2net.config.training import TrainConfig
from sa2net.errors import ConfigError

AnySection = TypeVar("AnySection", bound=Section)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Config:
    """All sections. A pydantic dataclass, since a BaseModel has a `validate` of its own."""

    validate: ValidateConfig = ValidateConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    register: RegisterConfig = RegisterConfig()

    @classmethod
    def load(cls, params: Path | None = None, overrides: Sequence[str] = (), *, recipe: Path | None = None) -> "Config":
        """Read the settings: defaults < `params` file < `recipe` < `overrides`.

        Args:
            params: A YAML file with any part of the sections; None = the defaults alone.
            recipe: Another such file, over the first.
            overrides: `section.key=value` each, the value in YAML.

        Raises:
            ConfigError: A file, key or value that cannot be used, with the nearest known key.
        """
        tree: dict[str, Any] = {}
        lines: dict[tuple[str, ...], str] = {}
        files = [file for file in (params, recipe) if file is not None]
        for file in files:
            layer, numbers = _read_yaml(file)
            _merge(tree, layer)
            place = f"{file} " if len(files) > 1 else ""
            lines |= {path: f"{place}line {number}" for path, number in numbers.items()}
        source = " and ".join(str(file) for file in files) or "the overrides"
        for text in overrides:
            overridden = _apply_override(tree, text)
            lines = {path: line for path, line in lines.items() if path != overridden}
        return cls.from_dict(tree, source=source, lines=lines)

    @classmethod
    def from_dict(
        cls,
        tree: Mapping[str, Any],
        *,
        source: str = "the settings",
        lines: Mapping[tuple[str, ...], str] | None = None,
    ) -> "Config":
        """Check a (partial) tree of sections; what is absent takes its default.

        Args:
            tree: Section -> its keys.
            source: What a message calls it.
            lines: Line of each key in the file that it was read from.
        """
        try:
            return TypeAdapter(cls).validate_python(dict(tree))
        except ValidationError as error:
            raise ConfigError(
                f"{source} cannot be used",
                evidence=_explain(error, cls, lines),
                action="`sa2net recipe --show` prints every setting with its meaning.",
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """All sections as plain JSON types."""
        dumped: dict[str, Any] = TypeAdapter(Config).dump_python(self, mode="json")
        return dumped

    def render(self) -> str:
        """`params.yaml` as text: every value, each with its meaning behind it."""
        lines = [
            "# Every setting of a run, one section per step. Overrides: --set train.epochs=2, `dvc exp run -S train.epochs=2`,",
            "# or `sa2net recipe NAME`, which rewrites this file. Generated from sa2net/config.",
        ]
        for name in SECTIONS:
            section: Section = getattr(self, name)
            lines += ["", f"{name}:", *_render_section(section, indent=2)]
        return "\n".join(lines) + "\n"


SECTIONS = ("validate", "train", "evaluate", "register")


def as_section(
    kind: type[AnySection],
    *layers: Mapping[str, Any],
    source: str = "",
    action: str = "`sa2net recipe --show` prints every setting of a run with its meaning.",
    lines: Mapping[tuple[str, ...], str] | None = None,
) -> AnySection:
    """One section from partial trees, the last one winning: what a pipeline run gives, over what was compiled in.

    Args:
        kind: The section.
        layers: Partial trees.
        source: What a message calls them; empty = the section's name.
        action: What a message says to do.
        lines: Line of each key in the file that the last layer was read from.

    Raises:
        ConfigError: A key or value that cannot be used.
    """
    tree: dict[str, Any] = {}
    for layer in layers:
        _merge(tree, layer)
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(
            f"{source or 'the section ' + kind.__name__.removesuffix('Config').lower()} cannot be used",
            evidence=_explain(error, kind, lines),
            action=action,
        ) from error


def _merge(tree: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = copy.deepcopy(value)  # what a later layer changes is nobody else's


def _render_section(section: Section, indent: int) -> list[str]:
    lines = []
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if isinstance(value, Section):
            lines += [" " * indent + f"{key}:", *_render_section(value, indent + 2)]
            continue
        plain = list(value) if isinstance(value, tuple) else value
        text = yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
        lines.append(" " * indent + f"{key}: {text}" + (f"  # {field.description}" if field.description else ""))
    return lines


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """The tree of a file, and the line of each key."""
    try:
        text = path.read_text(encoding="utf-8")
        tree = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path} cannot be read", evidence=str(error), action="Give a YAML file with --params."
        ) from error
    if tree is None:
        return {}, {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path} holds no sections",
            evidence=f"its top level is a {type(tree).__name__}",
            action="Write `train:` and so on at the top.",
        )
    return tree, key_lines(text)


def _apply_override(tree: dict[str, Any], text: str) -> tuple[str, ...]:
    """Set one value; return the path of its key."""
    path, equals, raw = text.partition("=")
    keys = path.strip().split(".")
    if not equals or len(keys) < 2 or not all(keys):
        raise ConfigError(
            f"--set {text} cannot be read", action="Write section.key=value, for example --set train.epochs=2."
        )
    node = tree
    for key in keys[:-1]:
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise ConfigError(
                f"--set {text} cannot be used",
                evidence=f"{key} is a value, not a group",
                action="Name the value itself.",
            )
        node = child
    try:
        value = yaml.safe_load(raw)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"--set {text} is not YAML", evidence=str(error), action="Quote the value.") from error
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        with contextlib.suppress(ValueError):
            value = float(value)
    node[keys[-1]] = "" if value is None else value
    return tuple(keys)


def _explain(error: ValidationError, kind: type, lines: Mapping[tuple[str, ...], str] | None = None) -> str:
    """One clause per fault: where (with the line, if known), what, and the nearest known key."""
    clauses = []
    for fault in error.errors(include_url=False):
        path = tuple(str(part) for part in fault["loc"])
        line = (lines or {}).get(path, "")
        where = (f"{line}: " if line else "") + (".".join(path) or "settings")
        if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            near = difflib.get_close_matches(path[-1], _known_keys(kind, path[:-1]), n=1)
            clauses.append(f"{where} is unknown" + (f" (did you mean {near[0]}?)" if near else ""))
        else:
            if fault["type"] == "missing":
                clauses.append(f"{where} is missing")
                continue
            message = fault["msg"].removeprefix("Value error, ")
            clauses.append(
                f"{where}: {message}" if fault["type"] == "value_error" else f"{where} = {fault['input']!r}: {message}"
            )
    return "; ".join(clauses)


def _known_keys(kind: Any, path: Sequence[str]) -> list[str]:
    """Keys of the section that lies at `path` below another; empty where there is none."""
    for part in path:
        kind = get_type_hints(kind).get(part)
    if kind is Config:
        return list(SECTIONS)
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, Section) else []


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """The line, from 1, on which each key of a YAML text stands.

    Raises:
        ConfigError: A key stands twice, or within itself.
    """
    lines: dict[tuple[str, ...], int] = {}

    def walk(node: yaml.Node | None, path: tuple[str, ...], above: tuple[int, ...] = ()) -> None:
        if isinstance(node, yaml.MappingNode):
            if id(node) in above:
                raise ConfigError(f"{'.'.join(path)} holds itself", action="Write its keys out instead of an alias.")
            for key, value in node.value:
                place = (*path, str(key.value))
                if place in lines:
                    raise ConfigError(
                        f"the setting {'.'.join(place)} stands twice",
                        evidence=f"in line {lines[place]} and line {key.start_mark.line + 1}",
                        action="Keep one of them.",
                    )
                lines[place] = key.start_mark.line + 1
                walk(value, place, (*above, id(node)))

    walk(yaml.compose(text, Loader=yaml.SafeLoader), ())
    return lines
