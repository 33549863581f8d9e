"""What a journal knows of an attack that has ended, as far as a later run needs it."""

from collections.abc import Mapping
from sys import intern
from types import MappingProxyType
from typing import Any, Self

import msgspec

from advimg.batches.plan import Key
from advimg.settings import Settings, described
from advimg.storage.url import Place, place_of

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Written(msgspec.Struct, frozen=True, gc=False):
    """A file of an attack.

    Attributes:
        kind: its key in the record.
        path: absolute, or a URL.
        sha256: of its bytes; None in journals of earlier versions, except of the PNG.
        stamp: of it with these bytes (:mod:`advimg.batches.stamps`); None if that was not recorded.
    """

    kind: str
    path: str
    sha256: str | None = None
    stamp: str | None = None


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The journal's record of one attack, as far as a later run needs it.

    A journal may have a million of them, so they hold no Path but the photo's, and share what is the same in all.

    Attributes:
        source_sha256: of the photo that was attacked; None where it could not be read.
        files: those that were written, the adversarial PNG first.
        settings: as :func:`folder_settings` returns them.
        error: why there is no result; None if there is one.
        tried_with: of a failure, what it may depend on (:meth:`advimg.batches.options.Options.tried_with`).
        fooled: whether the file shows the target.
        gradients: passes through the network.
        checked: whether the file fools each network that took no part, by its name.
        unanswered: why programs that took no part gave no answer, by their names.
        delta_e: the mean colour difference CIEDE2000 of what changed; None where nothing did or it was not measured.
        source_stamp: of the photo, from before it was read; None if that was not recorded.
        amplify: the factor that was asked for in the picture of the perturbation, or "auto"; None if that was not
            recorded.
    """

    key: Key
    source_sha256: str | None
    files: tuple[Written, ...]
    settings: Mapping[str, Any]
    error: str | None
    tried_with: Mapping[str, Any] | None
    fooled: bool
    gradients: int
    checked: Mapping[str, bool] = _NOTHING
    unanswered: Mapping[str, str] = _NOTHING
    delta_e: float | None = None
    source_stamp: str | None = None
    amplify: float | str | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """Read a record that is known to be one."""
        stamps = record.get("stamps") or _NOTHING
        hashes = record.get("outputs_sha256")
        if hashes is None:
            hashes = {"adversarial": record["adversarial_sha256"]}
        return cls(
            key=key_of(record),
            source_sha256=record["source_sha256"],
            files=tuple(
                Written(kind, path, hashes.get(kind), stamps.get(kind)) for kind, path in record["outputs"].items()
            ),
            settings=folder_settings(record),
            error=record["error"],
            tried_with=record.get("tried_with"),
            fooled=record["fooled"],
            gradients=record["gradients"] or 0,
            checked=checked_in(record) or _NOTHING,
            unanswered={seen["model"]: seen["error"] for seen in record["checked"] if seen.get("error")} or _NOTHING,
            delta_e=(record.get("visibility") or {}).get("delta_e_mean"),
            source_stamp=stamps.get("source"),
            amplify=record.get("amplify"),
        )

    @property
    def outputs(self) -> dict[str, Place]:
        """The paths of the files that were written, by the record's keys."""
        return {each.kind: place_of(each.path) for each in self.files}

    def file(self, kind: str) -> Written | None:
        """Return a file by its key in the record."""
        return next((each for each in self.files if each.kind == kind), None)


def key_of(record: Mapping[str, Any]) -> Key:
    """Return which attack a record is of."""
    target = record["target_rule"] or record["target"]["index"]
    return Key(place_of(record["source"]), target, "auto" if record["max_eps"] is not None else record["eps"])


class SharedEntries:
    """Makes the entries of records that were read by their types; those of equal settings share them.

    It takes a fifth of the time of :meth:`Entry.of`, and gives the same.
    """

    def __init__(self) -> None:
        compared = [each.recorded for each in described() if each.about.changes_results and each.name != "eps"]
        self._names = ("model", "weights_sha256", "view", "worst_case", *compared)
        self._known: list[tuple[list[Any], Mapping[str, Any]]] = []

    def entry_of(self, read: Any, source: str, outputs: Mapping[str, str]) -> Entry:
        """Return the entry of a record of an attack that wrote files.

        Args:
            read: as :func:`advimg.record_schema.read_ended` returns it.
            source: the photo, an absolute path.
            outputs: the files, absolute paths.
        """
        stamps = read.stamps or _NOTHING
        hashes = {"adversarial": read.adversarial_sha256} if read.outputs_sha256 is None else read.outputs_sha256
        return Entry(
            key=Key(
                place_of(source), read.target_rule or read.target.index, read.eps if read.max_eps is None else "auto"
            ),
            source_sha256=read.source_sha256,
            files=tuple(
                [Written(intern(kind), path, hashes.get(kind), stamps.get(kind)) for kind, path in outputs.items()]
            ),
            settings=self._settings(read),
            error=None,
            tried_with=read.tried_with,
            fooled=read.fooled,
            gradients=read.gradients,
            checked={seen.model: seen.fooled for seen in read.checked} or _NOTHING,
            unanswered={seen.model: seen.error for seen in read.checked if seen.error} or _NOTHING,
            delta_e=None if read.visibility is None else read.visibility.delta_e_mean,
            source_stamp=stamps.get("source"),
            amplify=read.amplify,
        )

    def _settings(self, read: Any) -> Mapping[str, Any]:
        values = [getattr(read, name) for name in self._names]
        values += [(each.model, each.weights_sha256, each.view) for each in read.ensemble]
        values += [each.model for each in read.checked]
        for known, settings in self._known:
            if known == values:
                return settings
        settings = folder_settings(msgspec.to_builtins(read))
        self._known = [(values, settings), *self._known[:15]]
        return settings


def folder_settings(record: Mapping[str, Any], kind: type[Settings] = Settings) -> dict[str, Any]:
    """Return what has to be the same in a whole folder: the networks, and every setting that changes results but eps.

    Of several networks each value is a list; ``check_on`` names those that took no part.

    Args:
        record: plain JSON values.
        kind: the class of the settings.
    """
    networks = [record, *record["ensemble"]]
    values: dict[str, Any] = {name: record[name] for name in ("model", "weights_sha256", "view")}
    if len(networks) > 1:
        values = {name: [network[name] for network in networks] for name in values}
    values["check_on"] = list(checked_in(record))
    compared = (each for each in described(kind) if each.about.changes_results and each.name != "eps")
    values |= {each.recorded: each.read(record) for each in compared}
    if record.get("worst_case"):
        values["attack"] = ",".join(record["worst_case"])  # and not the one of them that gave this file
    return values


def checked_in(record: Mapping[str, Any]) -> dict[str, bool]:
    """Return whether the file fools each network that took no part, by its name."""
    return {seen["model"]: seen["fooled"] for seen in record["checked"]}


def differences(
    there: Mapping[str, Any], here: Mapping[str, Any], *, same_eps: bool = True, kind: type[Settings] = Settings
) -> list[str]:
    """Say in which :func:`folder_settings` two records differ, for a person.

    Args:
        there: of the one record.
        here: of the other.
        same_eps: whether both have the same eps; if not, settings that depend on it are passed over.
        kind: the class of the settings.
    """
    by_eps = {each.recorded for each in described(kind) if each.about.by_eps}
    return [
        f"{name} {_in_words(there[name])} there, {_in_words(here[name])} here"
        for name in here
        if there[name] != here[name] and (same_eps or name not in by_eps)
    ]


def _in_words(value: object) -> str:
    return "unset" if value is None else str(value)
