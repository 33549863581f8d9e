"""Judges that are programs: started with the path of a picture, they print what they see in it.

``exec:./predict`` names one, ``exec:python judge.py`` one with arguments. It is started without a shell, in the working
directory, with the picture's absolute path as its last argument and nothing on stdin. It prints one JSON value, a label
with its confidence (0..1) or a list of such in any order, as the pipelines of Hugging Face do::

    {"label": "tabby", "confidence": 0.93}
    [{"label": "tabby", "score": 0.93}, {"label": "tiger cat", "score": 0.05}]

A label that stands alone needs no confidence. Labels are words: a program knows no indices, and has no gradient.

Records know a program by its name alone. A folder that goes on after the program has changed holds answers of both.
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Self

import msgspec
from msgspec import Meta

from advimg.errors import ClassifierError, RecordError, UsageError
from advimg.formatting import printable, shortened
from advimg.record import Answer
from advimg.record_schema import parse_json

PREFIX = "exec:"
"""What the name of a program begins with."""

LIMIT = 60.0
"""The seconds that a program has for a picture."""

_MOST_OUTPUT, _MOST_ERRORS = 4 << 20, 1 << 16
"""The most bytes of stdout, and of stderr, that are kept."""
_LONGEST_NAME, _LONGEST_LINE = 1000, 200
_FORM = '{"label": "tabby", "confidence": 0.93} or a list of such'

_lock = threading.RLock()
"""Held while what follows changes; for good by :func:`end_programs`, so that no thread starts another program."""
_running: set[subprocess.Popen[bytes]] = set()
_folders: set[Path] = set()

_Confidence = Annotated[float, Meta(ge=0, le=1.00001)]  # a softmax in 32 bits may be a little above 1


class _Said(msgspec.Struct):
    """A label as a program prints it; other keys are passed over."""

    label: Annotated[str, Meta(max_length=1000, pattern=r"\S")]
    confidence: _Confidence | None = None
    score: _Confidence | None = None

    def answer(self) -> Answer:
        confidence = self.score if self.confidence is None else self.confidence
        return Answer(None, self.label.strip(), None if confidence is None else round(min(confidence, 1.0), 6))


@dataclass(frozen=True, slots=True)
class Program:
    """A program that judges pictures.

    Attributes:
        name: as it was given, and as the record has it: ``exec:./predict``.
        command: the absolute path of the program, and its arguments.
        limit: the seconds it has for a picture.
    """

    name: str
    command: tuple[str, ...]
    limit: float

    @classmethod
    def of(cls, name: str) -> Self:
        """Find the program of a name, by a path from the working directory or on ``PATH``.

        Raises:
            UsageError: the name has no program in it.
            ClassifierError: there is no such program, or it cannot be executed.
        """
        if len(name) > _LONGEST_NAME or "\0" in name:
            raise UsageError(f"{printable(name, 100)}: this cannot be the name of a program")
        try:
            word, *arguments = shlex.split(name.removeprefix(PREFIX))
        except ValueError as error:
            message = f"{error}" if name.removeprefix(PREFIX).strip() else "give a program, such as exec:./predict"
            raise UsageError(f"{name}: {message}") from None
        return cls(name, (_found(word, name), *arguments), LIMIT)

    def judge(self, picture: Path) -> tuple[Answer, ...]:
        """Return what the program sees in a picture's file, the most probable first.

        Raises:
            ClassifierError: it cannot be started, fails, gives no answer in time, or prints something else.
        """
        printed = self._run(picture)
        try:
            value = parse_json(printed.decode("utf-8-sig"))
            said = msgspec.convert(value, _Said | Annotated[list[_Said], Meta(min_length=1)])
        except UnicodeDecodeError:
            raise ClassifierError(f"{self.name} prints what is no UTF-8; it has to print JSON") from None
        except RecordError as error:
            what = f"prints no JSON ({error})" if printed.strip() else "prints nothing"
            raise ClassifierError(f"{self.name} {what}; it has to print {_FORM}") from None
        except msgspec.ValidationError as error:
            reason = printable(str(error), _LONGEST_LINE)
            raise ClassifierError(f"{self.name} prints other JSON ({reason}); it has to print {_FORM}") from None
        answers = [each.answer() for each in (said if isinstance(said, list) else [said])]
        if len(answers) > 1 and any(each.confidence is None for each in answers):
            raise ClassifierError(
                f"{self.name} prints several labels, not all with a confidence; it has to print {_FORM}"
            )
        return tuple(sorted(answers, key=lambda each: -(each.confidence or 0)))

    def _run(self, picture: Path) -> bytes:
        """Run the program and return what it prints on stdout; nothing of it is left running."""
        try:
            with _lock:
                process = subprocess.Popen(
                    [*self.command, str(picture)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    bufsize=0,
                    start_new_session=True,  # so that its children can be ended with it, and Ctrl-C is not for them
                )
                _running.add(process)
        except OSError as error:
            raise ClassifierError(f"{self.name} cannot be started: {error.strerror or error}") from error
        assert process.stdout is not None
        assert process.stderr is not None
        out = _Reader(process.stdout, _MOST_OUTPUT, full=process.kill)
        errors = _Reader(process.stderr, _MOST_ERRORS)
        status = None
        try:
            out.start()
            errors.start()
            status = process.wait(self.limit)
        except subprocess.TimeoutExpired:
            raise ClassifierError(f"{self.name} gives no answer in {self.limit:g} s, and was stopped") from None
        finally:
            with _lock:
                _kill(process)
                _running.discard(process)
            process.wait()
            for reader in (out, errors):
                if reader.ident is not None:
                    reader.join(1)  # a child that has left the group may hold the pipe for as long as it likes
        if out.is_full:
            raise ClassifierError(f"{self.name} prints more than {_MOST_OUTPUT >> 20} MiB; it has to print {_FORM}")
        if status:
            why = f"exit status {status}" if status > 0 else f"signal {-status}"
            told = _told(errors.kept)
            raise ClassifierError(f"{self.name} ends with {why}{f': {told}' if told else ''}")
        return bytes(out.kept)


class _Reader(threading.Thread):
    """Reads a pipe to its end, keeps the first bytes, and closes it.

    Attributes:
        kept: the first bytes, no more than ``most``.
        is_full: whether there were more.
    """

    def __init__(self, pipe: IO[bytes], most: int, *, full: Callable[[], None] = lambda: None) -> None:
        super().__init__(name="exec", daemon=True)
        self.kept = bytearray()
        self.is_full = False
        self._pipe, self._most, self._full = pipe, most, full

    def run(self) -> None:
        with self._pipe:
            while piece := self._pipe.read(1 << 16):
                room = self._most - len(self.kept)
                self.kept += piece[:room]
                if len(piece) > room and not self.is_full:
                    self.is_full = True
                    self._full()


@contextlib.contextmanager
def pictures_folder() -> Iterator[Path]:
    """Give a temporary folder for what programs are to judge; it lasts like the context.

    Raises:
        OSError: there is no room for it.
    """
    # A program that was ended may still hold files for a moment, on Windows.
    with _lock:
        folder = tempfile.TemporaryDirectory(prefix="advimg-", ignore_cleanup_errors=True)
        path = Path(folder.name).absolute()
        _folders.add(path)
    try:
        yield path
    finally:
        folder.cleanup()
        with _lock:
            _folders.discard(path)


def end_programs() -> None:
    """End all programs and remove their pictures, in a process that ends at once and waits for none of its threads.

    Threads that wait for a program, or want to start one, wait from now on.
    """
    _lock.acquire()
    for process in tuple(_running):
        _kill(process)
    for folder in tuple(_folders):
        shutil.rmtree(folder, ignore_errors=True)


def no_network(name: str) -> UsageError:
    """Return the error of a program that is named where a network has to be."""
    return UsageError(f"{name} is a program, which has no gradient; `advimg attack` and `batch` take it as --check-on")


def _found(word: str, name: str) -> str:
    """Return the absolute path of a program.

    Raises:
        ClassifierError: it is not there, or cannot be executed.
    """
    there = None if Path(word).name != word else shutil.which(word)
    path = Path(there or Path(word).expanduser()).absolute()
    if not path.is_file():
        raise ClassifierError(f"{name}: there is no program {word}")
    if not os.access(path, os.X_OK):
        raise ClassifierError(f"{name}: {word} is not executable; chmod +x makes it so")
    return str(path)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a program and, but for Windows, its children; of one that has ended, the children it left."""
    if sys.platform == "win32":
        process.kill()
    else:
        # There may be none; macOS says the latter of those that have ended.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _told(errors: bytearray) -> str:
    """Return the line of stderr that tells most: the first, but the last of a Python traceback."""
    lines = [line.strip() for line in errors.decode("utf-8", "replace").splitlines() if line.strip()]
    if not lines:
        return ""
    return printable(shortened(lines[-1] if lines[0].startswith("Traceback ") else lines[0], _LONGEST_LINE))
