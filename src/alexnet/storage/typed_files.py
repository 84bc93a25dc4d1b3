"""Read the JSON, JSON lines and YAML that this package writes: damage gives one error, never a traceback.

A schema is a `TypedDict`, or another type of `str`, `int`, `float`, `bool`, `None`, lists and dictionaries, with bounds
as `Annotated[int, Meta(ge=1)]`. Content is checked against it and returned as it is: keys that the schema lacks are
kept. Files are bounded in size, text is UTF-8, nesting and integers are bounded, and a key occurs once.

Sealed files hold a checksum of their content under the key `content_sha256`, sealed lines under `crc32`. Readers verify
it and remove it; files without one, as earlier versions wrote them, are read as they are.
"""

import hashlib
import itertools
import json
import os
import stat
import textwrap
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypedDict, TypeVar

import msgspec
import yaml
from msgspec import Meta

from alexnet.errors import WorkError
from alexnet.storage.atomic import write_json
from alexnet.storage.read_errors import raise_unless_damage

T = TypeVar("T")

MAX_JSON_BYTES = 1 << 26
MAX_YAML_BYTES = 1 << 16
MAX_LINE_BYTES = 1 << 22
MAX_DEPTH = 32
MAX_YAML_VALUES = 100_000
"""A few bytes of YAML can stand for any number of values, by aliases."""
MAX_REASON = 400
"""Characters of a message about damage: what was found may be of any length."""
SEAL = "content_sha256"
LINE_SEAL = "crc32"

Count = Annotated[int, Meta(ge=0, le=1 << 62)]
Size = Annotated[int, Meta(ge=1, le=1 << 62)]
Finite = Annotated[float, Meta(ge=-1.7e308, le=1.7e308)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
# The system refuses NUL, and text that `os.fsencode` cannot turn into bytes.
FileName = Annotated[str, Meta(pattern="\\A[^\0\ud800-\udc7f\udd00-\udfff]+\\Z", max_length=4096)]


class Versioned(TypedDict):
    """Any file with a format version."""

    format_version: int


class DamagedFile(WorkError):
    """A file that this package wrote does not hold what it wrote.

    Args:
        path: the file.
        problem: what follows its name, such as `is missing`.
        advice: what to do.
    """

    def __init__(self, path: Path, problem: str, advice: str) -> None:
        super().__init__(f"{path} {problem}; {advice}")
        self.path = path
        self.problem = problem
        self._advice = advice

    def __reduce__(self) -> tuple[type["DamagedFile"], tuple[Path, str, str]]:
        """Pickled by its arguments: other processes raise it, too."""
        return type(self), (self.path, self.problem, self._advice)


def damaged(path: Path, reason: str, advice: str) -> DamagedFile:
    """The error of a damaged file.

    Args:
        reason: what is wrong, such as `side: expected int, got str`.
        advice: what to do, such as `prepare it again`.
    """
    short = textwrap.shorten(reason, MAX_REASON, placeholder=" ...") if len(reason) > MAX_REASON else reason
    return DamagedFile(path, f"is damaged ({' '.join(short.split())})", advice)


def read_json(
    path: Path, schema: type[T], advice: str, *, max_bytes: int = MAX_JSON_BYTES, sealed_since: int | None = None
) -> T:
    """The content of a JSON file.

    Args:
        schema: see the module's docstring.
        advice: what to do where the file is damaged.
        sealed_since: the first `format_version` whose files must have their checksum.

    Raises:
        DamagedFile: the file is missing, larger than `max_bytes`, not JSON, not what the schema says, or was changed.
        WorkError: the system cannot read it.
    """
    return parse_json(_read(path, max_bytes, advice), schema, path, advice, sealed_since=sealed_since)


def parse_json(content: bytes | str, schema: type[T], path: Path, advice: str, *, sealed_since: int | None = None) -> T:
    """JSON from within the file `path`, such as the metadata of a safetensors file; else as `read_json`."""
    try:
        found = _load_json(content)
        if (
            sealed_since is not None
            and SEAL not in require_schema(found, Versioned)
            and found["format_version"] >= sealed_since
        ):
            raise ValueError(f"its checksum {SEAL} is missing")
        _require_seal(found, SEAL, _digest)
        return require_schema(found, schema)
    except _INVALID as error:
        raise damaged(path, _reason(error), advice) from error


def read_json_lines(path: Path, schema: type[T], advice: str) -> Iterator[T]:
    """The JSON documents of a file, one per line; the last line must end too.

    Raises:
        DamagedFile: as `read_json`; the message has the line's number.
        WorkError: the system cannot read the file.
    """
    for number, line in _lines(path, advice):
        try:
            yield require_schema(_parse_line(line), schema)
        except _INVALID as error:
            raise damaged(path, f"line {number}: {_reason(error)}", advice) from error


def read_intact_json_lines(path: Path, check: Callable[[Any], T], advice: str) -> tuple[list[T], list[str]]:
    """The intact documents of a log, and what is wrong with each other line, such as `line 7: expected object`.

    A last line without its end is an append that a crash or a full disk cut short: it is in neither list.

    Args:
        check: returns what a document means; a ValueError (see `require_schema`) says that it is damaged.

    Raises:
        DamagedFile: the file is missing or no regular file.
        WorkError: the system cannot read it.
    """
    found, problems = [], []
    for number, line in _lines(path, advice):
        try:
            found.append(check(_parse_line(line)))
        except _INVALID as error:
            if line.endswith(b"\n"):
                problems.append(f"line {number}: {_reason(error)}")
    return found, problems


def read_yaml(path: Path, schema: type[T], advice: str) -> T:
    """The content of a YAML file; else as `read_json`."""
    return parse_yaml(_read(path, MAX_YAML_BYTES, advice), schema, path, advice)


def parse_yaml(content: bytes, schema: type[T], path: Path, advice: str) -> T:
    """YAML as the file `path` holds it; else as `read_yaml`."""
    try:
        found = load_yaml(content.decode())
        _require_seal(found, SEAL, _digest)
        return require_schema(found, schema)
    except _INVALID as error:
        raise damaged(path, _reason(error), advice) from error


def load_yaml(text: str) -> Any:
    """YAML of plain values, bounded in depth and number of values.

    Raises:
        ValueError: the text is something else.
    """
    try:
        content = yaml.load(text, _PlainLoader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ValueError(f"{line}{error.problem or error}") from error
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        # PyYAML raises all of these for malformed values.
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError(f"nesting is deeper than {MAX_DEPTH}") from error
    _require_bounds(content)
    return content


def write_sealed_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object with its checksum, atomically; OSErrors as of `alexnet.storage.atomic.write_json`."""
    write_json(path, sealed(content))


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content with its checksum under `SEAL`, ready for JSON or YAML.

    The checksum comes first: YAML that is cut short is YAML still, but not of this checksum.
    """
    plain: dict[str, Any] = json.loads(json.dumps(content))  # as a reader finds it: tuples become lists
    return {SEAL: _digest(plain), **plain}


def sealed_line(content: Mapping[str, Any]) -> str:
    """A line of a JSON lines file with its checksum under `LINE_SEAL`."""
    plain: dict[str, Any] = json.loads(json.dumps(content))
    return json.dumps({**plain, LINE_SEAL: _line_digest(plain)}) + "\n"


def require_schema(content: Any, schema: type[T]) -> T:
    """The content as it is.

    Raises:
        ValueError: it is not what the schema says; the message begins with the path of the key.
    """
    try:
        msgspec.convert(content, schema)
    except msgspec.ValidationError as error:
        raise ValueError(_validation_text(error)) from error
    checked: T = content
    return checked


def _parse_line(line: bytes) -> Any:
    """The document of a line; ValueError if it is damaged."""
    if not line.endswith(b"\n"):
        raise ValueError("the line is cut short")
    found = _load_json(line)
    _require_seal(found, LINE_SEAL, _line_digest)
    return found


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _line_digest(content: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"


def _require_seal(content: Any, key: str, digest: Any) -> None:
    """Remove the checksum; ValueError if it is not the content's."""
    if isinstance(content, dict) and key in content and content.pop(key) != digest(content):
        raise ValueError(
            f"it was changed after it was written: {key} does not match; if the change is intended, delete this key"
        )


def _read(path: Path, max_bytes: int, advice: str) -> bytes:
    try:
        content = read_bounded(path, max_bytes)
    except OSError as error:
        raise_unreadable(path, error, advice)
    except ValueError as error:
        raise damaged(path, str(error), advice) from error
    if not content.strip():
        raise damaged(path, "it is empty", advice)
    return content


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """The bytes of a regular file.

    Raises:
        ValueError: they are more than `max_bytes`.
        OSError: the file cannot be read, or is no regular file.
    """
    with open(path, "rb", opener=_open_regular) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"it is larger than {max_bytes:,} bytes")
    return content


def _lines(path: Path, advice: str) -> Iterator[tuple[int, bytes]]:
    """The lines of a regular file and their numbers, from 1; of one longer than allowed, its first part and its end."""
    try:
        with open(path, "rb", opener=_open_regular) as file:
            for number in itertools.count(1):
                line = end = file.readline(MAX_LINE_BYTES)
                while end and not end.endswith(b"\n"):
                    end = file.readline(MAX_LINE_BYTES)
                if not line:
                    return
                yield number, line if end is line else line + end[-1:]
    except OSError as error:
        raise_unreadable(path, error, advice)


def _open_regular(path: str, flags: int) -> int:
    """A descriptor of a regular file; a pipe would block, a device might never end."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IsADirectoryError("not a regular file")
    return descriptor


def raise_unreadable(path: Path, error: OSError, advice: str) -> NoReturn:
    """Raise `DamagedFile` for a file that is missing, and WorkError for one that the system cannot read now."""
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        raise DamagedFile(path, "is missing", advice) from error
    if isinstance(error, IsADirectoryError):
        raise damaged(path, "it is not a regular file", advice) from error
    raise_unless_damage(error, path)
    raise WorkError(f"cannot read {path}: {error.strerror or error}; make it readable and try again") from error


def _load_json(content: bytes | str) -> Any:
    text = content if isinstance(content, str) else content.decode()
    found = json.loads(text, object_pairs_hook=_object, parse_int=_bounded_int)
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _require_depth(found)
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, whose keys are unique."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return found


def _bounded_int(text: str) -> int:
    """An integer of 64 bits."""
    if len(text) > 20 or not -(1 << 63) <= (value := int(text)) < 1 << 63:
        raise ValueError(f"the number {text[:20]}... is out of range")
    return value


def _require_depth(content: Any) -> None:
    level: list[Any] = [content]
    for _ in range(MAX_DEPTH):
        nested = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [value for values in nested for value in values]
        if not level:
            return
    raise ValueError(f"nesting is deeper than {MAX_DEPTH}")


def _require_bounds(content: Any) -> None:
    """Refuse too many or too deep values of YAML, and those that JSON lacks."""
    remaining, num_values = [(content, 0)], 0
    while remaining:
        value, depth = remaining.pop()
        num_values += 1
        if depth > MAX_DEPTH or num_values > MAX_YAML_VALUES:
            raise ValueError(f"it has more than {MAX_YAML_VALUES:,} values, or nesting deeper than {MAX_DEPTH}")
        if isinstance(value, dict):
            if not all(isinstance(key, str) for key in value):
                raise ValueError(f"the key {next(key for key in value if not isinstance(key, str))!r} is not text")
            remaining.extend((one, depth + 1) for one in value.values())
        elif isinstance(value, list):
            remaining.extend((one, depth + 1) for one in value)
        elif isinstance(value, int):
            if not -(1 << 63) <= value < 1 << 63:
                raise ValueError("a number is out of range")
        elif value is not None and not isinstance(value, str | float):
            raise ValueError(f"a {type(value).__name__} is neither text, number, list nor mapping")


class _PlainLoader(yaml.SafeLoader):
    """The safe loader, which refuses a key that occurs twice instead of dropping a value."""


def _construct_mapping(loader: _PlainLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    own_keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
    if len(own_keys) > len(set(own_keys)):
        raise ValueError(f"the key {next(key for key in own_keys if own_keys.count(key) > 1)!r} occurs twice")
    return loader.construct_mapping(node, deep=True)


_PlainLoader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)

_INVALID = (ValueError, RecursionError)
"""What damaged content raises; `json.JSONDecodeError`, `UnicodeError` and others are ValueErrors."""


def _reason(error: Exception) -> str:
    """What is wrong."""
    if isinstance(error, RecursionError):
        return f"nesting is deeper than {MAX_DEPTH}"
    return f"byte {error.start} is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)


def _validation_text(error: msgspec.ValidationError) -> str:
    """The message, with the path of the key first: `splits.val.count: expected int, got str`."""
    text, _, place = str(error).replace("`", "").partition(" - at $")
    text = "this text is not allowed" if "matching regex" in text else text[:1].lower() + text[1:]
    return f"{place.lstrip('.')}: {text}" if place else text
