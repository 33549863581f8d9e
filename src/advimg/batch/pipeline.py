"""One stream: photos read ahead, attacked together, their files and records written behind."""

import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from advimg.batch.options import Options
from advimg.batch.plan import Files, Item
from advimg.batch.reader import PhotoReader
from advimg.batch.resume import file_sha256
from advimg.batch.writer import Writer
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.ensemble import Ensemble
from advimg.engine.criterion import Judgement
from advimg.engine.engine import Engine
from advimg.engine.job import Failed, Result
from advimg.errors import AdvimgError, ClassifierError, DiskError, OutputError, PhotoError
from advimg.images.decode import read_photo
from advimg.images.files import make_folder
from advimg.outcome import judge_result, known_before, outcome_of
from advimg.record import Failure, Record
from advimg.writing import write_outputs


class RecordStore(Protocol):
    """What a stream writes down: :class:`advimg.batch.journal.Journal`, or whoever asks it for another process."""

    def claim(self, paths: Iterable[Path]) -> None:
        """Note that files are about to be written."""

    def owns(self, path: Path) -> bool:
        """Tell whether a file is of an attack that has no record."""

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a record, after its files are in place."""


class Pipeline:
    """Attacks items on one classifier, or on several at once, and keeps the journal.

    Args:
        classifiers: what to attack.
        files: which files are written.
        journal: of the output folder.
        options: how to go about it.
        check_on: classifiers that take no part, whose opinion is recorded.
        ended: called with the record of each attack after it is in the journal, in any thread, one at a time.
        stop: once it is set, what is complete is written and the rest is dropped.
    """

    def __init__(
        self,
        classifiers: Sequence[Classifier],
        files: Files,
        journal: RecordStore,
        options: Options,
        *,
        check_on: Sequence[Classifier],
        ended: Callable[[dict[str, Any]], None],
        stop: threading.Event,
    ) -> None:
        self._classifiers = classifiers
        self._watching = Ensemble(check_on) if check_on else None
        self._files = files
        self._journal = journal
        self._options = options
        self._ended = ended
        self._stop = stop
        self._lock = threading.Lock()
        self._engine = Engine(*classifiers, precision=options.precision, batch_size=options.batch_size)

    def run(self, photos: Iterable[Sequence[Item]]) -> None:
        """Attack the items of each photo, which are asked for as there is room.

        Raises:
            DiskError: the disk takes no more.
            ClassifierError: the network does not behave like a classifier.
        """
        settings = self._options.settings
        # As many as can end in one pass are rarely more than half.
        ahead = 2 + self._engine.slots // 2
        read = partial(read_photo, max_pixels=self._options.max_pixels)
        feed = PhotoReader(photos, settings, read=read, refuse=self._fail, ahead=ahead)
        writer = Writer(_writers(), failed=self._stop.set)
        try:
            for end in self._engine.run(feed, stop=self._stop.is_set):
                item = feed.items.pop(end.job)
                # Here and not in the writers' threads: networks take turns.
                writer.put(partial(self._finish, *self._checked(end), item))
        finally:
            feed.close()
            writer.close()

    def _checked(self, end: Result | Failed) -> tuple[Result | Failed, tuple[Judgement, ...]]:
        """Show a result to the classifiers that look on."""
        if self._watching is None or isinstance(end, Failed):
            return end, ()
        try:
            return end, judge_result(end, self._watching)
        except (PhotoError, ClassifierError) as error:
            return Failed(end.job, error.with_traceback(None)), ()

    def _finish(self, end: Result | Failed, checked: Sequence[Judgement], item: Item) -> None:
        """Write the files and the record of one attack."""
        if isinstance(end, Failed):
            self._fail(item, end.error)
            return
        try:
            record = self._write(end, checked, item)
        except DiskError:
            raise
        except OutputError as error:
            self._fail(item, error)
            return
        self._enter(record.to_dict(), file_sha256(item.outputs.adversarial))

    def _write(self, result: Result, checked: Sequence[Judgement], item: Item) -> Record:
        outcome = outcome_of(result, checked=checked)
        make_folder(item.outputs.adversarial.parent)
        paths = [path for _, path in item.outputs]
        self._journal.claim(paths)
        return write_outputs(
            outcome,
            item.outputs,
            amplify=self._files.amplify,
            metadata=self._options.metadata,
            overwrite=self._options.force or all(map(self._journal.owns, paths)),
        )

    def _fail(self, item: Item, error: AdvimgError) -> None:
        source, target, eps = item.key
        settings = replace(self._options.settings, eps=eps)
        check_on = self._watching.classifiers if self._watching else ()
        asked = known_before(
            settings, self._classifiers, self._classifiers[0].device.type, self._engine.precision, check_on=check_on
        )
        known: dict[str, Any] = {"source_sha256": file_sha256(source)}
        if isinstance(target, int):
            known["target"] = {"index": target, "name": self._classifiers[0].labels[target]}
        else:
            known["target_rule"] = target
        self._enter(Failure(str(source), str(error), asked | known).to_dict(), None)

    def _enter(self, record: dict[str, Any], sha256: str | None) -> None:
        line = record | {"adversarial_sha256": sha256, "out_dir": str(self._files.folder)}
        with self._lock:
            self._journal.append(line)
            self._ended(line)


def _writers() -> int:
    return min(4, os.cpu_count() or 1)
