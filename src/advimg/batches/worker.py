"""Several devices at once: a worker, a process with one device and classifiers of its own."""

import os
import signal
import threading
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from advimg.batches.options import Options
from advimg.batches.pipeline import Pipeline, Run
from advimg.batches.plan import Files, Item
from advimg.classifiers.device import find_device
from advimg.classifiers.load import load_classifier
from advimg.classifiers.program import Program, end_programs
from advimg.classifiers.spec import ModelSpec
from advimg.engine.allocator import keep_freed_memory
from advimg.errors import AdvimgError, DeviceError
from advimg.storage.url import Place

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


@dataclass(frozen=True, slots=True)
class Task:
    """The task of a worker, which can be sent to another process.

    Attributes:
        device: the name of its device.
        threads: the number of its threads on a CPU; None for torch's default.
        attacked: the classifiers to attack.
        check_on: those that are not attacked, whose predictions are recorded.
        files: the kinds of files to write.
        options: of all attacks.
    """

    device: str
    threads: int | None
    attacked: tuple[ModelSpec, ...]
    check_on: tuple[ModelSpec | Program, ...]
    files: Files
    options: Options


class _Parent:
    """The process with the plan and the journal, a :class:`advimg.batches.pipeline.Recorder`; safe in several threads.

    If it has ended, this process ends at once.
    """

    def __init__(self, requests: "Connection[Any, Any]") -> None:
        self._requests = requests
        self._lock = threading.Lock()

    def more(self) -> bool:
        """Wait until there are attacks to make; return False if there will be none."""
        return bool(self._ask("more"))

    def take(self) -> list[Item] | None:
        """Return attacks on one photo; None if there are none at present."""
        items: list[Item] | None = self._ask("take")
        return items

    def begin(self, hashes: Mapping[Place, str]) -> set[Place]:
        replaced: set[Place] = self._ask("begin", dict(hashes))
        return replaced

    def append(self, *records: Mapping[str, Any]) -> None:
        self._ask("append", *map(dict, records))

    def fail(self, error: AdvimgError) -> None:
        """Report the error that ends this worker."""
        self._ask("fail", error)

    def _ask(self, *request: Any) -> Any:
        try:
            with self._lock:
                self._requests.send(request)
                answer, error = self._requests.recv()
        except (EOFError, OSError):
            _exit()
        if error is not None:
            raise error
        return answer


def work(task: Task, requests: "Connection[Any, Any]", stop: "Connection[Any, Any]") -> None:
    """Make attacks until there are no more.

    Args:
        task: the task.
        requests: to the parent; each request has one answer.
        stop: a message means to stop, its end that the parent has ended.
    """
    # A terminal sends Ctrl-C to all of its processes; the parent decides what follows.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")  # each worker would print them, across the line that shows the progress
    stopped = threading.Event()
    threading.Thread(target=_wait_for_stop, args=(stop, stopped), name="stop", daemon=True).start()
    parent = _Parent(requests)
    try:
        _attack(task, parent, stopped)
    except AdvimgError as error:
        parent.fail(error)
    except Exception as error:
        text = next(iter(str(error).splitlines()), "") or "no message"
        lost = DeviceError(f"{task.device}: {type(error).__name__}: {text}")
        lost.add_note(traceback.format_exc())  # tracebacks themselves cannot be sent
        parent.fail(lost)


def _attack(task: Task, parent: _Parent, stop: threading.Event) -> None:
    keep_freed_memory()
    device = find_device(task.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # otherwise tensors without a device would lie on the first, another worker's
    if device.type == "cpu" and task.threads is not None:
        torch.set_num_threads(task.threads)
    attacked = [load_classifier(spec, device=task.device, progress=False) for spec in task.attacked]
    check_on = [
        each if isinstance(each, Program) else load_classifier(each, device=task.device, progress=False)
        for each in task.check_on
    ]
    # The parent calls `began` and `ended` itself.
    run = Run(task.files, parent, task.options, began=lambda: None, ended=lambda _: None, stop=stop)
    pipeline = Pipeline(attacked, check_on, run)
    while parent.more():
        pipeline.run(iter(parent.take, None))


def _wait_for_stop(stop: "Connection[Any, Any]", stopped: threading.Event) -> None:
    try:
        while True:
            stop.recv()
            stopped.set()
    except (EOFError, OSError):
        _exit()


def _exit() -> NoReturn:
    """End this process whatever its threads do: the parent has ended, and nobody records their files."""
    end_programs()
    os._exit(1)
