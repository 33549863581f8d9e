"""The files of an attack, on the disk: all of them, or none that is new."""

import logging
import threading
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from advimg.images.perturbation import Amplify, factor_for
from advimg.outcome import Outcome
from advimg.outputs import Outputs
from advimg.record import Record
from advimg.storage.files import sync_folder
from advimg.storage.places import exists, read_bytes, remove, write_whole
from advimg.storage.url import Place

if TYPE_CHECKING:
    from advimg.report.trace_data import TraceData

_drawing = threading.Lock()  # matplotlib is not made for threads


def write_outputs(
    outcome: Outcome,
    outputs: Outputs,
    *,
    amplify: Amplify,
    metadata: bool,
    overwrite: bool,
    unfolding: "TraceData | None" = None,
) -> Record:
    """Write the files of an attack, and return the record that names them.

    Args:
        outcome: of the attack.
        outputs: the files to write.
        amplify: the factor of the perturbation's picture, or "auto".
        metadata: whether the PNG holds its record.
        overwrite: whether files that are there may be replaced.
        unfolding: the steps of the attack, for the trace, which is not written without them.

    Raises:
        OutputError: one of them cannot be written, or exists and ``overwrite`` is false.
    """
    files = encode_outputs(outcome, outputs, amplify=amplify, metadata=metadata, unfolding=unfolding)
    write_files(files, outcome, replaced=files if overwrite else ())
    return replace(outcome.record, outputs={key: str(path) for key, path in outputs})


def encode_outputs(
    outcome: Outcome, outputs: Outputs, *, amplify: Amplify, metadata: bool, unfolding: "TraceData | None" = None
) -> dict[Place, bytes]:
    """Return the bytes of an attack's files, the adversarial PNG first; see :func:`write_outputs`."""
    files = {outputs.adversarial: outcome.png(metadata=metadata)}
    if outputs.perturbation is not None:
        files[outputs.perturbation] = outcome.perturbation_png(amplify, metadata=metadata)
    if outputs.figure is not None:
        files[outputs.figure] = _figure(outcome, amplify)
    if outputs.trace is not None and unfolding is not None:
        files[outputs.trace] = _trace(outcome, unfolding, outputs.trace)
    return files


def write_files(files: Mapping[Place, bytes], outcome: Outcome, *, replaced: Container[Place]) -> None:
    """Write the files of an attack to the disk: each whole, and in the end all or none of those that are new.

    Args:
        files: the bytes of each, the adversarial PNG first, which is reopened and compared before it appears.
        outcome: of the attack.
        replaced: the files that may be there already, and are replaced.

    Raises:
        OutputError: one of them cannot be written, or exists and is not to be replaced.
    """
    new: dict[Place, bytes] = {}
    adversarial = next(iter(files))
    try:
        for path, data in files.items():
            if not exists(path):
                new[path] = data
            check = outcome.holds if path == adversarial else None
            write_whole(path, data, overwrite=path in replaced, check=check, durable=True)
        for folder in dict.fromkeys(path.parent for path in files if isinstance(path, Path)):
            sync_folder(folder)
    except BaseException:
        for path, data in new.items():
            with suppress(OSError):
                if read_bytes(path) == data:  # and not a file that another process wrote there meanwhile
                    remove(path)
        raise


def _figure(outcome: Outcome, amplify: Amplify) -> bytes:
    with _quiet_drawing():
        from advimg.report.figure import draw_figure  # matplotlib takes a while to import

        factor = factor_for(amplify, outcome.record.linf)
        return draw_figure(outcome.record, outcome.photo.levels, outcome.levels, amplify=factor)


def _trace(outcome: Outcome, unfolding: "TraceData", path: Place) -> bytes:
    with _quiet_drawing():
        from advimg.report.trace import draw_trace

        return draw_trace(outcome.record, unfolding, "gif" if path.suffix.lower() == ".gif" else "webp")


@contextmanager
def _quiet_drawing() -> Iterator[None]:
    with _drawing:
        logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it complains when it cannot cache its fonts
        yield
