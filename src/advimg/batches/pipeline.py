"""Photos read ahead, attacked together, and their files and records written in the background."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from advimg.batches.ended import failure_line, result_line
from advimg.batches.options import Options
from advimg.batches.packer import Packer, Written
from advimg.batches.plan import Files, Item
from advimg.batches.reader import PhotoReader
from advimg.batches.worst_case import WorstCase
from advimg.batches.writer import Writer
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.device import is_out_of_memory
from advimg.classifiers.ensemble import Ensemble
from advimg.classifiers.program import Program
from advimg.engine.capacity import free_cached, machine_memory
from advimg.engine.criterion import Judgement
from advimg.engine.engine import Engine
from advimg.engine.job import Failed, Job, Result
from advimg.engine.program_verdicts import ProgramVerdicts, Stopped
from advimg.errors import AdvimgError, ClassifierError, DiskError, OutputError
from advimg.outcome import Outcome, judge_result, outcome_of
from advimg.storage.places import make_folder
from advimg.storage.url import Place, Url
from advimg.writing import encode_outputs, write_files

if TYPE_CHECKING:
    from advimg.record import CheckedRecord

_WAITING = 16
"""The machine's memory over this may hold photos that are read ahead, and as much those to be written."""
_BYTES_A_PIXEL = 12
"""Of an attack whose files are to be written: the photo, its adversarial picture, and the PNG's bytes."""

Ended = Callable[[dict[str, Any]], None]
"""Called with the record of each attack after it is in the journal, in any thread, one at a time."""


class Recorder(Protocol):
    """The part of a :class:`advimg.batches.journal.Journal` that a pipeline needs; it may be in another process."""

    def begin(self, hashes: Mapping[Place, str]) -> set[Place]:
        """List files that are about to be written, with the SHA-256 of their bytes; return those to be replaced."""

    def append(self, *records: Mapping[str, Any]) -> None:
        """Add records, after their files are in place."""


@dataclass(frozen=True, eq=False)
class Run:
    """One run of a batch.

    Attributes:
        files: the kinds of files to write.
        journal: of the output folder.
        options: of all attacks.
        began: called once the networks are loaded, before the first photo is read.
        ended: called with the record of each attack after it is in the journal, in any thread, one at a time.
        stop: once it is set, what is complete is written and the rest is dropped.
        tag: letters and digits that tell this worker from others that write to the folder; empty where it is alone, or
            where the folder is on one machine.
    """

    files: Files
    journal: Recorder
    options: Options
    _: KW_ONLY
    began: Callable[[], None]
    ended: Ended
    stop: threading.Event
    tag: str = ""


class Pipeline:
    """Attacks items on one classifier, or on several at once, and keeps the journal of a run.

    Args:
        classifiers: those to attack.
        check_on: classifiers and programs that are not attacked, and whose predictions are recorded.
        run: of the batch.
    """

    def __init__(self, classifiers: Sequence[Classifier], check_on: Sequence[Classifier | Program], run: Run) -> None:
        self._classifiers = classifiers
        self._judges = check_on
        networks = [each for each in check_on if isinstance(each, Classifier)]
        self._check_on = Ensemble(networks) if networks else None
        programs = [each for each in check_on if isinstance(each, Program)]
        self._programs = ProgramVerdicts(programs) if programs else None
        self._one_program = threading.Lock()
        self._run = run
        self._options = run.options
        self._lock = threading.Lock()
        self._engine = Engine(*classifiers, precision=run.options.precision, batch_size=run.options.batch_size)

    @property
    def ahead(self) -> int:
        """How many photos are held ready for the network."""
        # Rarely more than half of the attacks end in one pass.
        return 2 + self._engine.batch_size // 2

    def run(self, photos: Iterable[Sequence[Item]]) -> None:
        """Attack the items of each photo, which are taken as there is room.

        The iterator is asked again after it was at its end, as long as photos are attacked: it may have got new ones.

        Raises:
            DiskError: the disk is full.
            ClassifierError: the network does not behave like a classifier.
        """
        waiting = machine_memory() // _WAITING
        reader = PhotoReader(photos, self._options, failed=self._fail, ahead=self.ahead, memory=waiting)
        writer = Writer(failed=self._run.stop.set, memory=waiting, to_store=isinstance(self._run.files.folder, Url))
        packer = self._packer(waiting)
        attacks = WorstCase(self._options.worst_case)
        try:
            for ended in self._engine.run(reader, stop=self._run.stop.is_set):
                item = reader.items.pop(ended.job)
                end = attacks.after(ended, item.key)
                if isinstance(end, Job):
                    reader.put(end, item)
                    continue
                width, height = end.job.photo.size
                # Checked in this thread, because networks take turns.
                job = partial(self._finish, *self._checked(end), item, packer)
                writer.put(job, holding=width * height * _BYTES_A_PIXEL)
        finally:
            reader.close()
            writer.close(packer.flush if packer else lambda: None)

    def _packer(self, memory: int) -> Packer | None:
        if self._options.pack is None:
            return None
        run = self._run
        return Packer(
            run.files.folder,
            self._options.pack,
            begin=run.journal.begin,
            recorded=self._record,
            memory=memory,
            tag=run.tag,
        )

    def _checked(self, end: Result | Failed) -> tuple[Result | Failed, tuple[Judgement, ...]]:
        """Check a result on the classifiers that were not attacked."""
        if self._check_on is None or isinstance(end, Failed):
            return end, ()
        try:
            return end, judge_result(end, self._check_on)
        except AdvimgError as error:
            return Failed(end.job, error.with_traceback(None)), ()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        free_cached(self._check_on.device)
        return Failed(end.job, ClassifierError(f"{end.job.photo.source}: out of memory in {self._check_on.name}")), ()

    def _finish(self, end: Result | Failed, checked: Sequence[Judgement], item: Item, packer: Packer | None) -> None:
        """Write the files and the record of one attack, or leave both to a packer."""
        if isinstance(end, Failed):
            self._fail(item, end.error)
            return
        answers: Sequence[CheckedRecord] = ()
        try:
            if self._programs is not None:
                # One at a time: a program may be a network with threads of its own, and its time is limited.
                with self._one_program:
                    answers = self._programs.judge(end, stop=self._run.stop.is_set)
            outcome = outcome_of(end, checked=checked, answers=answers)
            files = encode_outputs(
                outcome, item.outputs, amplify=self._run.files.amplify, metadata=self._options.metadata
            )
            written = None if packer else self._write(files, outcome, item)
        except Stopped:
            return  # it is in no journal, so the next run makes the attack again
        except DiskError:
            raise
        except AdvimgError as error:
            folder = self._run.files.folder
            if isinstance(error, OutputError) and isinstance(folder, Path) and not os.access(folder, os.W_OK | os.X_OK):
                raise DiskError(str(error)) from error  # so no other photo can be written either
            self._fail(item, error)
        except MemoryError:
            self._fail(item, OutputError(f"{item.key.source}: memory is too short to write its files"))
        else:
            if packer:
                packer.put(outcome, item, files)
            elif written:
                self._record(written)

    def _write(self, files: Mapping[Place, bytes], outcome: Outcome, item: Item) -> Written:
        """Write the files of an attack; return its record, and their hashes."""
        hashes = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
        make_folder(item.outputs.adversarial.parent)
        replaced = self._run.journal.begin(hashes)
        write_files(files, outcome, replaced=files if self._options.force else replaced)
        record = replace(outcome.record, outputs={key: str(path) for key, path in item.outputs})
        return record.to_dict(), {key: hashes[path] for key, path in item.outputs}, item.stamp

    def _fail(self, item: Item, error: AdvimgError) -> None:
        self._append(
            failure_line(
                item,
                error,
                self._run.files,
                self._options,
                self._classifiers,
                self._judges,
                device=self._classifiers[0].device.type,
                precision=self._engine.precision,
            )
        )

    def _record(self, *written: Written) -> None:
        self._append(*(result_line(*each, self._run.files, self._options) for each in written))

    def _append(self, *lines: dict[str, Any]) -> None:
        with self._lock:
            self._run.journal.append(*lines)
            for line in lines:
                self._run.ended(line)
