"""Batches that are interrupted, killed or out of disk, and go on where they were stopped."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from advimg.storage.places import read_bytes
from tests.batches import (
    absolute_paths,
    assert_kept,
    journal_lines,
    key_of,
    quick_classifier,
    records_of,
    save_photo,
    save_photos,
    sha256,
)
from tests.conftest import Ran
from tests.slow_batch import Task

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks and sends signals, as on Linux")

DELAY = 0.03
"""At this pace 30 photos take about four seconds."""


class Server:
    """A process that runs commands as :mod:`tests.slow_batch` says, one after the other."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, line: str) -> int:
        """Send a line and return the number that is the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(line, file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.slow_batch"],
        cwd=Path(__file__).parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Server(process)
        assert process.stdin is not None
        process.stdin.close()


class Running:
    """A command that runs."""

    def __init__(self, server: Server, task: Task) -> None:
        self._server = server
        self._task = task
        self._number = server.ask(task.to_json())
        self._ran: Ran | None = None

    def send(self, number: int) -> None:
        """Send a signal."""
        os.kill(self._number, number)

    def end(self, *, within: float = 60) -> Ran:
        """Wait for its end; kill it if it hangs."""
        if self._ran is None:
            hangs = threading.Timer(within, self.send, [signal.SIGKILL])
            hangs.start()
            code = self._server.ask("end")
            hangs.cancel()
            out = Path(self._task.stdout).read_text() if self._task.stdout else ""
            self._ran = Ran(code, out, Path(self._task.stderr).read_text())
        return self._ran


Start = Callable[..., Running]


@pytest.fixture
def start(server: Server, tmp_path: Path) -> Iterator[Start]:
    begun: list[Running] = []

    def begin(*arguments: object, delay: float = 0, largest: int | None = None, closed_stdout: bool = False) -> Running:
        task = Task(
            arguments=["batch", *map(str, arguments)],
            folder=str(tmp_path),
            stdout=None if closed_stdout else str(tmp_path / "stdout"),
            stderr=str(tmp_path / "stderr"),
            delay=delay,
            largest=largest,
        )
        begun.append(Running(server, task))
        return begun[-1]

    yield begin
    for running in begun:
        running.end(within=0)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    return save_photos(tmp_path / "photos", 30)


COMMAND = ("photos", "-t", "3", "-O", "out")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for_records(out: Path, count: int) -> None:
    wait_until(lambda: len(journal_lines(out)) >= count)


def assert_complete(out: Path, photos: list[Path]) -> None:
    assert_kept(out, quick_classifier())
    records = records_of(out)
    assert sorted(record["source"] for record in records) == sorted(map(str, photos))
    assert all(record["fooled"] for record in records)


def test_killed_ten_times_at_any_moment_it_ends_as_if_it_had_not_been(
    start: Start, photos: list[Path], out: Path
) -> None:
    moments = random.Random(20)
    before: list[bytes] = []
    for turn in range(10):
        running = start(*COMMAND, "--batch-size", "2", delay=DELAY)
        if turn % 2:
            wait_for_records(out, len(before) + 1)
        time.sleep(moments.uniform(0, 0.2 if turn % 2 else 0.5))
        running.send(signal.SIGKILL)
        assert running.end().code == -signal.SIGKILL
        lines = journal_lines(out)
        # Finished attacks are not repeated, and their lines are not touched.
        assert lines[: len(before)] == before
        records = [absolute_paths(json.loads(line), out) for line in lines]
        assert len({key_of(record) for record in records}) == len(records)
        for record in records:
            assert record["error"] is None
            assert sha256(Path(record["outputs"]["adversarial"])) == record["adversarial_sha256"]
        before = lines
    assert 0 < len(before) < len(photos)
    ran = start(*COMMAND).end()
    assert ran.code == 0, ran.err
    assert f"{len(before)} of 30 were done by an earlier run" in ran.err
    assert journal_lines(out)[: len(before)] == before
    assert_complete(out, photos)


def test_killed_while_it_packs_it_makes_only_those_again_that_were_in_no_archive(
    start: Start, photos: list[Path], out: Path
) -> None:
    moments = random.Random(21)
    before: list[bytes] = []
    for _ in range(2):
        running = start(*COMMAND, "--pack", "4", "--batch-size", "2", delay=DELAY / 2)
        wait_for_records(out, len(before) + 1)
        time.sleep(moments.uniform(0, 0.15))
        running.send(signal.SIGKILL)
        assert running.end().code == -signal.SIGKILL
        lines = journal_lines(out)
        assert lines[: len(before)] == before
        assert len(lines) % 4 == 0
        for line in lines:
            record = absolute_paths(json.loads(line), out)
            data = read_bytes(Path(record["outputs"]["adversarial"]))
            assert hashlib.sha256(data).hexdigest() == record["adversarial_sha256"]
        before = lines
    assert 0 < len(before) < len(photos)
    running = start(*COMMAND, "--pack", "4", "--batch-size", "2", delay=DELAY / 2)
    wait_for_records(out, len(before) + 1)
    running.send(signal.SIGINT)
    assert running.end().code == 130
    done = journal_lines(out)
    assert len(before) < len(done) < len(photos)
    ran = start(*COMMAND, "--pack", "4").end()
    assert (ran.code, f"{len(done)} of 30 were done by an earlier run" in ran.err) == (0, True)
    records = records_of(out)
    assert sorted(record["source"] for record in records) == sorted(map(str, photos))
    archives = {record["outputs"]["adversarial"].rpartition("/")[0] for record in records}
    sums = {"results.jsonl", "results.csv", "summary.json"}
    assert {str(path) for path in out.iterdir()} == {*archives, *(str(out / name) for name in sums)}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_is_complete_and_says_how_to_go_on(
    start: Start, photos: list[Path], out: Path, number: int
) -> None:
    running = start(*COMMAND, delay=DELAY)
    wait_for_records(out, 3)
    running.send(number)
    ran = running.end()
    assert ran.code == 130
    done = records_of(out)
    assert 3 <= len(done) < 30
    assert f"advimg: interrupted; {len(done)} of 30 are done; run the same command again to go on" in ran.err
    assert "Traceback" not in ran.err
    assert_kept(out, quick_classifier())
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["verified"], summary["unfinished"]) == (len(done), 30 - len(done))
    assert start(*COMMAND).end().code == 0
    assert records_of(out)[: len(done)] == done
    assert_complete(out, photos)


def test_a_second_signal_ends_it_at_once(start: Start, photos: list[Path], out: Path) -> None:
    running = start(*COMMAND, "--batch-size", "1", delay=0.4)
    wait_for_records(out, 1)
    running.send(signal.SIGINT)
    time.sleep(0.05)
    running.send(signal.SIGINT)
    ran = running.end()
    assert ran.code == 130
    assert ran.err == ""
    assert start(*COMMAND).end().code == 0
    assert_complete(out, photos)


@pytest.mark.parametrize("devices", ["cpu", "cpu,cpu"])
def test_a_second_signal_leaves_no_program_and_none_of_its_files(
    start: Start, photos: list[Path], tmp_path: Path, devices: str
) -> None:
    judge, beats = tmp_path / "judge", tmp_path / "beats"
    judge.write_text(
        '#!/bin/sh\ncase "$1" in\n*.jpg) echo \'{"label": "cup"}\';;\n'
        '*) echo "$1" >> given; (while echo >> beats; do sleep 0.02; done)\nesac\n',
        encoding="utf-8",
    )
    judge.chmod(0o755)
    (tmp_path / "small.toml").write_text('model = "efficientnet_lite0"\ninput_size = 64\n', encoding="utf-8")
    several = ("-m", "small.toml", "--steps", "1") if "," in devices else ()
    running = start(*COMMAND, "--check-on", "exec:./judge", "--device", devices, *several)
    wait_until(beats.exists)
    picture = Path((tmp_path / "given").read_text(encoding="utf-8").splitlines()[0])
    assert picture.is_file()
    running.send(signal.SIGINT)
    time.sleep(0.05)
    running.send(signal.SIGINT)
    assert running.end().code == 130
    wait_until(lambda: not picture.parent.exists())
    beaten = beats.stat().st_size
    time.sleep(0.2)
    assert beats.stat().st_size == beaten


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_the_first_photo_leaves_nothing(
    start: Start, photos: list[Path], out: Path, number: int, code: int
) -> None:
    running = start(*COMMAND, delay=1)
    wait_until(lambda: (out / "results.jsonl").exists())
    running.send(number)
    ran = running.end()
    assert ran.code == code
    assert "Traceback" not in ran.err
    assert not out.exists()


def test_a_full_disk_is_one_line_and_leaves_a_whole_journal(start: Start, photos: list[Path], out: Path) -> None:
    # Pictures are small here, so it is the journal that meets the limit, in the middle of a line.
    ran = start(*COMMAND, largest=20_000).end()
    assert ran.code == 1
    done = records_of(out)
    assert 0 < len(done) < 30
    (message,) = ran.err.splitlines()
    assert message.startswith(f"advimg: cannot write {out / 'results.jsonl'}: ")
    assert message.endswith(f"; {len(done)} of 30 are done; once there is room, run the same command again to go on")
    assert_kept(out, quick_classifier())
    assert start(*COMMAND).end().code == 0
    assert records_of(out)[: len(done)] == done
    assert_complete(out, photos)


def test_a_disk_without_room_for_a_picture_stops_the_run(start: Start, photos: list[Path], out: Path) -> None:
    save_photo(photos[5], size=(300, 200))
    ran = start(*COMMAND, "--batch-size", "1", largest=40_000).end()
    assert ran.code == 1
    assert len(ran.err.splitlines()) == 1
    assert f"cannot write {out / 'p05_class_3.png'}: " in ran.err
    assert 0 < len(records_of(out)) < 30
    assert all(record["error"] is None for record in records_of(out))
    assert start(*COMMAND).end().code == 0
    assert_complete(out, photos)


def test_a_reader_of_stdout_that_goes_away_stops_the_run(start: Start, photos: list[Path], out: Path) -> None:
    ran = start(*COMMAND, "--json", closed_stdout=True).end()
    assert ran.code == 1
    (message,) = ran.err.splitlines()[-1:]
    assert "stdout was closed" in message
    assert "Traceback" not in ran.err
    ran = start(*COMMAND, "--json").end()
    assert ran.code == 0
    assert len(ran.out.splitlines()) < 30
    assert_complete(out, photos)


@pytest.mark.parametrize("name", ["x.jpg", "x.png"])
def test_what_is_no_file_at_all_does_not_stop_the_others(
    start: Start, photos: list[Path], out: Path, name: str
) -> None:
    """Nothing is ever written to this pipe: reading it never ends."""
    pipe = photos[0].with_name(name)
    os.mkfifo(pipe)
    ran = start(*COMMAND).end(within=8)
    assert ran.code == 0, ran.err
    assert sum(record["fooled"] for record in records_of(out)) == 30
