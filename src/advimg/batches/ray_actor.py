"""An actor: a process of a Ray cluster with one device, which loads its classifiers once and attacks what it is given.

Its pipeline runs in a thread. The driver has one call to it under way at any time, :meth:`PipelineActor.exchange`,
which returns as soon as there is something to report. A file is written only after the driver has answered that it is
listed, so an actor whose driver has ended writes nothing more.

Nothing here imports torch before the thread has begun, and nothing imports Ray: the actor is a plain class.
"""

import itertools
import os
import pickle
import signal
import socket
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

from advimg import __version__
from advimg.batches.exchange import Orders, Report, State, Task
from advimg.errors import AdvimgError, DeviceError, OutputError, first_line
from advimg.storage.places import is_there
from advimg.storage.url import Place

if TYPE_CHECKING:
    from advimg.batches.plan import Item

_ORPHANED = 60.0
"""Seconds without a call of the driver after which it has ended for certain; Ray notices that earlier, as a rule."""


class PipelineActor:
    """A pipeline on one device.

    Args:
        version: the driver's version of advimg.
        task: a pickled :class:`advimg.batches.exchange.Task`, which only the same version can read.
    """

    def __init__(self, version: str, task: bytes) -> None:
        # A terminal sends Ctrl-C to all of its processes; the driver decides what follows.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _exit_on_sigterm()
        warnings.simplefilter("ignore")
        self._host, self._node = socket.gethostname(), _node_id()
        self._changed = threading.Condition()
        self._state: State = "loading"
        self._error: AdvimgError | None = None
        self._begins: dict[int, dict[Place, str]] = {}
        self._answers: dict[int, set[Place] | AdvimgError] = {}
        self._records: list[dict[str, Any]] = []
        self._numbers = itertools.count()
        self._photos: deque[list[Item]] = deque()
        self._room = 0
        self._refused = False
        self._told: State | None = None
        self._stop = threading.Event()
        self._called = time.monotonic()
        if version == __version__:
            threading.Thread(target=self._work, args=(task,), name="pipeline", daemon=True).start()
        else:
            self._end(DeviceError(f"node {self._host} has advimg {__version__}, and not {version} as here"))
        threading.Thread(target=self._watch_driver, name="watch", daemon=True).start()

    def exchange(self, orders: Orders) -> Report:
        """Take orders, and report once there is something to report, or after a while."""
        with self._changed:
            self._called = time.monotonic()
            self._photos.extend(orders.photos)
            self._refused = not orders.photos
            self._answers |= orders.answers
            if orders.stop:
                self._stop.set()
            self._changed.notify_all()
            self._changed.wait_for(self._has_news, orders.patience)
            begins, self._begins = self._begins, {}
            records, self._records = self._records, []
            self._told, self._called = self._state, time.monotonic()
            return Report(
                node=self._node,
                host=self._host,
                process=os.getpid(),
                state=self._state,
                begins=begins,
                records=records,
                wanted=max(0, self._room - len(self._photos)),
                error=self._error,
            )

    def begin(self, hashes: Mapping[Place, str]) -> set[Place]:
        """Have files listed that are about to be written; see :class:`advimg.batches.pipeline.Recorder`."""
        with self._changed:
            number = next(self._numbers)
            self._begins[number] = dict(hashes)
            self._changed.notify_all()
            self._changed.wait_for(lambda: number in self._answers)
            answer = self._answers.pop(number)
        if isinstance(answer, AdvimgError):
            raise answer
        return answer

    def append(self, *records: Mapping[str, Any]) -> None:
        """Have records added to the journal; see :class:`advimg.batches.pipeline.Recorder`."""
        with self._changed:
            self._records.extend(map(dict, records))
            self._changed.notify_all()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> "list[Item]":
        """Return attacks on one photo; an end only says that there are none at present."""
        with self._changed:
            if not self._photos:
                raise StopIteration
            photo = self._photos.popleft()
            self._changed.notify_all()
            return photo

    def _has_news(self) -> bool:
        # Photos are asked for once half of the room is empty, so that not each takes a call of its own.
        wants = not self._refused and self._room > 0 and len(self._photos) <= self._room // 2
        return bool(self._begins or self._records or wants or self._state != self._told)

    def _work(self, task: bytes) -> None:
        try:
            self._attack(pickle.loads(task))
        except AdvimgError as error:
            self._end(error)
        except BaseException as error:
            lost = DeviceError(f"{self._host}: {first_line(error)}")
            lost.add_note(traceback.format_exc())  # tracebacks themselves cannot be sent
            self._end(lost)
        else:
            self._end(None)

    def _attack(self, task: Task) -> None:
        _check_sight(task.needed, self._host)
        import torch

        from advimg.batches.pipeline import Pipeline, Run
        from advimg.classifiers.device import find_device
        from advimg.classifiers.load import load_classifier
        from advimg.classifiers.program import Program
        from advimg.engine.allocator import keep_freed_memory

        keep_freed_memory()
        device = find_device(task.device)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)  # otherwise tensors without a device would lie on the first, another actor's
        if device.type == "cpu" and task.threads is not None:
            torch.set_num_threads(task.threads)
        attacked = [load_classifier(spec, device=task.device, progress=False) for spec in task.attacked]
        check_on = [
            each if isinstance(each, Program) else load_classifier(each, device=task.device, progress=False)
            for each in task.check_on
        ]
        # The driver calls `began` and `ended` itself.
        run = Run(
            task.files, self, task.options, began=lambda: None, ended=lambda _: None, stop=self._stop, tag=task.tag
        )
        pipeline = Pipeline(attacked, check_on, run)
        with self._changed:
            self._room, self._state = pipeline.ahead, "ready"
            self._changed.notify_all()
        while self._wait_for_photos():
            pipeline.run(self)

    def _wait_for_photos(self) -> bool:
        """Wait until there are attacks to make; return False if there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._photos or self._stop.is_set())
        return not self._stop.is_set()

    def _end(self, error: AdvimgError | None) -> None:
        with self._changed:
            self._error, self._state, self._room = error, "ended", 0
            self._changed.notify_all()

    def _watch_driver(self) -> None:
        while time.monotonic() - self._called < _ORPHANED:
            time.sleep(1)
        _exit()


def _check_sight(needed: Mapping[Place, str], host: str) -> None:
    """Find out whether this node sees the files that attacks need.

    Raises:
        OutputError: one is not there, or cannot be read.
    """
    for path, what in needed.items():
        seen = os.access(path, os.R_OK) if isinstance(path, Path) else is_there(path)
        if not seen:
            raise OutputError(f"node {host} does not see {what}; put it where all nodes see it under this path")


def _node_id() -> str:
    from advimg.batches.ray_cluster import node_of_this_process

    return node_of_this_process()


def _exit_on_sigterm() -> None:
    """End programs, too, when this process is asked to end; another thread waits, for Ray's code runs in this one."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: None)

    def wait() -> None:
        while os.read(reader, 1)[0] != signal.SIGTERM:
            pass
        _exit()

    threading.Thread(target=wait, name="sigterm", daemon=True).start()


def _exit() -> NoReturn:
    """End this process whatever its threads do: the driver has ended, and nobody records their files."""
    from advimg.classifiers.program import end_programs

    end_programs()
    os._exit(1)
