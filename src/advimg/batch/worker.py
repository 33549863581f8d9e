"""Several devices at once, the side of a worker: a process with one device and with classifiers of its own."""

import os
import signal
import threading
import traceback
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from advimg.batch.options import Options
from advimg.batch.pipeline import Pipeline
from advimg.batch.plan import Files, Item
from advimg.classifiers.device import find_device
from advimg.classifiers.load import load_classifier
from advimg.classifiers.spec import ModelSpec
from advimg.engine.allocator import keep_freed_memory
from advimg.errors import AdvimgError, DeviceError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a worker is told; all of it can be sent to another process.

    Attributes:
        device: the name of its device.
        threads: with how many it computes on a CPU; None for as many as torch likes.
        attacked: what to attack.
        watching: what takes no part.
        files: which files are written.
        options: how to go about it.
    """

    device: str
    threads: int | None
    attacked: tuple[ModelSpec, ...]
    watching: tuple[ModelSpec, ...]
    files: Files
    options: Options


class Parent:
    """The process that has the plan and the journal, as its worker asks it; safe to use from several threads.

    If it is gone, so is whoever wanted this worker, which then ends at once.
    """

    def __init__(self, calls: "Connection[Any, Any]") -> None:
        self._calls = calls
        self._lock = threading.Lock()

    def more(self) -> bool:
        """Wait until there are attacks to make; return False at the end of all."""
        return bool(self._ask("more"))

    def take(self) -> list[Item] | None:
        """Return attacks on one photo; None if there are none at present."""
        items: list[Item] | None = self._ask("take")
        return items

    def claim(self, paths: Iterable[Path]) -> None:
        """Note that files are about to be written, as the journal does."""
        self._ask("claim", list(paths))

    def owns(self, path: Path) -> bool:
        """Tell whether a file is of an attack that the journal does not hold."""
        return bool(self._ask("owns", path))

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record to the journal, after its files are in place."""
        self._ask("append", dict(record))

    def give_up(self, error: AdvimgError) -> None:
        """Say why this worker ends before the others."""
        self._ask("give up", error)

    def _ask(self, *question: Any) -> Any:
        try:
            with self._lock:
                self._calls.send(question)
                answer, error = self._calls.recv()
        except (EOFError, OSError):
            _exit_now()
        if error is not None:
            raise error
        return answer


def work(task: Task, calls: "Connection[Any, Any]", control: "Connection[Any, Any]") -> None:
    """Make attacks until there are no more.

    Args:
        task: what to do.
        calls: where to ask the parent; each question has one answer.
        control: whatever comes here means to stop, its end that the parent has gone.
    """
    # A terminal sends Ctrl-C to all of its processes; it is the parent who says what comes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")  # each would be shown by each worker, across the line that shows how far all are
    stop = threading.Event()
    threading.Thread(target=_listen, args=(control, stop), name="control", daemon=True).start()
    parent = Parent(calls)
    try:
        _attack(task, parent, stop)
    except AdvimgError as error:
        parent.give_up(error)
    except Exception as error:
        text = next(iter(str(error).splitlines()), "") or "no message"
        lost = DeviceError(f"{task.device}: {type(error).__name__}: {text}")
        lost.add_note(traceback.format_exc())  # tracebacks themselves cannot be sent
        parent.give_up(lost)


def _attack(task: Task, parent: Parent, stop: threading.Event) -> None:
    keep_freed_memory()
    device = find_device(task.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # else what names no device would lie on the first, which is another's
    if device.type == "cpu" and task.threads is not None:
        torch.set_num_threads(task.threads)
    attacked, watching = (
        [load_classifier(spec, device=task.device, progress=False) for spec in specs]
        for specs in (task.attacked, task.watching)
    )
    # What has ended is told by the parent, as it has the record.
    stream = Pipeline(attacked, task.files, parent, task.options, check_on=watching, ended=lambda _: None, stop=stop)
    while parent.more():
        stream.run(iter(parent.take, None))


def _listen(control: "Connection[Any, Any]", stop: threading.Event) -> None:
    """Hear what the parent says unasked."""
    try:
        while True:
            control.recv()
            stop.set()
    except (EOFError, OSError):
        _exit_now()


def _exit_now() -> NoReturn:
    """End at once, whatever other threads do: what they would write belongs to nobody now."""
    os._exit(1)
