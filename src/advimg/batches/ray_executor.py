"""Several devices at once: an actor of a Ray cluster on each, one plan and one journal in this process, the driver.

Each actor is a :class:`advimg.batches.ray_actor.PipelineActor`. It is given photos as it has room for them, has files
listed in the journal before it writes them, and reports records, so that the output folder is kept as if one process
wrote there. An actor that is lost is replaced, and its photos go to the others.
"""

import contextlib
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from advimg.batches.ended import failure_line
from advimg.batches.exchange import Task
from advimg.batches.journal_segments import lock_of
from advimg.batches.pipeline import Run
from advimg.batches.plan import Item
from advimg.batches.ray_cluster import Bundle, address_of, joined, own_cluster, own_places, places_on
from advimg.batches.ray_coordinator import Coordinator
from advimg.batches.ray_slot import Slot
from advimg.batches.work_queue import WorkQueue
from advimg.classifiers.load import identity_of
from advimg.classifiers.program import Program
from advimg.classifiers.spec import ModelSpec
from advimg.errors import DeviceError
from advimg.storage.files import marker, sweep
from advimg.storage.places import is_there
from advimg.storage.url import Place


class OnRay:
    """Attacks by the actors of a Ray cluster; nothing is loaded in this process.

    Args:
        places: of the actors.
        own: whether the cluster is of this process's own, on this machine, and begins and ends with :meth:`attack`.
        attacked: the classifiers to attack: one, or several at once.
        check_on: those that are not attacked, whose predictions are recorded.
        progress: whether a download shows a progress bar.
        warn: called with a line for a person, if an actor is lost and the others go on.

    Raises:
        UsageError: no such model.
        ClassifierError: the weights cannot be had.
    """

    def __init__(
        self,
        places: Sequence[Bundle],
        attacked: Sequence[ModelSpec],
        check_on: Sequence[ModelSpec | Program] = (),
        *,
        own: bool,
        progress: bool = True,
        warn: Callable[[str], None],
    ) -> None:
        self._places, self._own, self._warn = places, own, warn
        self._attacked, self._check_on = tuple(attacked), tuple(check_on)
        self.devices = tuple(torch.device(place.device) for place in places)
        # Once, and not in each actor: errors in a model, and on this machine downloads.
        self.classifiers = tuple(identity_of(spec, progress=progress) for spec in attacked)
        self.check_on = tuple(
            each if isinstance(each, Program) else identity_of(each, progress=progress) for each in check_on
        )

    @classmethod
    @contextlib.contextmanager
    def opened(
        cls,
        on: str | None,
        devices: Sequence[str],
        attacked: Sequence[ModelSpec],
        check_on: Sequence[ModelSpec | Program] = (),
        *,
        progress: bool = True,
        warn: Callable[[str], None],
    ) -> Iterator["OnRay"]:
        """Join the cluster, where it is not of our own; it is left at the end of the context.

        Args:
            on: see :func:`advimg.batches.ray_cluster.address_of`; None for a cluster of our own.
            devices: the names of the devices, one an actor; "auto" alone for all that there are.
            attacked: as for the class.
            check_on: as for the class.
            progress: as for the class.
            warn: as for the class.

        Raises:
            UsageError: no such address, device or model.
            ClassifierError: this machine has no such device, or the weights cannot be had.
            DeviceError: the cluster cannot be used, or has no such devices.
        """
        address = None if on is None else address_of(on)
        with contextlib.nullcontext() if address is None else joined(address):
            places = own_places(devices) if address is None else places_on(devices)
            yield cls(places, attacked, check_on, own=address is None, progress=progress, warn=warn)

    def attack(self, items: Sequence[Item], run: Run) -> None:
        """Attack items; see :meth:`advimg.batches.executor.Executor.attack`."""
        places = self._places[: len(items)]
        with contextlib.ExitStack() as stack:
            folder = run.files.folder
            if isinstance(folder, Path):
                # Once the actors have ended; the journal removes unfinished files as it is closed.
                stack.callback(sweep, folder)
            if self._own:
                stack.enter_context(own_cluster(len(places)))
            needed = self._needed(items)
            if isinstance(folder, Path):
                needed |= {stack.enter_context(marker(folder)): f"the output folder {folder}"}
            else:
                needed |= {lock_of(folder): f"the output folder {folder}"}
            coordinator = Coordinator(
                [Slot(place, self._task(place, run, needed, f"{n:02}"), self._own) for n, place in enumerate(places)],
                WorkQueue(items),
                run,
                self._warn,
                lambda item, error, place: failure_line(
                    item,
                    error,
                    run.files,
                    run.options,
                    self.classifiers,
                    self.check_on,
                    device=torch.device(place.device).type,
                    precision=run.options.precision,
                ),
            )
            stack.callback(coordinator.end)
            try:
                coordinator.serve()
            except ConnectionError as error:  # of Ray's client
                raise DeviceError("the Ray cluster no longer answers") from error

    def _task(self, place: Bundle, run: Run, needed: dict[Place, str], tag: str) -> bytes:
        judges = (each if isinstance(each, Program) else self._located(each) for each in self._check_on)
        task = Task(
            device=place.device,
            threads=place.threads,
            attacked=tuple(map(self._located, self._attacked)),
            check_on=tuple(judges),
            files=run.files,
            options=run.options,
            needed=needed,
            tag=tag,
        )
        return pickle.dumps(task)

    def _located(self, spec: ModelSpec) -> ModelSpec:
        """Return a spec whose files are found from any working directory; on this machine it is the same one."""
        if self._own:
            return spec
        labels = spec.labels.absolute() if isinstance(spec.labels, Path) else spec.labels
        onnx = spec.file is not None and spec.file.suffix.lower() == ".onnx"
        model = str(spec.file) if onnx else spec.model
        return replace(
            spec,
            model=model,
            labels=labels,
            weights=spec.weights.absolute() if isinstance(spec.weights, Path) else spec.weights,
        )

    def _needed(self, items: Sequence[Item]) -> dict[Place, str]:
        """Return what each node has to see besides the output folder."""
        needed: dict[Place, str] = {}
        for each in (*self._attacked, *self._check_on):
            if isinstance(each, Program):
                needed[Path(each.command[0])] = f"the program {each.command[0]}"
                continue
            for what, path in (("weights", each.weights), ("labels", each.labels), ("model", each.file)):
                if isinstance(path, Path) and (what != "model" or path.suffix.lower() == ".onnx"):
                    needed[path.absolute()] = f"the {what} {path.absolute()}"
        photo = next((source for item in items if is_there(source := item.key.source)), None)
        return needed if photo is None else needed | {photo: f"the photo {photo}"}
