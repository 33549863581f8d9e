"""What a record may hold: the check of JSON values on their way in, and the JSON Schema that is published.

Both follow from the types of :class:`advimg.record.Record` and from the settings. ``record.schema.json`` beside this
file is the schema written down; the tests hold it against :func:`json_schema` and every record against it.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, Literal, get_type_hints

import msgspec
from msgspec import Meta

from advimg.errors import RecordError
from advimg.formatting import printable
from advimg.record import MOST, CheckedRecord, Eps, Name, NetworkRecord, PathName, Prediction, Record, Sha256
from advimg.settings import Setting, Settings, described

SCHEMA_NAME = "record.schema.json"
"""The file of the JSON Schema, in the package."""

_LONGEST_REASON = 200
_IN_JOURNAL = [
    ("adversarial_sha256", Sha256 | None, None),
    ("outputs_sha256", dict[Name, Sha256] | None, None),
    ("tried_with", dict[Name, Any] | None, None),
    ("worst_case", list[Name] | None, None),
    ("stamps", dict[Name, Name] | None, None),
    ("amplify", float | Literal["auto"] | None, None),
    ("out_dir", PathName | None, None),
]
"""What a journal adds to a record."""


def record_of(values: object, kind: type[Settings] = Settings) -> Record:
    """Return the record of an attack that wrote a file; keys that no record has are passed over.

    Args:
        values: plain JSON values, as :func:`parse_json` returns them.
        kind: the class of the settings.

    Raises:
        RecordError: they are no record, or one of an attack that came to nothing.
    """
    hashable: Any = kind  # mypy takes the __hash__ of its instances for that of the class
    read = _checked(_converted(values, _ended(hashable)))
    settings = {each.recorded: getattr(read, each.recorded) for each in described(kind)}
    own = {each.name: getattr(read, each.name) for each in dataclasses.fields(Record) if each.name != "settings"}
    return Record(settings=settings, **own)


def check_record(values: object) -> None:
    """Check a record, of an attack that wrote a file or of one that came to nothing.

    Raises:
        RecordError: it is none.
    """
    failed = isinstance(values, Mapping) and values.get("error") is not None
    if failed:
        _converted(values, _failed(Settings))
    else:
        _checked(_converted(values, _ended(Settings)))


def _checked(read: Any) -> Any:
    """Return what was read, if all networks saw the file after the same changes.

    Raises:
        RecordError: they did not.
    """
    judges = (read, *read.ensemble, *(seen for seen in read.checked if seen.error is None))
    own, *others = ([each.change for each in seen.survives] for seen in judges)
    if any(other != own for other in others):
        raise RecordError("its networks saw the file after different changes - at `$.survives`")
    return read


def read_ended(text: bytes) -> Any:
    """Read the record of an attack that wrote a file in one go, as :func:`check_record` checks it.

    Returns:
        Its values as attributes; None if it is no such record, or one that only :func:`parse_json` can read.
    """
    try:
        return _checked(_decoder().decode(text))
    except (msgspec.DecodeError, RecordError, RecursionError, ValueError):  # ValueError: the codec's
        return None


@cache
def _decoder() -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(_ended(Settings))


def parse_json(text: str | bytes) -> Any:
    """Read JSON as the standard has it, without NaN and Infinity.

    Raises:
        RecordError: it is no JSON, or too deep.
    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError:
        raise RecordError("it is too deep") from None
    except ValueError as error:  # the codec's, too
        raise RecordError(printable(str(error), _LONGEST_REASON)) from None


def read_chunk(chunk: str | None) -> Record | None:
    """Return the record in a PNG's text chunk; None where there is none.

    Raises:
        RecordError: it is no record.
    """
    return None if chunk is None else record_of(parse_json(chunk))


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a record."""
    either, definitions = msgspec.json.schema_components(
        [_ended(Settings), _failed(Settings)], ref_template="#/$defs/{name}"
    )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The record of an attack of advimg",
        "description": "A line of results.jsonl, the text chunk of a PNG, and what --json prints.",
        "anyOf": list(either),
        "$defs": definitions,
    }


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _converted(values: object, type_: type[msgspec.Struct]) -> Any:
    try:
        return msgspec.convert(values, type_)
    except (msgspec.ValidationError, UnicodeEncodeError) as error:  # the second of half a surrogate pair
        raise RecordError(printable(str(error), _LONGEST_REASON)) from None


@cache
def _ended(kind: Any) -> type[msgspec.Struct]:
    """Return the type of the JSON of an attack that wrote a file."""
    fields = _fields_of(Record) + [_setting_field(each) for each in described(kind)] + _IN_JOURNAL
    return msgspec.defstruct("Record", fields, kw_only=True)


@cache
def _failed(kind: Any) -> type[msgspec.Struct]:
    """Return the type of the JSON of an attack that came to nothing: null, or nothing at all, where it is unknown."""
    seen = Annotated[tuple[Prediction, ...], Meta(max_length=1000)]  # as a rule none
    changed: dict[str, Any] = {"before": seen, "after": seen}
    network = msgspec.defstruct("NetworkOfFailure", _unknown(_fields_of(NetworkRecord), changed), kw_only=True)
    judge = msgspec.defstruct("CheckedOfFailure", _unknown(_fields_of(CheckedRecord), {}), kw_only=True)
    changed |= {"ensemble": tuple[network, ...], "checked": tuple[judge, ...]}  # type: ignore[valid-type]
    known: list[Any] = [("source", PathName), ("error", str)]
    fields = _fields_of(Record) + [_setting_field(each) for each in described(kind)] + _IN_JOURNAL
    others = [each for each in fields if each[0] not in ("source", "error", "schema")]
    schema = [each for each in fields if each[0] == "schema"]
    return msgspec.defstruct("Failure", known + schema + _unknown(others, changed), kw_only=True)


def _unknown(fields: list[Any], changed: Mapping[str, Any]) -> list[Any]:
    """Return fields that may be null or missing, some with another type."""
    return [(name, changed.get(name, type_) | None, None) for name, type_, *_ in fields]


def _fields_of(kind: type[Record | NetworkRecord | CheckedRecord]) -> list[Any]:
    """Return name, type and default, if there is one, of each field of a record but the settings."""
    types = get_type_hints(kind, include_extras=True)
    fields: list[Any] = []
    for each in dataclasses.fields(kind):
        if each.name == "settings":
            continue
        default = each.default
        if each.default_factory is not dataclasses.MISSING:
            default = msgspec.field(default_factory=each.default_factory)
        required = default is dataclasses.MISSING
        fields.append((each.name, types[each.name]) if required else (each.name, types[each.name], default))
    return fields


def _setting_field(setting: Setting) -> tuple[Any, ...]:
    """Return name, type and default, if there is one, of a setting in a record."""
    about = setting.about
    type_: Any
    if setting.name == "eps":
        type_ = Eps
    elif about.levels:
        type_ = Annotated[int, Meta(ge=1, le=255)] | None
    elif setting.kind is bool:
        type_ = bool
    elif setting.kind is str:
        type_ = Name  # not one of the names that are registered here: another machine may have more
    else:
        limits = {"ge": about.at_least, "gt": about.above, "le": about.at_most, "lt": about.below}
        finite: dict[str, Any] = {name: limit for name, limit in limits.items() if math.isfinite(limit)}
        if setting.kind is int:
            finite.setdefault("le", MOST)
        type_ = Annotated[setting.kind, Meta(**finite)]
    if setting.default is None and setting.recorded == setting.name and setting.name != "eps":
        type_ |= None
    return (setting.recorded, type_) if about.formerly is ... else (setting.recorded, type_, about.formerly)
