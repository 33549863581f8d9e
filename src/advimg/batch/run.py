"""A batch from its plan to its summary."""

import json
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from advimg.batch.executor import Executor
from advimg.batch.journal import Entry, Journal, asked_in
from advimg.batch.options import Options
from advimg.batch.pipeline import Ended, Run
from advimg.batch.plan import Files, Key
from advimg.batch.resume import compare_with_journal
from advimg.batch.stats import BatchStats
from advimg.errors import OutputError
from advimg.images.files import write_whole
from advimg.outcome import asked_of
from advimg.outputs import is_summary
from advimg.settings import Eps

SUMMARY = "summary.json"


class Batch:
    """The attacks of one run into one folder.

    Args:
        keys: what to attack, each once, those of one photo together.
        files: which files to write.
        executor: who makes the attacks, and what is attacked.
        journal: of the output folder.
        options: how to go about it.

    Attributes:
        stats: what became of it so far.

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
    ) -> None:
        self._files = files
        self._executor = executor
        self._journal = journal
        self._options = options
        self._check_summary()
        work = compare_with_journal(
            keys,
            files,
            executor.classifiers[0].labels,
            journal,
            asked=lambda eps: asked_in(self._asked(eps)),
            force=options.force,
            retry_failed=options.retry_failed,
        )
        self._pending = work.pending
        self.stats = BatchStats(len(keys))
        for entry in work.finished:
            self.stats.add(entry, earlier=True)

    def run(self, *, stop: threading.Event, ended: Ended) -> None:
        """Attack what is to do, and write the summary; a run that ends before it has begun leaves none.

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
                run = Run(self._files, self._journal, self._options, began=begin, ended=count, stop=stop)
                self._executor.attack(self._pending, run)
        finally:
            self.stats.end()
            if begun:
                self._summarise()

    def _check_summary(self) -> None:
        path = self._files.folder / SUMMARY
        if os.path.lexists(path) and not self._options.force and not is_summary(path):
            raise OutputError(f"{path} exists and is no summary of a batch; choose another -O, or --force")

    def _summarise(self) -> None:
        asked = self._asked(self._options.settings.eps) | {"precision": self._options.precision}
        text = json.dumps(self.stats.summary(asked), indent=2) + "\n"
        try:
            write_whole(self._files.folder / SUMMARY, text.encode("ascii"), overwrite=True)
        except OutputError:
            if self.stats.done == self.stats.total:  # else something has stopped the run, and that is what to tell
                raise

    def _asked(self, eps: Eps) -> dict[str, Any]:
        settings, executor = replace(self._options.settings, eps=eps), self._executor
        device = " and ".join(dict.fromkeys(device.type for device in executor.devices))
        return asked_of(settings, executor.classifiers, device, self._options.precision, check_on=executor.check_on)
