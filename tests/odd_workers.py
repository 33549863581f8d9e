"""Workers of several devices that behave badly, started in the place of the real one, in processes of their own.

A process that is spawned knows nothing of what a test has patched, so what is patched here is patched there.
"""

import os
from typing import TYPE_CHECKING, Any

import torch

from advimg.batch import stream
from advimg.batch.worker import Task, work

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def breaks_down(task: Task, calls: "Connection[Any, Any]", leash: "Connection[Any, Any]") -> None:
    """Work on a device that fails after the photos have been taken."""

    def fail(self: stream.Stream, photos: Any) -> None:
        next(iter(photos))
        raise RuntimeError(f"device error with {torch.get_num_threads()} threads\nand a second line")

    stream.Stream.run = fail  # type: ignore[method-assign]
    work(task, calls, leash)


def one_breaks_down(task: Task, calls: "Connection[Any, Any]", leash: "Connection[Any, Any]") -> None:
    """Be the one of several that works on such a device."""
    try:
        os.close(os.open(task.files.folder.parent / "broken", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        work(task, calls, leash)
    else:
        breaks_down(task, calls, leash)
