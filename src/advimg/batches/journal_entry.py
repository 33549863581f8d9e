"""What a journal knows of an attack that has ended, as far as a later run needs it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from advimg.batches.plan import Key
from advimg.settings import Settings, described
from advimg.storage.url import Place, path_or_url


@dataclass(frozen=True, slots=True)
class Entry:
    """The journal's record of one attack, as far as a later run needs it.

    Attributes:
        source_sha256: of the photo that was attacked; None where it could not be read.
        outputs: the files that were written, by the record's keys.
        outputs_sha256: the hashes of these files, by the same keys; of the PNG alone in journals of earlier versions.
        settings: as :func:`folder_settings` returns them.
        error: why there is no result; None if there is one.
        tried_with: of a failure, what it may depend on (:meth:`advimg.batches.options.Options.tried_with`).
        fooled: whether the file shows the target.
        gradients: passes through the network.
        checked: whether the file fools each network that took no part, by its name.
        unanswered: why programs that took no part gave no answer, by their names.
        delta_e: the mean colour difference CIEDE2000 of what changed; None where nothing did or it was not measured.
    """

    key: Key
    source_sha256: str | None
    outputs: dict[str, Place]
    outputs_sha256: dict[str, str]
    settings: dict[str, Any]
    error: str | None
    tried_with: dict[str, Any] | None
    fooled: bool
    gradients: int
    checked: dict[str, bool]
    unanswered: dict[str, str] = field(default_factory=dict)
    delta_e: float | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """Read a record that is known to be one."""
        target = record["target_rule"] or record["target"]["index"]
        return cls(
            key=Key(path_or_url(record["source"]), target, "auto" if record["max_eps"] is not None else record["eps"]),
            source_sha256=record["source_sha256"],
            outputs={key: path_or_url(path) for key, path in record["outputs"].items()},
            outputs_sha256=dict(
                record["outputs_sha256"]
                if "outputs_sha256" in record
                else {"adversarial": record["adversarial_sha256"]}
            ),
            settings=folder_settings(record),
            error=record["error"],
            tried_with=record.get("tried_with"),
            fooled=record["fooled"],
            gradients=record["gradients"] or 0,
            checked=checked_in(record),
            unanswered={seen["model"]: seen["error"] for seen in record["checked"] if seen.get("error")},
            delta_e=(record.get("visibility") or {}).get("delta_e_mean"),
        )


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
