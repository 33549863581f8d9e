"""The journal's line of an attack that has failed."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from advimg.batches.journal_files import sha256_or_none
from advimg.batches.options import Options
from advimg.batches.plan import Item
from advimg.classifiers.classifier import Identity
from advimg.classifiers.program import Program
from advimg.errors import AdvimgError
from advimg.outcome import known_before
from advimg.record import Failure


def failure_line(
    item: Item,
    error: AdvimgError,
    options: Options,
    classifiers: Sequence[Identity],
    check_on: Sequence[Identity | Program],
    *,
    device: str,
    precision: str,
) -> dict[str, Any]:
    """Return the line as plain JSON values.

    Args:
        item: the attack.
        error: why it failed.
        options: of all attacks.
        classifiers: those that are attacked.
        check_on: those that take no part.
        device: the type of the device.
        precision: what gradients are computed in.
    """
    source, target, eps = item.key
    asked = known_before(replace(options.settings, eps=eps), classifiers, device, precision, check_on=check_on)
    known: dict[str, Any] = {"source_sha256": sha256_or_none(source)}
    if isinstance(target, int):
        known["target"] = {"index": target, "name": classifiers[0].labels[target]}
    else:
        known["target_rule"] = target
    record = Failure(str(source), str(error), asked | known).to_dict() | {"tried_with": options.tried_with(device)}
    return line_of(record, {}, options)


def line_of(record: dict[str, Any], hashes: dict[str, str], options: Options) -> dict[str, Any]:
    """Return a record as a line of the journal: with the hashes of its files, by the record's keys."""
    line = record | {"adversarial_sha256": hashes.get("adversarial"), "outputs_sha256": hashes}
    return line | options.recorded
