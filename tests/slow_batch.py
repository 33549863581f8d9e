"""``advimg`` in processes that can be stopped: ``python -m tests.slow_batch``, for tests/test_batch_stopped.py.

Importing torch takes seconds, so this process does it once, and then forks a child for each task on stdin: a line of
JSON with the keys of :class:`Task`. It answers with the child's number. That stays the child's until the next line
asks for the exit code, even if the child has ended before.

The child is the whole command line but for the classifier, a small linear one that takes its time for each photo in
each pass. It waits before and after each file appears too, so that a signal may arrive there.
"""

import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import advimg.batches.pipeline
import advimg.classifiers.load
import advimg.cli.batch
import advimg.cli.progress
from advimg.batches.journal_files import LineFile
from advimg.classifiers.classifier import Classifier
from advimg.cli import main
from tests.batches import CLASSES, quick_classifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A command to run.

    Attributes:
        arguments: those of ``advimg``.
        folder: the folder to run it in.
        stdout, stderr: files for what it prints; a stdout of None is a pipe that nobody reads.
        delay: seconds for each photo in each pass through the network, and for loading it.
        largest: the most bytes a file may have, as on a disk that is full; None for no limit.
    """

    arguments: list[str]
    folder: str
    stdout: str | None
    stderr: str
    delay: float
    largest: int | None

    def to_json(self) -> str:
        """Return the line for stdin."""
        return json.dumps(asdict(self))


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Slow(torch.nn.Module):
    def __init__(self, network: torch.nn.Module, delay: float) -> None:
        super().__init__()
        self.network = network
        self.delay = delay

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        time.sleep(self.delay * len(pictures))
        logits: torch.Tensor = self.network(pictures)
        return logits


def slow_classifier(delay: float) -> Classifier:
    """Return :func:`tests.batches.quick_classifier`, slowed down; its logits are the same."""
    quick = quick_classifier(classes=CLASSES)
    return Classifier(
        name=quick.name,
        network=_Slow(quick.network, delay),
        preprocessing=quick.preprocessing,
        labels=quick.labels,
        device=quick.device,
    )


def _slow_down_writing(delay: float) -> None:
    replace, link, append = Path.replace, Path.hardlink_to, LineFile.append

    def slow_replace(self: Path, target: str | os.PathLike[str]) -> Path:
        time.sleep(delay)
        path = replace(self, target)
        time.sleep(delay)
        return path

    def slow_link(self: Path, target: str | os.PathLike[str]) -> None:
        time.sleep(delay)
        link(self, target)
        time.sleep(delay)

    def slow_append(self: LineFile, *lines: str, durable: bool = False) -> None:
        time.sleep(delay / 3)
        append(self, *lines, durable=durable)
        time.sleep(delay / 3)

    Path.replace = slow_replace  # type: ignore[assignment,method-assign]
    Path.hardlink_to = slow_link  # type: ignore[assignment,method-assign]
    LineFile.append = slow_append  # type: ignore[method-assign]


def _run(task: Task) -> None:
    """Become the command."""
    os.chdir(task.folder)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if task.stdout is None:
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open(task.stdout, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(writer, 1)
    os.dup2(os.open(task.stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    if task.largest is not None:
        import resource  # not on Windows, where tests only read this file

        resource.setrlimit(resource.RLIMIT_FSIZE, (task.largest, task.largest))
    classifier = slow_classifier(task.delay)

    def load(*_: object, **__: object) -> Classifier:
        time.sleep(task.delay)
        return classifier

    vars(advimg.classifiers.load).update(load_classifier=load, labels_of=lambda _: classifier.labels)
    _slow_down_writing(task.delay / 2)
    sys.argv = ["advimg", *task.arguments]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a process in the background begins without
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    main()


def serve() -> None:
    """Run the tasks on stdin, one after the other."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # until a child has become the command
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 99
            try:
                _run(Task(**json.loads(line)))
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 98
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(child, flush=True)
        sys.stdin.readline()
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve()
