"""Several devices at once: a process for each, one plan and one journal in this process.

Each worker process runs :func:`advimg.batches.worker.work`. It asks this process for photos, before it writes files,
and when they are in place, so that the output folder is kept as if one process wrote there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from typing import Any

import torch

from advimg.batches.journal_entry import Entry
from advimg.batches.pipeline import Run
from advimg.batches.plan import Item
from advimg.batches.work_queue import WorkQueue
from advimg.batches.worker import Task
from advimg.batches.worker_process import WorkerProcess, running
from advimg.classifiers.device import find_device
from advimg.classifiers.load import identity_of
from advimg.classifiers.program import Program
from advimg.classifiers.spec import ModelSpec
from advimg.errors import AdvimgError, DeviceError

_POLL = 0.1
"""Seconds between two checks whether to stop."""


class SeveralProcesses:
    """Attacks on several devices, each in a process with classifiers of its own; nothing is loaded in this one.

    Args:
        devices: their names; one that is given twice has two processes.
        attacked: the classifiers to attack: one, or several at once.
        check_on: those that are not attacked, whose predictions are recorded.
        progress: whether a download shows a progress bar.
        warn: called with a line for a person, if a device is lost and the others go on.

    Raises:
        UsageError: no such device, or no such model.
        ClassifierError: this machine has no such device, or the weights cannot be had.
    """

    def __init__(
        self,
        devices: Sequence[str],
        attacked: Sequence[ModelSpec],
        check_on: Sequence[ModelSpec | Program] = (),
        *,
        progress: bool = True,
        warn: Callable[[str], None],
    ) -> None:
        self._names = devices
        self._attacked, self._check_on = tuple(attacked), tuple(check_on)
        self._warn = warn
        self.devices = tuple(map(find_device, devices))
        # Once, and not in each process: downloads, and errors in a model.
        self.classifiers = tuple(identity_of(spec, progress=progress) for spec in attacked)
        self.check_on = tuple(
            each if isinstance(each, Program) else identity_of(each, progress=progress) for each in check_on
        )

    def attack(self, items: Sequence[Item], run: Run) -> None:
        """Attack items; see :meth:`advimg.batches.executor.Executor.attack`."""
        # Processes on the CPU share its cores: threads that wait for each other make a pass many times as slow.
        sharing = sum(device.type == "cpu" for device in self.devices)
        threads = max(1, torch.get_num_threads() // sharing) if sharing else None
        names = self._names[: len(items)]
        tasks = [Task(name, threads, self._attacked, self._check_on, run.files, run.options) for name in names]
        with running(tasks, run.files.folder) as workers:
            _Coordinator(workers, WorkQueue(items, workers), run, self._warn).serve()


@dataclass(eq=False)
class _Coordinator:
    """Answers the requests of workers, one at a time: none takes long, and nothing needs a lock.

    Attributes:
        workers: those that have not ended.
        idle: those of them that wait for attacks.
        loaded: whether all have loaded their classifiers.
        stopping: whether they were told to stop.
        error: the first error, raised once the complete results are written.
    """

    workers: list[WorkerProcess]
    queue: WorkQueue
    run: Run
    warn: Callable[[str], None]
    idle: list[WorkerProcess] = field(default_factory=list)
    loaded: bool = False
    stopping: bool = False
    error: AdvimgError | None = None

    def serve(self) -> None:
        """Serve the workers until all attacks have ended."""
        # While workers load their classifiers they have nothing to complete.
        while self.workers and (self.loaded or not self.run.stop.is_set()):
            ready = wait([worker.requests for worker in self.workers], _POLL)
            for worker in [worker for worker in self.workers if worker.requests in ready]:
                self._receive(worker)
            self._dispatch()
        if self.error is not None:
            raise self.error

    def _receive(self, worker: WorkerProcess) -> None:
        try:
            verb, *arguments = worker.requests.recv()
        except (EOFError, OSError):
            self._lose(worker, worker.exit_error())
            return
        if verb == "more":
            self.idle.append(worker)
            return
        answer = error = None
        try:
            answer = self._answer(worker, verb, *arguments)
        except AdvimgError as raised:
            self._fail(error := raised)
        worker.answer(answer, error)

    def _answer(self, worker: WorkerProcess, verb: str, *arguments: Any) -> Any:
        match verb, *arguments:
            case "take", *_:
                return None if self.run.stop.is_set() else self.queue.take(worker)
            case "begin", hashes:
                return self.run.journal.begin(hashes)
            case "append", *records:
                self.run.journal.append(*records)
                for record in records:
                    self.queue.done(worker, Entry.of(record).key)
                    self.run.ended(record)
            case "fail", DeviceError() as error:
                self._lose(worker, error)
            case "fail", error:
                self._dismiss(worker)
                self._fail(error)
        return None

    def _dispatch(self) -> None:
        """Let idle workers go on, or end; at a stop, tell all workers."""
        if self.run.stop.is_set() and not self.stopping:
            self.stopping = True
            for worker in self.workers:
                worker.stop()
        busy = len(self.idle) < len(self.workers)
        if not self.loaded:
            if busy or self.run.stop.is_set():
                return  # the first would take the photos of all, and another may fail to load
            self.loaded = True
            self.run.began()
        for worker in tuple(self.idle):
            if self.queue.waiting and not self.run.stop.is_set():
                self.idle.remove(worker)
                worker.answer(True)
            elif self.run.stop.is_set() or not busy:
                self._dismiss(worker)
                worker.finished = True
                worker.answer(False)

    def _lose(self, worker: WorkerProcess, error: DeviceError) -> None:
        """Go on without a worker, if others are left."""
        self._dismiss(worker)
        self.queue.drop(worker)
        if self.run.stop.is_set() or not self.queue.left:
            return
        if self.loaded and self.workers:
            self.warn(f"{error}; its photos go to the other devices")
        else:
            self._fail(error)

    def _dismiss(self, worker: WorkerProcess) -> None:
        self.workers.remove(worker)
        if worker in self.idle:
            self.idle.remove(worker)

    def _fail(self, error: AdvimgError) -> None:
        """Stop all workers, and raise this error in the end, unless there was one before."""
        self.error = self.error or error
        self.run.stop.set()
