"""Many photos in one process."""

import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest

from advimg.batches.byte_budget import ByteBudget
from advimg.batches.options import Options
from advimg.batches.plan import Item, each_target
from advimg.batches.reader import PhotoReader
from advimg.batches.stats import BatchStats
from advimg.batches.writer import Writer
from advimg.engine.job import Job
from advimg.errors import AdvimgError
from advimg.images.photo import Photo
from advimg.outputs import Outputs
from advimg.settings import Settings
from tests.batches import EPS, attack_all, open_descriptors, save_photo, save_photos
from tests.conftest import linear_classifier


def test_many_photos_leave_no_file_open_and_no_job_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_descriptors()
    if before is None:
        pytest.skip("the system does not tell which files are open")
    photos = save_photos(tmp_path / "photos", 300)
    broken = photos[::5]
    for path in broken:
        path.write_bytes(path.read_bytes()[:300])
    jobs: WeakSet[Job] = WeakSet()
    most_open = most_jobs = 0

    def job(**known: Any) -> Job:
        made = Job(**known)
        jobs.add(made)
        return made

    def ended(stats: BatchStats) -> None:
        nonlocal most_open, most_jobs
        most_open, most_jobs = max(most_open, open_descriptors() or 0), max(most_jobs, len(jobs))

    monkeypatch.setattr("advimg.batches.reader.Job", job)

    # A photo is large: it must not wait for the garbage collector, which goes by the number of objects.
    gc.disable()
    try:
        stats = attack_all(photos, tmp_path / "out", linear_classifier(classes=2, scale=0.5), ended=ended)
    finally:
        gc.enable()
    assert (stats.verified, len(stats.failures)) == (240, 60)
    assert open_descriptors() == before
    # The journal, its list and lock, and what the threads are reading and writing.
    assert most_open <= before + 20
    # Those that are live, read ahead, or being written.
    assert 0 < most_jobs < 45


_SIZE = (40, 30)
_BYTES = 40 * 30 * 4


def reader_of(photos: list[Path], memory: int, failed: list[Item]) -> PhotoReader:
    """Return a reader with two targets a photo that would read 50 photos ahead."""
    keys = each_target(photos, [1, 2], EPS)
    items = [[Item(key, Outputs(Path("a.png"), None, None)) for key in keys if key.source == photo] for photo in photos]

    def fail(item: Item, error: AdvimgError) -> None:
        failed.append(item)

    return PhotoReader(items, Options(settings=Settings()), failed=fail, ahead=50, memory=memory)


def photos_made(monkeypatch: pytest.MonkeyPatch) -> list[Photo]:
    """Return the list to which every photo is added that is decoded."""
    made: list[Photo] = []

    def photo(**known: Any) -> Photo:
        made.append(Photo(**known))
        return made[-1]

    monkeypatch.setattr("advimg.images.decode.Photo", photo)
    return made


def settled(made: list[Photo], expected: int) -> int:
    """Wait until so many photos are decoded, and a little longer; return how many are."""
    end = time.monotonic() + 30
    while len(made) < expected and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.2)
    return len(made)


@pytest.mark.parametrize(("memory", "held"), [(3 * _BYTES, 3), (4 * _BYTES - 1, 3), (1, 1), (1000 * _BYTES, 20)])
def test_what_is_read_ahead_is_bounded_by_its_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: int, held: int
) -> None:
    photos = [save_photo(tmp_path / f"{number:02}.png", number, size=_SIZE) for number in range(20)]
    photos[5].write_bytes(photos[5].read_bytes()[:200])  # its share is given back
    made, failed = photos_made(monkeypatch), list[Item]()
    reader = reader_of(photos, memory, failed)
    try:
        job = reader.take(wait=True)
        assert job is not None
        sources = [job.photo.source]
        # The first photo has another target, and so is still held.
        assert settled(made, min(held, 19)) == min(held, 19)
        while (job := reader.take(wait=True)) is not None:
            sources.append(job.photo.source)
            assert len(made) <= len(sources) // 2 + held
    finally:
        reader.close()
    assert sorted(sources) == sorted(2 * [str(photo) for photo in photos if photo != photos[5]])
    assert [item.key.source for item in failed] == 2 * [photos[5]]


def test_a_reader_with_full_memory_closes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = [save_photo(tmp_path / f"{number}.png", number, size=_SIZE) for number in range(6)]
    made = photos_made(monkeypatch)
    reader = reader_of(photos, 1, [])
    assert reader.take(wait=True) is not None
    assert settled(made, 1) == 1
    reader.close()
    assert len(made) == 1


def test_what_waits_to_be_written_is_bounded_by_its_bytes() -> None:
    go, written = threading.Event(), list[int]()
    writer = Writer(failed=lambda: None, memory=100)

    def write(number: int) -> None:
        go.wait(30)
        written.append(number)

    with ThreadPoolExecutor(1) as pool:
        writer.put(lambda: write(0), holding=100)
        second = pool.submit(writer.put, lambda: write(1), holding=1)  # for which there is a place, but no byte
        time.sleep(0.2)
        assert not second.done()
        go.set()
        second.result(30)
    writer.close()
    assert sorted(written) == [0, 1]


def test_a_budget_never_keeps_one_who_is_alone_waiting() -> None:
    budget = ByteBudget(10)
    assert budget.take(1000)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(budget.take, 1)
        time.sleep(0.1)
        assert not other.done()
        budget.give_back(1000)
        assert other.result(30)
        larger = pool.submit(budget.take, 10)
        budget.close()
        assert not larger.result(30)
    assert not budget.take(1)


def test_the_last_job_of_a_writer_comes_after_all_others_unless_one_has_failed() -> None:
    done: list[int] = []
    writer = Writer(failed=lambda: None, memory=1 << 20)
    for number in range(20):
        writer.put(partial(done.append, number), holding=1)
    writer.close(lambda: done.append(-1))
    assert (sorted(done), done[-1]) == ([-1, *range(20)], -1)
    writer = Writer(failed=lambda: None, memory=1 << 20)
    writer.put(lambda: done[99], holding=1)  # type: ignore[arg-type] # raises
    with pytest.raises(IndexError):
        writer.close(done.clear)
    assert len(done) == 21
