"""Several devices and machines at once: an actor of Ray on each, one plan, one journal.

Most tests share one cluster of two nodes on this machine; those that start one of their own say so.
"""

import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import types
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.cluster_utils import Cluster

import advimg
from advimg.batches.journal import Journal, read_attacks
from advimg.batches.plan import Item
from advimg.batches.ray_actor import PipelineActor
from advimg.batches.work_queue import WorkQueue
from advimg.errors import DiskError, UsageError
from advimg.storage import stores
from advimg.storage.places import read_bytes
from advimg.storage.url import Url
from tests.batches import (
    assert_one_line,
    code_of,
    contents,
    journal_lines,
    key_of,
    pictures,
    quick_classifier,
    records_of,
    save_photo,
    save_photos,
    sha256,
)
from tests.conftest import Cli, Ran

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes where Linux has them")

# A photo alone in its pass: other photos in the same pass differ from run to run, and so would the last bits of floats.
ALONE = ("--precision", "fp32", "--batch-size", "1", "--steps", "5")
COMMAND = ("batch", "photos", "-t", "pelican", "-m", "quick.toml", "-O", "out", "--steps", "10")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes with a CPU each."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture
def on(cluster: Cluster) -> tuple[str, str]:
    """Return the option that names the cluster."""
    return "--on", f"ray:{cluster.address}"


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    return save_photos(tmp_path / "photos", 6)


@pytest.fixture(autouse=True)
def _models(tmp_path: Path) -> None:
    """Write TOML files of small classifiers, which any process can load."""
    for name, size in (("quick.toml", 64), ("other.toml", 96), ("third.toml", 128)):
        (tmp_path / name).write_text(f'model = "efficientnet_lite0"\ninput_size = {size}\n')


@pytest.fixture
def takers(monkeypatch: pytest.MonkeyPatch) -> Counter[Any]:
    """Count how many attacks each actor takes."""
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

    def counted(self: Journal, *records: Mapping[str, Any]) -> None:
        append(self, *records)
        if number in [next(appended) for _ in records]:
            do()

    monkeypatch.setattr(Journal, "append", counted)


def comparable(folder: Path) -> dict[Any, dict[str, Any]]:
    """Return the records of a folder by attack, without the values that differ between runs and folders."""
    records = {}
    for record in records_of(folder):
        outputs = {key: str(Path(path).relative_to(folder)) for key, path in record["outputs"].items()}
        records[key_of(record)] = {k: v for k, v in record.items() if k not in ("seconds", "stamps")} | {
            "outputs": outputs
        }
    assert len(records) == len(records_of(folder))
    return records


def assert_whole(folder: Path, photos: list[Path]) -> None:
    """Check that each photo was attacked once, and that the files are those of the journal."""
    assert sorted(record["source"] for record in records_of(folder)) == sorted(map(str, photos))
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


def processes(condition: Callable[[Path], bool]) -> set[int]:
    """Return the numbers of processes whose folder in /proc meets a condition."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if condition(folder) and (folder / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.add(int(folder.name))
    return found


def actors() -> set[int]:
    """Return the processes of this machine's actors."""
    return processes(lambda folder: (folder / "cmdline").read_bytes().startswith(b"ray::PipelineActor"))


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("nothing came of it in 30 s")


def notes(ran: Ran) -> list[str]:
    assert "Traceback" not in ran.err
    return [line for line in ran.err.splitlines() if line.startswith("note: ")]


# The first of all: Ray does not find its way back to a cluster once a process has had another one after it.


def test_two_devices_of_this_machine_are_a_cluster_that_ends_with_the_command(
    cli: Cli, photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "198.51.100.1:1")  # not for devices of this machine
    before = signal.getsignal(signal.SIGTERM)
    ran = cli(*COMMAND, "--device", "cpu,cpu", "--json")
    assert ran.code == code_of(records_of(out))
    assert ran.err.splitlines()[0] == "6 of 6 attacks, in out"
    assert [json.loads(line) for line in ran.out.splitlines()] == records_of(out)
    assert_whole(out, photos)
    assert not ray.is_initialized()
    assert signal.getsignal(signal.SIGTERM) == before


# The same as one process.


def test_two_nodes_do_together_what_this_process_does_alone(
    cli: Cli, on: tuple[str, str], photos: list[Path], out: Path, takers: Counter[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = photos[0].with_name("broken.jpg")
    broken.write_bytes(photos[0].read_bytes()[:200])
    networks = ("-m", "quick.toml", "-m", "other.toml", "--check-on", "third.toml")
    arguments = ("batch", "photos", "-t", "pelican", "-t", "random", *networks, *ALONE, "--json")
    alone = cli(*arguments, "-O", "one", "--device", "cpu")
    assert not takers
    # This process loads nothing.
    monkeypatch.setattr("advimg.classifiers.load.assemble", None)
    ran = cli(*arguments, "-O", "out", *on, "-v")
    assert ran.code == alone.code == 1, ran.err
    assert pictures(out) == pictures(out.with_name("one"))
    assert len(pictures(out)) == 24
    assert comparable(out) == comparable(out.with_name("one"))
    assert_clean(out)
    assert [json.loads(line) for line in ran.out.splitlines()] == records_of(out)
    # A photo that cannot be read has a record, and a line on stderr.
    failures = [record for record in records_of(out) if record["error"]]
    assert [record["source"] for record in failures] == [str(broken)] * 2
    assert f"advimg: {failures[0]['error']}" in ran.err
    for name in ("quick.toml", "other.toml"):
        assert f"{name} on cpu, cpu\n" in ran.err
    assert not notes(ran)
    sums, sums_alone = (json.loads((folder / "summary.json").read_bytes()) for folder in (out, out.with_name("one")))
    # The order of records is that of their ends.
    unlike = {"failures": [], "seconds": 0, "per_second": 0}
    assert {**sums, **unlike} == {**sums_alone, **unlike}
    # Both had a part of it, each attack went to one of them.
    assert len(takers) == 2
    assert all(takers.values())
    assert takers.total() == 14
    wait_until(lambda: not actors())


def test_a_folder_goes_on_wherever_it_was_begun(
    cli: Cli, on: tuple[str, str], photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = cli("batch", photos[0], *COMMAND[2:], "--device", "cpu")
    assert ran.code == code_of(records_of(out)), ran.err
    begun = (out / "results.jsonl").read_bytes()
    ran = cli(*COMMAND, *on)
    assert "1 of 6 were done by an earlier run" in ran.err
    assert (out / "results.jsonl").read_bytes().startswith(begun)
    assert_whole(out, photos)
    before = (out / "results.jsonl").read_bytes()
    # Where nothing is left to do, no actor is begun, and no cluster.
    monkeypatch.setattr("advimg.batches.ray_slot.Slot.begin", None)
    for place in (("--device", "cpu"), on, ("--device", "cpu,cpu,cpu")):
        again = cli(*COMMAND, *place)
        assert again.code == ran.code
        assert "6 of 6 were done by an earlier run" in again.err
    assert (out / "results.jsonl").read_bytes() == before


# What is lost.


def test_the_photos_of_an_actor_that_is_killed_go_to_others(
    cli: Cli, on: tuple[str, str], photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_records(monkeypatch, 2, lambda: os.kill(min(actors()), signal.SIGKILL))
    ran = cli(*COMMAND, *ALONE, *on)
    assert ran.code == code_of(records_of(out)), ran.err
    (note,) = notes(ran)
    assert note == (
        f"note: the actor on cpu of {socket.gethostname()} was killed, as the system does when memory runs out; its "
        "photos go to others, and another actor takes its place"
    )
    assert_whole(out, photos)


def test_a_node_that_is_lost_is_no_loss(
    cli: Cli, cluster: Cluster, on: tuple[str, str], photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (second,) = cluster.worker_nodes
    after_records(monkeypatch, 5, lambda: cluster.remove_node(second, allow_graceful=False))
    # Long enough for Ray to notice.
    targets = [f"--target={target}" for target in range(20)]
    ran = cli("batch", "photos", *targets, *COMMAND[4:], *ALONE, "--json", *on)
    cluster.add_node(num_cpus=1)
    assert ran.code == code_of(records_of(out)), ran.err
    # Ray tells of the node in one way or another, and perhaps of the actor that was to begin there, too.
    assert 1 <= len(notes(ran)) <= 2
    assert all("its photos go to others" in note for note in notes(ran))
    assert [json.loads(line) for line in ran.out.splitlines()] == records_of(out)  # Ray says nothing in between
    assert len(comparable(out)) == 120
    assert_clean(out)


def test_a_photo_that_ends_each_actor_fails_and_no_other(
    cli: Cli, on: tuple[str, str], photos: list[Path], tmp_path: Path, out: Path
) -> None:
    odd = save_photo(tmp_path / "photos" / "odd.jpg", 7, size=(50, 40))
    program = tmp_path / "judge"
    program.write_text(
        f"#!{sys.executable}\nimport os, signal, sys\nfrom PIL import Image\n"
        "if Image.open(sys.argv[1]).width == 50:\n    os.kill(os.getppid(), signal.SIGKILL)\n"
        'print(\'{"label": "tabby"}\')\n'
    )
    program.chmod(0o755)
    ran = cli("batch", "photos", *COMMAND[2:], "--check-on", "exec:./judge", *on)
    assert ran.code == 1
    # The third is told only where other photos are left, for which another actor is begun.
    assert len([note for note in notes(ran) if "was killed" in note]) in (2, 3)
    assert_whole(out, [*photos, odd])
    (failure,) = [record for record in records_of(out) if record["error"]]
    assert failure["source"] == str(odd)
    assert failure["error"] == (
        f"{odd}: 3 actors ended while they attacked it; the last: the actor on cpu of {socket.gethostname()} was "
        "killed, as the system does when memory runs out"
    )


def test_a_full_disk_stops_all_and_keeps_what_is_complete(
    cli: Cli, on: tuple[str, str], photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise DiskError("cannot write: No space left on device")

    after_records(monkeypatch, 2, refuse)
    ran = cli(*COMMAND, *ALONE, *on, "--json")
    done = records_of(out)
    assert 2 <= len(done) < 6
    assert ran.code == 1
    assert ran.err.splitlines()[-1].startswith("advimg: cannot write: No space left on device; ")
    assert_clean(out)


def test_where_no_actor_can_be_had_the_run_ends(
    cli: Cli, cluster: Cluster, on: tuple[str, str], photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other:  # here, so that its code is sent
        def is_there(self) -> bool:
            return True

    monkeypatch.setattr("advimg.batches.ray_coordinator._NO_ACTOR", 1.0)
    ray.init(cluster.address, log_to_driver=False)
    try:
        others: list[Any] = [ray.remote(Other).options(num_cpus=1).remote() for _ in range(2)]
        ray.get([other.is_there.remote() for other in others])
        ran = cli(*COMMAND, *on)
        # Who calls advimg keeps its connection.
        assert ray.is_initialized()
    finally:
        ray.shutdown()
    assert ran.code == 1
    assert ran.err.splitlines()[-1] == (
        "advimg: the Ray cluster has had no CPU for an actor for 1 s; is it in other use?; 0 of 6 are done; run the "
        "same command again to go on"
    )
    assert not out.exists()


# Runs that cannot begin.


def test_a_model_that_no_actor_can_load_is_one_line(
    cli: Cli, on: tuple[str, str], photos: list[Path], tmp_path: Path, out: Path
) -> None:
    torch.save({"conv_stem.weight": torch.zeros(2, 2)}, tmp_path / "odd.pth")
    (tmp_path / "odd.toml").write_text('model = "efficientnet_lite0"\nweights = "odd.pth"\n')
    ran = cli("batch", "photos", "-t", "3", "-m", "odd.toml", "-O", "out", *on)
    assert_one_line(ran, 1, f"the weights {tmp_path}/odd.pth do not fit the network: ")
    assert not out.exists()


def test_a_node_that_does_not_see_the_output_folder_is_one_line(
    cli: Cli, on: tuple[str, str], photos: list[Path], tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "advimg.batches.ray_executor.marker", lambda _: contextlib.nullcontext(tmp_path / ".advimg-1-elsewhere.tmp")
    )
    assert_one_line(
        cli(*COMMAND, *on), 1, f"node {socket.gethostname()} does not see the output folder {out}; put it where"
    )
    assert not out.exists()


def test_nodes_of_another_version_are_one_line(
    cli: Cli, on: tuple[str, str], photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advimg.batches.ray_slot.__version__", "9.9")
    assert_one_line(
        cli(*COMMAND, *on), 1, f"node {socket.gethostname()} has advimg {advimg.__version__}, and not 9.9 as here"
    )


def test_nodes_without_advimg_are_one_line(
    cli: Cli, on: tuple[str, str], photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A module that only this process has.
    missing = types.ModuleType("missing")
    vars(missing)["Other"] = type("Other", (PipelineActor,), {"__module__": "missing"})
    monkeypatch.setitem(sys.modules, "missing", missing)
    monkeypatch.setattr("advimg.batches.ray_slot.PipelineActor", vars(missing)["Other"])
    assert_one_line(
        cli(*COMMAND, *on),
        1,
        "no actor can begin on a node of the cluster: ModuleNotFoundError: No module named 'missing'; ",
    )


@pytest.mark.parametrize(
    ("devices", "code", "message"),
    [
        ("cuda", 1, "--device cuda: the cluster has no GPUs"),
        ("cpu,cpu,cpu", 1, "--device cpu,cpu,cpu: the cluster has 2 CPUs"),
        ("cuda:0,cuda:1", 2, "--device cuda:0,cuda:1: the cluster assigns devices; give cpu or cuda, once an actor"),
    ],
)
def test_devices_that_the_cluster_does_not_have_are_one_line(
    cli: Cli, on: tuple[str, str], photos: list[Path], out: Path, devices: str, code: int, message: str
) -> None:
    assert_one_line(cli(*COMMAND, *on, "--device", devices), code, message)
    assert not out.exists()


@pytest.mark.parametrize(
    ("address", "code", "message"),
    [
        ("spark", 2, "--on 'spark': give ray, ray://HOST:10001, or ray:HOST:PORT"),
        ("ray:", 2, "--on 'ray:': give ray, "),
        ("ray:nowhere", 2, "--on ray:nowhere: this is no address; give "),
        ("ray:127.0.0.1:1", 1, "no Ray cluster answers at 127.0.0.1:1: Connection refused"),
        ("ray://127.0.0.1:1", 1, "no Ray cluster answers at ray://127.0.0.1:1: Connection refused"),
    ],
)
def test_an_address_where_nobody_answers_is_one_line(
    cli: Cli, photos: list[Path], out: Path, address: str, code: int, message: str
) -> None:
    assert_one_line(cli(*COMMAND, "--on", address), code, message)
    assert not out.exists()


def test_the_address_of_the_environment_is_that_of_on_ray(
    cli: Cli, photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert_one_line(cli(*COMMAND, "--on", "ray"), 1, "no Ray cluster answers at 127.0.0.1:1: Connection refused")


def test_what_answers_and_is_no_cluster_is_one_line(
    cli: Cli, photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advimg.batches.ray_cluster._CONNECT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        # In a process of its own: Ray goes on trying, in a thread.
        code = (
            "import sys, advimg.batches.ray_cluster as c; c._CONNECT = 0.5\n"
            f"from advimg.cli import run; sys.exit(run({[*COMMAND, '--on', f'ray:{address}']!r}))"
        )
        ran = subprocess.run([sys.executable, "-c", code], cwd=out.parent, capture_output=True, text=True)
    assert_one_line(
        Ran(ran.returncode, ran.stdout, ran.stderr), 1, f"what answers at {address} is no Ray cluster, or does not let"
    )


def test_without_ray_there_is_one_line(
    cli: Cli, photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    for place in (("--on", "ray:127.0.0.1:1"), ("--device", "cpu,cpu")):
        ran = cli(*COMMAND, *place, "--json")
        assert_one_line(ran, 1, "several devices, and --on ray, need Ray: pip install 'advimg-cli[ray]'")


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
    assert_one_line(cli(*COMMAND, "--device", devices), code, message)
    assert not out.exists()


@pytest.mark.parametrize(
    "command", [("attack", "x.jpg", "-t", "3"), ("classify", "x.jpg"), ("verify", "x.png", "--original", "x.jpg")]
)
def test_commands_for_one_photo_use_one_device(cli: Cli, command: tuple[str, ...]) -> None:
    assert_one_line(
        cli(*command, "--device", "cpu,cpu"),
        2,
        f"advimg: --device cpu,cpu: {command[0]} uses one device; `advimg batch` and `sweep` use several",
    )


def test_a_classifier_that_is_loaded_here_cannot_be_sent(photos: list[Path], out: Path) -> None:
    with pytest.raises(UsageError, match="give models by name or as TOML files"):
        advimg.batch(photos, 3, out_dir=out, model=quick_classifier(), on="ray")


# Stopped from outside.


class Running:
    """``advimg`` in a process group of its own, as a terminal starts it, with the processes that it starts."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._folder = folder
        self._mark = f"ADVIMG_TEST_MARK={folder}".encode()
        environment = {**os.environ, "ADVIMG_TEST_MARK": str(folder)}
        with (folder / "stderr").open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "advimg", *arguments],
                cwd=folder,
                env=environment,
                stderr=stderr,
                start_new_session=True,
            )

    def wait_for_records(self, number: int) -> None:
        """Wait, as long as the command runs."""

        def enough() -> bool:
            assert self._process.poll() is None, (self._folder / "stderr").read_text()
            return len(journal_lines(self._folder / "out")) >= number

        wait_until(enough)

    def send(self, number: int, *, to_all: bool = False) -> Ran:
        """Send a signal to the command, or to all of its processes, and wait until none is left."""
        (os.killpg if to_all else os.kill)(self._process.pid, number)
        code = self._process.wait(60)
        wait_until(lambda: not processes(lambda folder: self._mark in (folder / "environ").read_bytes()))
        return Ran(code, "", (self._folder / "stderr").read_text())


# So much that it is not done before it is stopped.
LONG = ("batch", "photos", *(f"--target={target}" for target in range(60)), "-m", "quick.toml", "-O", "out")


def test_an_interrupted_run_keeps_what_is_complete_and_leaves_no_process(
    photos: list[Path], tmp_path: Path, out: Path
) -> None:
    running = Running(tmp_path, *LONG, "--device", "cpu,cpu")
    running.wait_for_records(3)
    ran = running.send(signal.SIGINT, to_all=True)
    done = records_of(out)
    assert ran.code == 130
    assert 3 <= len(done) < 360
    assert ran.err.splitlines()[-1] == (
        f"advimg: interrupted; {len(done)} of 360 are done; run the same command again to go on"
    )
    assert "Traceback" not in ran.err
    assert_clean(out)
    assert json.loads((out / "summary.json").read_bytes())["unfinished"] == 360 - len(done)


def test_the_actors_of_a_command_that_is_killed_end_and_the_same_command_goes_on(
    cli: Cli, on: tuple[str, str], photos: list[Path], tmp_path: Path, out: Path
) -> None:
    command = (*COMMAND, "-t", "random", "-t", "least-likely", *on)
    running = Running(tmp_path, *command)
    running.wait_for_records(2)
    ran = running.send(signal.SIGKILL)
    wait_until(lambda: not actors())
    assert ran.code == -signal.SIGKILL
    done = journal_lines(out)
    assert len(done) >= 2
    again = cli(*command)
    assert again.code == code_of(records_of(out)), again.err
    assert f"{len(done)} of 18 were done by an earlier run" in again.err
    assert journal_lines(out)[: len(done)] == done
    assert len(comparable(out)) == 18
    assert_clean(out)


def test_actors_read_from_a_store_and_pack_into_it(bucket: str, photos: list[Path]) -> None:
    store = Url(f"s3://{bucket}")
    for path in photos:
        stores.put(store / "photos" / path.name, path.read_bytes(), overwrite=False)
    options: dict[str, Any] = {"out_dir": str(store / "out"), "model": "efficientnet_lite0", "eps": 10}
    stats = advimg.batch(str(store / "photos"), "random", device=("cpu", "cpu"), pack=2, **options)
    assert stats.done == len(photos)
    records = read_attacks(store / "out")
    assert {Url(record["source"]).name for record in records.values()} == {path.name for path in photos}
    for record in records.values():
        data = read_bytes(Url(record["outputs"]["adversarial"]))
        assert hashlib.sha256(data).hexdigest() == record["adversarial_sha256"]
    tars = {Url(record["outputs"]["adversarial"]).parent.name for record in records.values()}
    assert all(re.fullmatch(r"results-0[01]-\d{5}\.tar", name) for name in tars)
    assert advimg.batch(str(store / "photos"), "random", device="cpu", **options).earlier == len(photos)
