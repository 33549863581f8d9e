"""What is recorded of an attack that has ended: the values of its line in the journal."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from advimg.batches.journal_files import sha256_or_none
from advimg.batches.options import Options
from advimg.batches.plan import Files, Item
from advimg.batches.stamps import stamp_before_reading, stamp_of_written
from advimg.classifiers.classifier import Identity
from advimg.classifiers.program import Program
from advimg.errors import AdvimgError
from advimg.outcome import known_before
from advimg.record import Failure
from advimg.storage.stores import StoreError
from advimg.storage.url import Url


def result_line(
    record: Mapping[str, Any], hashes: dict[str, str], source_stamp: str | None, files: Files, options: Options
) -> dict[str, Any]:
    """Return the values of an attack whose files are in place.

    Args:
        record: plain JSON values with absolute paths.
        hashes: of its files, by the record's keys.
        source_stamp: of the photo, from before it was read.
        files: the kinds of files.
        options: of all attacks.
    """
    stamps = {"source": source_stamp}
    stamps |= {kind: stamp_of_written(path, hashes[kind]) for kind, path in record["outputs"].items()}
    line = {
        **record,
        "adversarial_sha256": hashes.get("adversarial"),
        "outputs_sha256": hashes,
        "stamps": {kind: stamp for kind, stamp in stamps.items() if stamp is not None},
    }
    if "perturbation" in hashes:
        line["amplify"] = files.amplify
    return line | options.recorded


def failure_line(
    item: Item,
    error: AdvimgError,
    files: Files,
    options: Options,
    classifiers: Sequence[Identity],
    check_on: Sequence[Identity | Program],
    *,
    device: str,
    precision: str,
) -> dict[str, Any]:
    """Return the values of an attack that has failed.

    Args:
        item: the attack.
        error: why it failed.
        files: the kinds of files.
        options: of all attacks.
        classifiers: those that are attacked.
        check_on: those that take no part.
        device: the type of the device.
        precision: what gradients are computed in.
    """
    source, target, eps = item.key
    asked = known_before(replace(options.settings, eps=eps), classifiers, device, precision, check_on=check_on)
    # A store that did not answer is not asked once more; then the next run does, as the photo has no hash.
    cause = error.__cause__
    unread = isinstance(cause, StoreError) or (isinstance(source, Url) and isinstance(cause, PermissionError))
    stamp = None if unread else stamp_before_reading(source)
    known: dict[str, Any] = {"source_sha256": None if unread else sha256_or_none(source)}
    if isinstance(target, int):
        known["target"] = {"index": target, "name": classifiers[0].labels[target]}
    else:
        known["target_rule"] = target
    record = Failure(str(source), str(error), asked | known).to_dict() | {"tried_with": options.tried_with(device)}
    return result_line(record, {}, stamp, files, options)
