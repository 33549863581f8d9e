"""A batch from its plan to its summary."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from advimg.batches.executor import Executor, InProcess
from advimg.batches.journal import Journal
from advimg.batches.journal_entry import Entry, folder_settings, key_of
from advimg.batches.options import Options
from advimg.batches.pipeline import Ended, Run
from advimg.batches.plan import Files, Key
from advimg.batches.ray_executor import OnRay
from advimg.batches.resume import compare_with_journal
from advimg.batches.stats import SUMMARY, BatchStats
from advimg.classifiers.classifier import Identity
from advimg.classifiers.program import Program
from advimg.classifiers.spec import ModelSpec
from advimg.errors import OutputError, UsageError
from advimg.models import Models
from advimg.outcome import known_before
from advimg.outputs import is_summary
from advimg.record import Target
from advimg.report.accuracy import TrueClasses, accuracies_of
from advimg.report.results_table import NAME as TABLE
from advimg.report.results_table import is_results_table, results_table
from advimg.settings import Eps
from advimg.storage.places import exists, write_whole
from advimg.storage.url import Place


@contextlib.contextmanager
def opened(
    keys: Sequence[Key],
    files: Files,
    models: Models,
    options: Options,
    *,
    true_labels: Mapping[Place, int] = MappingProxyType({}),
    devices: Sequence[str] = ("auto",),
    on: str | None = None,
    progress: bool = True,
    warn: Callable[[str], None],
) -> Iterator["Batch"]:
    """Lock the output folder, load the models and hold the plan against the journal; the lock lasts like the context.

    Args:
        keys: what to attack, each once, those of one photo together.
        files: which files to write.
        models: what to attack, and what to check on.
        options: of all attacks.
        true_labels: the classes of photos, where they are known, as the first model counts.
        devices: one, or several, each with an actor of Ray, a process of its own.
        on: the Ray cluster that makes the attacks (:func:`advimg.batches.ray_cluster.address_of`); None for this
            process, or with several devices for a cluster on this machine.
        progress: whether a download shows a progress bar on stderr.
        warn: called with a line for a person, if an actor is lost and the others go on.

    Raises:
        UsageError: no such device, or several devices and a model that is loaded already.
        OutputError: another process writes to the folder, it was begun with other settings, or a file is in the way.
        ClassifierError: a model cannot be loaded.
        DeviceError: the cluster cannot be used.
    """
    with contextlib.ExitStack() as stack:
        journal = stack.enter_context(Journal.opened(files.folder, warn=warn))
        executor: Executor
        if on is not None or len(devices) > 1:
            attacked = [each for each in models.attacked if isinstance(each, ModelSpec)]
            check_on = [each for each in models.check_on if isinstance(each, ModelSpec | Program)]
            if len(attacked) + len(check_on) < len(models.attacked) + len(models.check_on):
                raise UsageError("several devices load each model themselves; give models by name or as TOML files")
            executor = stack.enter_context(OnRay.opened(on, devices, attacked, check_on, progress=progress, warn=warn))
        else:
            executor = InProcess(*models.load(*devices, progress=progress))
        yield Batch(keys, files, executor, journal, options, true_labels)


class Batch:
    """The attacks of one run into one folder.

    Args:
        keys: what to attack, each once, those of one photo together.
        files: which files to write.
        executor: who makes the attacks, and what is attacked.
        journal: of the output folder.
        options: of all attacks.
        true_labels: the classes of photos, where they are known, as the first classifier counts.

    Attributes:
        stats: the counts so far.
        true_classes: of photos, as each network counts.

    Raises:
        OutputError: the folder was begun with other settings, or a file is in the way.
    """

    def __init__(
        self,
        keys: Sequence[Key],
        files: Files,
        executor: Executor,
        journal: Journal,
        options: Options,
        true_labels: Mapping[Place, int] = MappingProxyType({}),
    ) -> None:
        self._keys = keys
        self._files = files
        self._executor = executor
        self._journal = journal
        self._options = options
        self._check_sums()
        networks = [each for each in (*executor.classifiers, *executor.check_on) if isinstance(each, Identity)]
        self.true_classes = _true_classes(true_labels, networks) if true_labels else {}
        work = compare_with_journal(
            keys,
            files,
            executor.classifiers[0].labels,
            journal,
            asked=lambda eps: folder_settings(self._known(eps), type(options.settings)),
            options=options,
            devices={device.type for device in executor.devices},
        )
        self._pending = work.pending
        self.stats = BatchStats(len(keys))
        for entry in work.finished:
            self.stats.add(entry, earlier=True)

    @property
    def places(self) -> list[str]:
        """Which classifiers are attacked where, a line each."""
        devices = ", ".join(map(str, self._executor.devices))
        return [f"{classifier.name} on {devices}" for classifier in self._executor.classifiers]

    def run(self, *, stop: threading.Event, ended: Ended) -> None:
        """Attack what is to do, and write the summary and the table; a run that ends before it has begun leaves none.

        Args:
            stop: once it is set, what is complete is written and the rest is left for another run.
            ended: called with each record.

        Raises:
            DiskError: the disk takes no more.
            ClassifierError: the network does not behave like a classifier.
            DeviceError: a device cannot be used, or none is left.
        """
        begun = not self._pending

        def count(record: dict[str, Any]) -> None:
            self.stats.add(Entry.of(record))
            ended(record)

        def begin() -> None:
            nonlocal begun
            begun = True
            self.stats.start()

        try:
            if self._pending:
                if self._options.pack is None and self._options.metadata:
                    # Else names say nothing: files have others, or cannot be told from those of others.
                    self._journal.expect(path for item in self._pending for _, path in item.outputs)
                run = Run(self._files, self._journal, self._options, began=begin, ended=count, stop=stop)
                self._executor.attack(self._pending, run)
        finally:
            self.stats.end()
            if begun:
                self._summarise()

    def _check_sums(self) -> None:
        own = {SUMMARY: ("summary", is_summary), TABLE: ("table", is_results_table)}
        for name, (what, is_own) in own.items():
            path = self._files.folder / name
            if exists(path) and not self._options.force and not is_own(path):
                raise OutputError(f"{path} exists and is no {what} of a batch; choose another -O, or --force")

    def _summarise(self) -> None:
        folder, known = self._files.folder, self._known(self._options.settings.eps)
        try:
            self._journal.flush()
            if self.true_classes:
                keys = frozenset(self._keys)
                planned = (record for record in self._journal.records() if key_of(record) in keys)
                self.stats.accuracies = accuracies_of(planned, self.true_classes)
            text = json.dumps(self.stats.summary(known), indent=2) + "\n"
            write_whole(folder / SUMMARY, text.encode("ascii"), overwrite=True)
            table = results_table(self._journal.records(), folder, self.true_classes)
            write_whole(folder / TABLE, table, overwrite=True)
        except OutputError:
            # Else something has stopped the run, and that is the error to report.
            if self.stats.done == self.stats.total:
                raise

    def _known(self, eps: Eps) -> dict[str, Any]:
        """Return the fields of a record that are known before an attack with this eps."""
        settings, executor = replace(self._options.settings, eps=eps), self._executor
        device = " and ".join(dict.fromkeys(device.type for device in executor.devices))
        known = known_before(
            settings, executor.classifiers, device, self._options.precision, check_on=executor.check_on
        )
        return known | self._options.recorded


def _true_classes(true_labels: Mapping[Place, int], networks: Sequence[Identity]) -> TrueClasses:
    """Return the classes of photos as each network counts; the indices given are those of the first."""
    first = networks[0].labels
    classes: TrueClasses = {}
    photos = {str(photo): index for photo, index in true_labels.items()}
    for network in networks:
        targets = {
            index: Target(network.labels.counterpart(index, first[index]), first[index])
            for index in set(photos.values())
        }
        classes = {**classes, network.name: {photo: targets[index] for photo, index in photos.items()}}
    return classes
