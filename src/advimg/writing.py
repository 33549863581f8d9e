"""The files of an attack, on the disk: all of them, or none that is new."""

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from advimg.images.files import write_whole
from advimg.images.perturbation import Amplify, factor_for
from advimg.outcome import Outcome
from advimg.outputs import Outputs
from advimg.record import Record

if TYPE_CHECKING:
    from pathlib import Path

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
    """Write the files of an attack, the adversarial PNG first, and return the record that names them.

    If one of them cannot be written, or the work is interrupted, those that are new do not stay behind either.

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
    absent = {path for _, path in outputs if not os.path.lexists(path)}
    written: list[Path] = []
    try:
        written.append(outcome.save(outputs.adversarial, metadata=metadata, overwrite=overwrite))
        if outputs.perturbation is not None:
            picture = outcome.perturbation_png(amplify, metadata=metadata)
            write_whole(outputs.perturbation, picture, overwrite=overwrite)
            written.append(outputs.perturbation)
        if outputs.figure is not None:
            write_whole(outputs.figure, _figure(outcome, amplify), overwrite=overwrite)
            written.append(outputs.figure)
        if outputs.trace is not None and unfolding is not None:
            write_whole(outputs.trace, _trace(outcome, unfolding, outputs.trace), overwrite=overwrite)
    except BaseException:
        for path in absent.intersection(written):
            path.unlink(missing_ok=True)
        raise
    return replace(outcome.record, outputs={key: str(path) for key, path in outputs})


def _figure(outcome: Outcome, amplify: Amplify) -> bytes:
    with _quiet_drawing():
        from advimg.report.figure import draw_figure  # matplotlib takes a while to import

        factor = factor_for(amplify, outcome.record.linf)
        return draw_figure(outcome.record, outcome.photo.levels, outcome.levels, amplify=factor)


def _trace(outcome: Outcome, unfolding: "TraceData", path: "Path") -> bytes:
    with _quiet_drawing():
        from advimg.report.trace import draw_trace

        return draw_trace(outcome.record, unfolding, "gif" if path.suffix.lower() == ".gif" else "webp")


@contextmanager
def _quiet_drawing() -> Iterator[None]:
    with _drawing:
        logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it complains when it cannot cache its fonts
        yield
