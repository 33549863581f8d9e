"""Several devices at once: one process for each, one plan, one journal."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from advimg.batches.journal import Journal
from advimg.batches.plan import Item, Key
from advimg.batches.work_queue import WorkQueue
from advimg.errors import DiskError
from advimg.outputs import Outputs
from tests import odd_workers
from tests.batches import (
    code_of,
    contents,
    journal_lines,
    key_of,
    pictures,
    records_of,
    save_photo,
    save_photos,
    sha256,
)
from tests.conftest import Cli, Ran

TWO = ("--device", "cpu,cpu")
# A photo alone in its pass: other photos in the same pass differ from run to run, and so would the last bits of floats.
ALONE = ("--precision", "fp32", "--batch-size", "1", "--steps", "5")


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    return save_photos(tmp_path / "photos", 6)


@pytest.fixture(autouse=True)
def _models(tmp_path: Path) -> None:
    """Write TOML files of small classifiers, which any process can load."""
    for name, size in (("quick.toml", 64), ("other.toml", 96), ("third.toml", 128)):
        (tmp_path / name).write_text(f'model = "efficientnet_lite0"\ninput_size = {size}\n')


COMMAND = ("batch", "photos", "-t", "pelican", "-m", "quick.toml", "-O", "out", "--steps", "10")


@pytest.fixture
def takers(monkeypatch: pytest.MonkeyPatch) -> Counter[Any]:
    """Count how many attacks each worker takes."""
    taken: Counter[Any] = Counter()
    take = WorkQueue.take

    def counted(self: WorkQueue, worker: Any) -> list[Item] | None:
        items = take(self, worker)
        taken[worker] += len(items or ())
        return items

    monkeypatch.setattr(WorkQueue, "take", counted)
    return taken


def after_records(monkeypatch: pytest.MonkeyPatch, number: int, do: Callable[[], None]) -> None:
    """Have something done in this process once so many records are in the journal."""
    append, appended = Journal.append, count(1)

    def counted(self: Journal, record: Mapping[str, Any]) -> None:
        append(self, record)
        if next(appended) == number:
            do()

    monkeypatch.setattr(Journal, "append", counted)


def comparable(folder: Path) -> dict[Any, dict[str, Any]]:
    """Return the records of a folder by attack, without the values that differ between runs and folders."""
    unlike = {"seconds", "out_dir"}
    records = {}
    for record in records_of(folder):
        outputs = {key: str(Path(path).relative_to(folder)) for key, path in record["outputs"].items()}
        records[key_of(record)] = {k: v for k, v in record.items() if k not in unlike} | {"outputs": outputs}
    assert len(records) == len(records_of(folder))
    return records


def assert_whole(folder: Path, photos: list[Path]) -> None:
    """Check that each photo was attacked once, and that the files are those of the journal."""
    records = records_of(folder)
    assert sorted(record["source"] for record in records) == sorted(map(str, photos))
    assert_clean(folder)


def assert_clean(folder: Path) -> None:
    """Check that the files of a folder are those of its journal."""
    named = {"results.jsonl", "results.csv", "summary.json"}
    for record in records_of(folder) if (folder / "results.jsonl").exists() else ():
        if record["error"] is None:
            assert record["adversarial_sha256"] == sha256(Path(record["outputs"]["adversarial"]))
        named |= {str(Path(path).relative_to(folder)) for path in record["outputs"].values()}
    assert set(contents(folder)) <= named
    assert {name for name in named if name.endswith(".png")} <= set(contents(folder))


def only_line(ran: Ran) -> str:
    (line,) = ran.err.splitlines()
    return line


# The same as one device.


def test_two_devices_do_together_what_one_does_alone(
    cli: Cli, photos: list[Path], out: Path, takers: Counter[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = photos[0].with_name("broken.jpg")
    broken.write_bytes(photos[0].read_bytes()[:200])
    networks = ("-m", "quick.toml", "-m", "other.toml", "--check-on", "third.toml")
    arguments = ("batch", "photos", "-t", "pelican", "-t", "random", *networks, *ALONE, "--json")
    alone = cli(*arguments, "-O", "one", "--device", "cpu")
    assert not takers
    # This process loads nothing.
    monkeypatch.setattr("advimg.classifiers.load.assemble", None)
    ran = cli(*arguments, "-O", "out", *TWO, "-v")
    assert ran.code == alone.code == 1
    one = out.with_name("one")
    assert pictures(out) == pictures(one)
    assert len(pictures(out)) == 24
    assert comparable(out) == comparable(one)
    assert_clean(one)
    assert [json.loads(line) for line in ran.out.splitlines()] == records_of(out)
    # A photo that cannot be read has a record, and a line on stderr.
    failures = [record for record in records_of(out) if record["error"]]
    assert [record["source"] for record in failures] == [str(broken)] * 2
    assert f"advimg: {failures[0]['error']}" in ran.err
    for name in ("quick.toml", "other.toml"):
        assert f"{name} on cpu, cpu\n" in ran.err
    assert "14 of 14 attacks, in out" in ran.err
    sums, sums_alone = (json.loads((folder / "summary.json").read_bytes()) for folder in (out, one))
    # The order of records is that of their ends.
    assert {**sums, "failures": [], "seconds": 0, "per_second": 0} == {
        **sums_alone,
        "failures": [],
        "seconds": 0,
        "per_second": 0,
    }
    assert (sums["verified"] + sums["not_reached"], sums["failed"], sums["unfinished"]) == (12, 2, 0)
    assert sums["device"] == "cpu"
    # Both had a part of it, each attack went to one of them.
    assert len(takers) == 2
    assert all(takers.values())
    assert takers.total() == 14


def test_a_folder_goes_on_with_any_number_of_devices(
    cli: Cli, photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = cli("batch", photos[0], *COMMAND[2:], "--device", "cpu")
    assert ran.code == code_of(records_of(out)), ran.err
    begun = (out / "results.jsonl").read_bytes()
    ran = cli(*COMMAND, *TWO)
    assert "1 of 6 were done by an earlier run" in ran.err
    assert (out / "results.jsonl").read_bytes().startswith(begun)
    assert_whole(out, photos)
    before = (out / "results.jsonl").read_bytes()
    # Where nothing is left to do, no process is begun.
    monkeypatch.setattr("advimg.batches.worker_process.WorkerProcess", None)
    for devices in ("cpu", "cpu,cpu,cpu"):
        again = cli(*COMMAND, "--device", devices)
        assert again.code == ran.code
        assert "6 of 6 were done by an earlier run" in again.err
    assert (out / "results.jsonl").read_bytes() == before


def test_a_sweep_on_two_devices(cli: Cli, photos: list[Path]) -> None:
    command = ("sweep", *photos[:3], "-t", "random", "-e", "2,16", *ALONE, "-m", "quick.toml", "-m", "other.toml")
    alone = cli(*command, "-O", "one", "--device", "cpu", "--json")
    ran = cli(*command, "-O", "out", *TWO, "--json")
    assert ran.code == alone.code == 0, ran.err
    assert json.loads(ran.out) == json.loads(alone.out)
    assert len(json.loads(ran.out)) == 4
    assert "quick.toml on cpu, cpu\n" in ran.err


# A device that is lost.


def kill(processes: list[Any]) -> None:
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)


@pytest.mark.skipif(sys.platform == "win32", reason="knows no SIGKILL")
def test_the_photos_of_a_process_that_is_killed_go_to_the_others(
    cli: Cli, photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_records(monkeypatch, 2, lambda: kill(multiprocessing.active_children()[:1]))
    ran = cli(*COMMAND, *TWO)
    assert ran.code == code_of(records_of(out)), ran.err
    (note,) = [line for line in ran.err.splitlines() if line.startswith("note: ")]
    assert note == (
        "note: the process on cpu was killed, as the system does when memory runs out; its photos go to the other "
        "devices"
    )
    assert_whole(out, photos)
    assert not multiprocessing.active_children()


@pytest.mark.skipif(sys.platform == "win32", reason="knows no SIGKILL")
def test_when_all_processes_are_killed_the_same_command_goes_on(
    cli: Cli, photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        after_records(patched, 2, lambda: kill(multiprocessing.active_children()))
        ran = cli(*COMMAND, *TWO, "--json")
    done = records_of(out)
    assert ran.code == 1
    assert 2 <= len(done) < 6
    assert ran.err.splitlines()[-1] == (
        "advimg: the process on cpu was killed, as the system does when memory runs out; "
        f"{len(done)} of 6 are done; run the same command again to go on"
    )
    assert "Traceback" not in ran.err
    assert_clean(out)
    ran = cli(*COMMAND, *TWO)
    assert ran.code == code_of(records_of(out)), ran.err
    assert records_of(out)[: len(done)] == done
    assert_whole(out, photos)


def test_a_device_that_fails_is_named_and_the_others_go_on(
    cli: Cli, photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advimg.batches.worker_process.work", odd_workers.one_breaks_down)
    ran = cli(*COMMAND, *TWO)
    assert ran.code == code_of(records_of(out)), ran.err
    (note,) = [line for line in ran.err.splitlines() if line.startswith("note: ")]
    assert note.startswith("note: cpu: RuntimeError: device error with ")
    assert note.endswith(" threads; its photos go to the other devices")
    assert "Traceback" not in ran.err
    assert_whole(out, photos)


def test_processes_on_the_cpu_share_its_cores_and_when_all_fail_so_does_the_run(
    cli: Cli, photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advimg.batches.worker_process.work", odd_workers.breaks_down)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    ran = cli(*COMMAND, *TWO, "--json")
    assert ran.code == 1
    note, error = ran.err.splitlines()
    what = "cpu: RuntimeError: device error with 3 threads; "
    assert note == f"note: {what}its photos go to the other devices"
    assert error == f"advimg: {what}0 of 6 are done; run the same command again to go on"
    assert_clean(out)


def test_a_full_disk_stops_all_and_keeps_what_is_complete(
    cli: Cli, photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise DiskError("cannot write: No space left on device")

    with monkeypatch.context() as patched:
        after_records(patched, 2, refuse)
        ran = cli(*COMMAND, *ALONE, *TWO, "--json")
    done = records_of(out)
    assert ran.code == 1
    assert 2 <= len(done) < 6
    assert only_line(ran).startswith("advimg: cannot write: No space left on device; ")
    assert_clean(out)
    ran = cli(*COMMAND, *ALONE, *TWO)
    assert ran.code == code_of(records_of(out)), ran.err
    assert_whole(out, photos)


# Runs that cannot begin.


def test_a_model_that_no_process_can_load_is_one_line(cli: Cli, photos: list[Path], tmp_path: Path, out: Path) -> None:
    torch.save({"conv_stem.weight": torch.zeros(2, 2)}, tmp_path / "odd.pth")
    (tmp_path / "odd.toml").write_text('model = "efficientnet_lite0"\nweights = "odd.pth"\n')
    ran = cli("batch", "photos", "-t", "3", "-m", "odd.toml", "-O", "out", *TWO)
    assert (ran.code, ran.out) == (1, "")
    assert [line for line in ran.err.splitlines() if line.startswith("advimg: ")] == ran.err.splitlines()[-1:]
    assert "advimg: the weights odd.pth do not fit the network: " in ran.err
    assert "Traceback" not in ran.err
    assert not out.exists()


@pytest.mark.parametrize(
    ("devices", "code", "message"),
    [
        ("cuda:0,,x", 2, "'cuda:0,,x' has an empty place"),
        ("cpu,", 2, "'cpu,' has an empty place"),
        ("auto,cpu", 2, "'auto,cpu': auto is one device"),
        ("cpu,tpu", 2, "unknown device 'tpu'"),
        ("cpu,cuda:99", 1, "device cuda:99: "),
    ],
)
def test_lists_of_devices_that_cannot_be_used_are_one_line(
    cli: Cli, photos: list[Path], out: Path, devices: str, code: int, message: str
) -> None:
    ran = cli(*COMMAND, "--device", devices)
    assert (ran.code, ran.out) == (code, "")
    assert message in only_line(ran)
    assert not out.exists()


@pytest.mark.parametrize(
    "command", [("attack", "x.jpg", "-t", "3"), ("classify", "x.jpg"), ("verify", "x.png", "--original", "x.jpg")]
)
def test_commands_for_one_photo_use_one_device(cli: Cli, command: tuple[str, ...]) -> None:
    ran = cli(*command, *TWO)
    assert (ran.code, ran.out) == (2, "")
    assert only_line(ran) == (
        f"advimg: --device cpu,cpu: {command[0]} uses one device; `advimg batch` and `sweep` use several"
    )


# Stopped from outside.


class Running:
    """``advimg`` in a process group of its own, as a terminal starts it."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._folder = folder
        self._stderr = folder / "stderr"
        with self._stderr.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "advimg", *arguments], cwd=folder, stderr=stderr, start_new_session=True
            )
        self._hangs = threading.Timer(120, self._process.kill)
        self._hangs.start()
        self.workers: list[str] = []

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait, as long as the command runs."""
        while not condition():
            assert self._process.poll() is None, self._stderr.read_text()
            threading.Event().wait(0.005)

    def wait_for_workers(self) -> None:
        """Wait until both workers have been begun, and their process that tracks resources."""

        def begun() -> bool:
            pid = self._process.pid
            self.workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            return len(self.workers) == 3

        self.wait_until(begun)

    def send(self, number: int, *, to_all: bool = False) -> None:
        """Send a signal to the command, or to all of its processes."""
        (os.killpg if to_all else os.kill)(self._process.pid, number)

    def end(self) -> Ran:
        """Wait for the end, also of the workers."""
        code = self._process.wait()
        self._hangs.cancel()
        for worker in self.workers:
            while self._lives(worker):
                threading.Event().wait(0.005)
        return Ran(code, "", self._stderr.read_text())

    def _lives(self, pid: str) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False


linux = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes where Linux has them")
# So much that it is not done before it is stopped.
LONG = ("batch", "photos", *(f"--target={target}" for target in range(60)), "-m", "quick.toml", "-O", "out", *TWO)


@linux
@pytest.mark.parametrize(("number", "to_all"), [(signal.SIGINT, True), (signal.SIGTERM, False)])
def test_an_interrupted_run_keeps_what_is_complete(
    cli: Cli, photos: list[Path], tmp_path: Path, out: Path, number: int, to_all: bool
) -> None:
    running = Running(tmp_path, *LONG)
    running.wait_for_workers()
    running.wait_until(lambda: len(journal_lines(out)) >= 3)
    running.send(number, to_all=to_all)
    ran = running.end()
    done = records_of(out)
    assert ran.code == 130
    assert 3 <= len(done) < 360
    assert ran.err.splitlines()[-1] == (
        f"advimg: interrupted; {len(done)} of 360 are done; run the same command again to go on"
    )
    assert "Traceback" not in ran.err
    assert_clean(out)
    assert json.loads((out / "summary.json").read_bytes())["unfinished"] == 360 - len(done)


@linux
def test_a_run_that_is_interrupted_while_it_loads_ends_at_once(photos: list[Path], tmp_path: Path, out: Path) -> None:
    running = Running(tmp_path, *LONG)
    running.wait_for_workers()
    running.send(signal.SIGINT, to_all=True)
    ran = running.end()
    assert ran.code == 130
    assert ran.err.splitlines()[-1].startswith("advimg: interrupted; 0 of 360 are done")
    assert "Traceback" not in ran.err
    assert not out.exists()


@linux
def test_the_workers_of_a_command_that_is_killed_end_by_themselves(
    cli: Cli, photos: list[Path], tmp_path: Path, out: Path
) -> None:
    command = (*COMMAND, "-t", "random", "-t", "least-likely", *TWO)
    running = Running(tmp_path, *command)
    running.wait_for_workers()
    running.wait_until(lambda: len(journal_lines(out)) >= 2)
    running.send(signal.SIGKILL)
    ran = running.end()
    assert ran.code == -signal.SIGKILL
    assert "Traceback" not in ran.err
    done = journal_lines(out)
    assert len(done) >= 2
    again = cli(*command)
    assert again.code == code_of(records_of(out)), again.err
    assert f"{len(done)} of 18 were done by an earlier run" in again.err
    assert journal_lines(out)[: len(done)] == done
    assert len(comparable(out)) == 18
    assert_clean(out)


# The work queue.


def items_of(attacks: Mapping[int, int]) -> list[Item]:
    """Return so many items for each photo."""
    return [
        Item(Key(Path(f"/{photo}.jpg"), target, 10), Outputs(Path(f"/{photo}_{target}.png"), None, None))
        for photo, number in attacks.items()
        for target in range(number)
    ]


@pytest.mark.parametrize("seed", range(30))
def test_each_attack_is_done_once_whoever_takes_or_is_lost(seed: int) -> None:
    chance = random.Random(seed)
    items = items_of({photo: chance.randint(1, 30) for photo in range(chance.randint(1, 20))})
    workers = list(range(chance.randint(1, 5)))
    queue = WorkQueue(items, workers)
    held: dict[int, list[Item]] = {worker: [] for worker in workers}
    done: list[Key] = []
    while queue.left:
        worker = chance.choice(workers)
        taken = queue.take(worker)
        if taken is None:
            # A worker without attacks gets some, as long as any are left.
            assert held[worker] or not queue.waiting
        else:
            assert len({item.key.source for item in taken}) == 1
            held[worker] += taken
        if len(workers) > 1 and chance.random() < 0.1:
            queue.drop(worker)
            workers.remove(worker)
        elif held[worker] and chance.random() < 0.5:
            item = held[worker].pop()
            queue.done(worker, item.key)
            done.append(item.key)
    assert sorted(map(str, done)) == sorted(str(item.key) for item in items)
    assert not queue.waiting


def test_nobody_takes_what_others_could_do() -> None:
    queue = WorkQueue(items_of(dict.fromkeys(range(10), 1)), ["greedy", "late"])
    greedy = 0
    while queue.take("greedy"):
        greedy += 1
    assert greedy == 5
    assert queue.take("late")


def test_one_photo_with_many_targets_is_work_for_all() -> None:
    queue = WorkQueue(items_of({0: 40}), ["one", "other"])
    taken = queue.take("one"), queue.take("other")
    assert all(taken)


def test_what_a_lost_worker_had_comes_last() -> None:
    items = items_of(dict.fromkeys(range(6), 1))
    queue = WorkQueue(items, ["lost", "other"])
    assert queue.take("lost") == items[:1]
    queue.drop("lost")
    rest = [item for _ in range(6) for item in queue.take("other") or ()]
    assert rest == [*items[1:], items[0]]


def test_photos_named_twice_are_not_mixed_up(cli: Cli, tmp_path: Path, out: Path) -> None:
    for number, name in enumerate(("a/dog.jpg", "b/dog.jpg")):
        save_photo(tmp_path / "photos" / name, number)
    ran = cli(*COMMAND, "-r", *TWO)
    assert ran.code == code_of(records_of(out)), ran.err
    assert len(comparable(out)) == 2
    assert set(pictures(out)) == {f"{folder}/dog_pelican{x}.png" for folder in "ab" for x in ("", "_perturbation")}
