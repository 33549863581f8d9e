"""Workers of several devices that behave badly, started in the place of the real one, in processes of their own.

A spawned process does not see the patches of a test, so these functions patch in the worker itself.
"""

import os
from typing import TYPE_CHECKING, Any

import torch

from advimg.batches import pipeline
from advimg.batches.worker import Task, work

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def breaks_down(task: Task, requests: "Connection[Any, Any]", stop: "Connection[Any, Any]") -> None:
    """Work on a device that fails after the photos have been taken."""

    def fail(self: pipeline.Pipeline, photos: Any) -> None:
        next(iter(photos))
        raise RuntimeError(f"device error with {torch.get_num_threads()} threads\nand a second line")

    pipeline.Pipeline.run = fail  # type: ignore[method-assign]
    work(task, requests, stop)


def one_breaks_down(task: Task, requests: "Connection[Any, Any]", stop: "Connection[Any, Any]") -> None:
    """Be the one of several that works on such a device."""
    try:
        os.close(os.open(str(task.files.folder.parent / "broken"), os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        work(task, requests, stop)
    else:
        breaks_down(task, requests, stop)
