"""Several devices at once, the side of the parent: what there is one of.

Each device has a process that runs :func:`advimg.batch.worker.work`. Plan and journal stay in the parent: a worker asks
it for photos, before it writes files and when they are in place (:mod:`advimg.batch.coordinator`), so that a folder is
kept as if one process wrote there.
"""

import threading
from collections.abc import Callable, Sequence

import torch

from advimg.batch.coordinator import Coordinator
from advimg.batch.executor import Ended
from advimg.batch.journal import Journal
from advimg.batch.options import Options
from advimg.batch.plan import Files, Item
from advimg.batch.worker import Task
from advimg.batch.worker_process import running
from advimg.classifiers.device import find_device
from advimg.classifiers.load import identity_of
from advimg.classifiers.spec import ModelSpec


class SeveralProcesses:
    """Attacks on several devices, each in a process with classifiers of its own; nothing is loaded in this one.

    Args:
        devices: their names; one that is given twice has two processes.
        attacked: what to attack: one classifier, or several at once.
        watching: what takes no part.
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
        watching: Sequence[ModelSpec] = (),
        *,
        progress: bool = True,
        warn: Callable[[str], None],
    ) -> None:
        self._names = devices
        self._specs = tuple(attacked), tuple(watching)
        self._warn = warn
        self.devices = tuple(map(find_device, devices))
        # Here, once, and not in each process: a download, and what is wrong with a model.
        self.classifiers, self.check_on = (
            tuple(identity_of(spec, progress=progress) for spec in specs) for specs in self._specs
        )

    def attack(
        self,
        items: Sequence[Item],
        files: Files,
        journal: Journal,
        options: Options,
        *,
        began: Callable[[], None],
        ended: Ended,
        stop: threading.Event,
    ) -> None:
        """Attack items, as :class:`advimg.batch.executor.Executor` has it."""
        attacked, watching = self._specs
        # Those on the CPU share its cores: threads that wait for each other make a pass many times as slow.
        sharing = sum(device.type == "cpu" for device in self.devices)
        threads = max(1, torch.get_num_threads() // sharing) if sharing else None
        tasks = [
            Task(device=name, threads=threads, attacked=attacked, watching=watching, files=files, options=options)
            for name in self._names[: len(items)]
        ]
        with running(tasks, files.folder) as processes:
            Coordinator(processes, items, journal, began=began, ended=ended, warn=self._warn, stop=stop).run()
