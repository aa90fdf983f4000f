"""A configuration's text as structs: YAML with line numbers, values from the environment, checked against types.

Theory of operation. The text is composed to YAML's node tree, never constructed, so no tag of it can build an object.
``read_source`` walks the tree to plain dicts, lists and scalars, and on the way notes the line of every key under its
path, refuses doubled keys and puts in the environment's values. ``build`` then walks struct types and data side by
side, so every error knows its key's path and line. What came from the environment stays marked (``FromEnvironment``)
and is never shown in an error.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import yaml

from gearworker.errors import ConfigError

MAX_FILE_BYTES: Final = 1024 * 1024
MAX_NODES: Final = 100_000
"""The most values a file may have, aliases written out; keeps a few lines of aliases from filling the memory."""
MAX_DEPTH: Final = 20

_VARIABLE: Final = re.compile(
    r"(?P<escape>\$\$\{)|\$\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\})?", re.ASCII
)
_LAST_PART: Final = re.compile(r"(\[\d+\]|(^|\.)[^.\[]*|.)$", re.DOTALL)
_SIZE: Final = re.compile(r"(\d{1,18}(?:\.\d{1,6})?) ?(B|[KMGT]i?B)", re.ASCII)
_SIZE_UNITS: Final = {"B": 1} | {
    f"{letter}{binary}B": (1024 if binary else 1000) ** power
    for power, letter in enumerate("KMGT", 1)
    for binary in ("i", "")
}
_KINDS: Final[dict[type, str]] = {dict: "a mapping", list: "a list", type(None): "empty"}
_PLAIN_TAGS: Final = tuple(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool", "null"))

_StructT = TypeVar("_StructT", bound=msgspec.Struct)


class FromEnvironment(NamedTuple):
    """A value that the environment had a part in: as text, and as YAML reads that text where it is the whole value."""

    text: str
    value: Any


class Source(NamedTuple):
    """A configuration's data, with the line of each key by its path."""

    data: dict[str, Any]
    file: str | None
    lines: dict[str, int]

    def error(self, key: str, reason: str) -> ConfigError:
        """The error for a key of this source."""
        return ConfigError(reason, file=self.file, key=key or None, line=line_of(key, self.lines))


def line_of(key: str, lines: Mapping[str, int]) -> int | None:
    """The line of a key, or where it isn't written down, of the section it would stand in."""
    while key and key not in lines:
        key = _LAST_PART.sub("", key)
    return lines.get(key)


def read_file(path: str | os.PathLike[str]) -> str:
    """The text of a configuration file.

    Raises:
        ConfigError: it can't be read, is over ``MAX_FILE_BYTES``, or is not UTF-8.
    """
    file = os.fspath(path)
    try:
        with open(file, "rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ConfigError(f"can't be read: {reason}", file=file) from None
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"is larger than {MAX_FILE_BYTES} bytes", file=file)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError("is not UTF-8 text", file=file, line=line) from None


def read_source(text: str, *, file: str | None, environ: Mapping[str, str]) -> Source:
    """Read YAML text to plain data, with the environment's values put in.

    Raises:
        ConfigError: not YAML, not a mapping, a doubled key, a missing variable.
    """
    reader = _Reader(file, environ)
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None and not isinstance(root, yaml.MappingNode):
            raise ConfigError("must be a mapping of keys to values", file=file, line=root.start_mark.line + 1)
        data = reader.read(root, "", 0) if root is not None else {}
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        line = mark.line + 1 if mark else None
        raise ConfigError(f"is not valid YAML: {reason}", file=file, line=line) from None
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"is not valid YAML: {reason}", file=file) from None
    except RecursionError:
        raise ConfigError("is nested too deeply", file=file) from None
    return Source(data, file, reader.lines)


class _Reader:
    """Walks the node tree of one file."""

    def __init__(self, file: str | None, environ: Mapping[str, str]) -> None:
        self.file = file
        self.lines: dict[str, int] = {}
        self._environ = environ
        self._nodes = 0
        self._resolver = yaml.resolver.Resolver()
        self._constructor = yaml.constructor.SafeConstructor()

    def read(self, node: yaml.Node, path: str, depth: int) -> Any:
        """The plain data of a node."""
        self._nodes += 1
        if depth > MAX_DEPTH:
            raise self._error(node, path, "is nested too deeply")
        if self._nodes > MAX_NODES:
            raise self._error(node, path, f"has more than {MAX_NODES} values, its aliases counted")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self._item(item, f"{path}[{index}]", depth) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _item(self, node: yaml.Node, path: str, depth: int) -> Any:
        self.lines[path] = node.start_mark.line + 1
        return self.read(node, path, depth + 1)

    def _mapping(self, node: yaml.MappingNode, path: str, depth: int) -> dict[str, Any]:
        data: dict[str, Any] = {}
        first_lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if not isinstance(key, str) or key_node.tag != "tag:yaml.org,2002:str":
                raise self._error(key_node, path, "has a key that is not text; put it in quotes")
            key_path, line = f"{path}.{key}" if path else key, key_node.start_mark.line + 1
            if key in data:
                raise self._error(key_node, key_path, f"is there twice, in line {first_lines[key]} and line {line}")
            first_lines[key] = self.lines[key_path] = line
            data[key] = self.read(value_node, key_path, depth + 1)
        return data

    def _scalar(self, node: yaml.Node, path: str) -> Any:
        if "${" in node.value:
            return self._substitute(node, path)
        try:
            return self._constructor.construct_object(node)
        except ValueError:  # such as a date in the 13th month
            raise self._error(node, path, "is not the number or date that it looks like; put it in quotes") from None

    def _substitute(self, node: yaml.Node, path: str) -> Any:
        text: str = node.value
        used: list[str] = []

        def value_of(match: re.Match[str]) -> str:
            name, default = match["name"], match["default"]
            if match["escape"]:
                return "${"
            if name is None:
                raise self._error(node, path, "has a ${ that is neither ${NAME} nor ${NAME:-default}; write $${ for ${")
            used.append(name)
            value = self._environ.get(name)
            if value is None and default is None:
                raise self._error(node, path, f"needs the environment variable {name}, which is not set")
            return default if default is not None and not value else value or ""

        replaced = _VARIABLE.sub(value_of, text)
        if not used:
            return replaced
        whole = _VARIABLE.fullmatch(text) is not None
        return FromEnvironment(replaced, self._reread(replaced) if whole else replaced)

    def _reread(self, text: str) -> Any:
        tag = self._resolver.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
        if tag not in _PLAIN_TAGS:
            return text
        try:
            return self._constructor.construct_object(yaml.ScalarNode(tag, text))
        except ValueError:
            return text

    def _error(self, node: yaml.Node, path: str, reason: str) -> ConfigError:
        return ConfigError(reason, file=self.file, key=path or None, line=node.start_mark.line + 1)


def build(source: Source, struct: type[_StructT], **extra: Any) -> _StructT:
    """A struct of the source's data.

    Args:
        source: what was read.
        struct: its fields' types may be structs, lists, dicts with text keys, unions of those with None, and whatever
            else msgspec converts. An ``msgspec.Meta`` names what a value must be in its description; ``SIZE`` as its
            extra lets it be written as "64MiB". Fields named in ``extra`` are no keys.
        extra: values of further fields.

    Raises:
        ConfigError: an unknown or missing key, or a value that its type refuses.
    """
    return _struct(source, "", struct, source.data, extra)


SIZE: Final = {"size": True}


def _struct(source: Source, path: str, struct: type[_StructT], data: dict[str, Any], extra: dict[str, Any]) -> _StructT:
    hints = {name: hint for name, hint in get_type_hints(struct, include_extras=True).items() if name not in extra}
    values = dict(extra)
    for key, raw in data.items():
        key_path = f"{path}.{key}" if path else key
        if key not in hints:
            raise source.error(key_path, f"unknown key; {_suggestion(key, list(hints))}")
        values[key] = _value(source, key_path, hints[key], raw)
    for field in msgspec.structs.fields(struct):
        if field.required and field.name not in values:
            raise source.error(f"{path}.{field.name}" if path else field.name, "is missing")
    try:
        return struct(**values)
    except ConfigError as error:  # from the struct's own checks, which name the key below the struct
        key_path = ".".join(part for part in (path, error.key) if part)
        raise source.error(key_path, error.reason) from None


def _suggestion(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, 1)
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"


def _value(source: Source, path: str, hint: Any, raw: Any) -> Any:
    bare = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    options = get_args(bare) if get_origin(bare) not in (None, list, dict, Literal) else (bare,)
    plain = raw.value if isinstance(raw, FromEnvironment) else raw
    if plain is False and type(None) in options:
        return None
    for option in options:
        if isinstance(option, type) and issubclass(option, msgspec.Struct) and _means_section(plain, options):
            return _struct(source, path, option, plain if isinstance(plain, dict) else {}, {})
        if get_origin(option) is dict and (plain is None or isinstance(plain, dict)):
            item = get_args(option)[1]
            return {key: _value(source, f"{path}.{key}", item, value) for key, value in (plain or {}).items()}
        if get_origin(option) is list and isinstance(plain, list):
            (item,) = get_args(option)
            return [_value(source, f"{path}[{index}]", item, value) for index, value in enumerate(plain)]
    return _leaf(source, path, hint, bare, raw)


def _means_section(plain: Any, options: tuple[Any, ...]) -> bool:
    """Whether a value stands for a struct: a mapping, true where it can be off, nothing where it can't."""
    return isinstance(plain, dict) or (plain is True if type(None) in options else plain is None)


def _leaf(source: Source, path: str, hint: Any, bare: Any, raw: Any) -> Any:
    meta = next((part for part in getattr(hint, "__metadata__", ()) if isinstance(part, msgspec.Meta)), None)
    candidates = (raw.value, raw.text) if isinstance(raw, FromEnvironment) else (raw,)
    for candidate in candidates:
        if meta is not None and meta.extra == SIZE:
            candidate = _size(candidate)
        try:
            return msgspec.convert(candidate, hint)
        except msgspec.ValidationError:
            continue
    raise source.error(path, f"must be {_expected(bare, meta)}, {_but(raw)}")


def _size(value: Any) -> Any:
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    return int(float(match[1]) * _SIZE_UNITS[match[2]]) if match else value


def _expected(bare: Any, meta: msgspec.Meta | None) -> str:
    if meta is not None and meta.description:
        return meta.description
    if get_origin(bare) is Literal:
        return f"one of {', '.join(map(str, get_args(bare)))}"
    return "a list" if get_origin(bare) is list else "a mapping"


def _but(raw: Any) -> str:
    if isinstance(raw, FromEnvironment):
        return "and what the environment gave is not"
    if type(raw) in _KINDS:
        return f"not {_KINDS[type(raw)]}"
    shown = str(raw).lower() if isinstance(raw, bool) else repr(raw) if isinstance(raw, str) else str(raw)
    return f"not {shown if len(shown) <= 60 else shown[:57] + '...'}"
