"""Batches whose photos and results are in an object store, over HTTP: that of tests/object_store.py."""

import contextlib
import hashlib
import io
import json
import signal
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import advimg
from advimg.batches import store_lock
from advimg.batches.journal import read_attacks, store_of
from advimg.batches.journal_segments import SegmentStore
from advimg.batches.stats import BatchStats
from advimg.batches.store_lock import StoreLock
from advimg.classifiers.classifier import Classifier
from advimg.engine.engine import Engine
from advimg.errors import OutputError
from advimg.storage import stores
from advimg.storage.places import read_bytes
from advimg.storage.url import Url
from tests.batches import EPS, assert_one_line, no_attack, quick_classifier, save_photos
from tests.conftest import Cli
from tests.slow_batch import slow_classifier

TARGET = 1


@pytest.fixture
def store(bucket: str, tmp_path: Path) -> Url:
    """A bucket with four photos of noise."""
    put_photos(Url(f"s3://{bucket}"), tmp_path, 4)
    return Url(f"s3://{bucket}")


def put_photos(store: Url, tmp_path: Path, count: int) -> None:
    for path in save_photos(tmp_path / "photos", count):
        stores.put(store / "photos" / path.name, path.read_bytes(), overwrite=True)


def attack(store: Url, **options: Any) -> BatchStats:
    values: dict[str, Any] = {"model": quick_classifier(), "out_dir": str(store / "out")} | options
    return advimg.batch(str(store / "photos"), TARGET, **values)


def names_in(folder: Url) -> set[str]:
    return {str(url.relative_to(folder)) for url, _ in stores.listed(folder)}


def assert_kept_in_store(store: Url, classifier: Classifier, *, count: int) -> None:
    """Check the results of a store: no attack twice, files and hashes as recorded, each judged anew; nothing else."""
    out = store / "out"
    records = read_attacks(out)
    lines = [
        json.loads(line)
        for url, _ in stores.listed(out / "journal")
        if url.name.startswith("0")
        for line in stores.read(url).splitlines()
    ]
    assert len(lines) == len(records) == count
    named = {"results.csv", "summary.json"} | {name for name in names_in(out) if name.startswith("journal/0")}
    for line, record in zip(lines, records.values(), strict=True):
        assert line["source"] == f"../photos/{Url(record['source']).name}"
        named |= set(line["outputs"].values())
        data = read_bytes(Url(record["outputs"]["adversarial"]))
        assert hashlib.sha256(data).hexdigest() == record["adversarial_sha256"]
        with (
            Image.open(io.BytesIO(data)) as image,
            Image.open(io.BytesIO(read_bytes(Url(record["source"])))) as photo,
        ):
            levels, original = np.asarray(image.convert("RGB")), np.asarray(photo.convert("RGB"))
        assert np.abs(levels.astype(int) - original).max() <= EPS
        assert classifier.judge(levels).top1 == TARGET
    assert names_in(out) == named


def test_a_batch_reads_from_a_store_and_writes_to_it(store: Url, monkeypatch: pytest.MonkeyPatch) -> None:
    stats = attack(store)
    assert (stats.verified, stats.total) == (4, 4)
    assert_kept_in_store(store, quick_classifier(), count=4)
    summary = json.loads(read_bytes(store / "out" / "summary.json"))
    assert (summary["verified"], summary["total"]) == (4, 4)
    assert b"../photos/p00.jpg,p00_1.png" in read_bytes(store / "out" / "results.csv").replace(b"class_", b"")

    monkeypatch.setattr(Engine, "run", no_attack)
    assert attack(store).earlier == 4


def test_the_files_in_a_store_are_those_of_a_disk(store: Url, tmp_path: Path) -> None:
    attack(store)
    advimg.batch(tmp_path / "photos", TARGET, model=quick_classifier(), out_dir=tmp_path / "out")
    for path in (tmp_path / "out").glob("*_perturbation.png"):
        assert read_bytes(store / "out" / path.name) == path.read_bytes()
    for path in (tmp_path / "out").glob("p0?_?.png"):
        with Image.open(path) as there, Image.open(io.BytesIO(read_bytes(store / "out" / path.name))) as here:
            assert np.array_equal(np.asarray(there), np.asarray(here))


def test_a_photo_that_was_changed_or_moved_is_known_in_a_store(store: Url) -> None:
    attack(store)
    photos = store / "photos"
    first, second = (read_bytes(photos / name) for name in ("p00.jpg", "p01.jpg"))
    stores.remove([photos / "p01.jpg"])
    stores.put(photos / "moved.jpg", second, overwrite=False)
    with Image.open(io.BytesIO(first)) as image:
        changed = io.BytesIO()
        image.transpose(Image.Transpose.ROTATE_180).save(changed, "JPEG")
    stores.put(photos / "p00.jpg", changed.getvalue(), overwrite=True)
    stats = attack(store)
    assert (stats.earlier, stats.fresh) == (3, 1)
    assert_kept_in_store(store, quick_classifier(), count=4)


def test_local_photos_may_go_to_a_store_and_photos_of_a_store_to_a_disk(store: Url, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    advimg.batch(photos, TARGET, model=quick_classifier(), out_dir=str(store / "out"))
    assert {record["source"] for record in read_attacks(store / "out").values()} == set(map(str, photos.iterdir()))
    advimg.batch(str(store / "photos"), TARGET, model=quick_classifier(), out_dir=tmp_path / "out")
    sources = {record["source"] for record in read_attacks(tmp_path / "out").values()}
    assert sources == {str(store / "photos" / path.name) for path in photos.iterdir()}
    again = advimg.batch(str(store / "photos"), TARGET, model=quick_classifier(), out_dir=tmp_path / "out")
    assert again.earlier == 4


_KILLED = """
import sys, advimg
from tests.slow_batch import slow_classifier
advimg.batch(sys.argv[1] + "/photos", 1, model=slow_classifier(0.05), out_dir=sys.argv[1] + "/out", batch_size=2)
"""


def test_a_run_that_is_killed_is_gone_on_with(bucket: str, tmp_path: Path) -> None:
    store = Url(f"s3://{bucket}")
    put_photos(store, tmp_path, 40)
    root = Path(__file__).parent.parent
    with subprocess.Popen([sys.executable, "-c", _KILLED, str(store)], cwd=root, stderr=subprocess.PIPE) as process:
        until = time.monotonic() + 60
        while not any(name.endswith("000000.jsonl") for name in names_in(store / "out")) and time.monotonic() < until:
            assert process.poll() is None, process.stderr.read() if process.stderr else None
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = names_in(store / "out")
    assert "journal/lock" in left
    stats = attack(store)
    assert 0 < stats.earlier < 40
    assert stats.earlier + stats.fresh == 40
    assert_kept_in_store(store, quick_classifier(), count=40)


def test_a_run_that_is_stopped_keeps_what_is_complete(store: Url) -> None:
    stop = threading.Event()
    stats = attack(store, stop=stop, ended=lambda _: stop.set(), batch_size=1, model=slow_classifier(0.1))
    assert 0 < stats.fresh < 4
    assert "journal/lock" not in names_in(store / "out")
    assert attack(store).earlier == stats.fresh
    assert_kept_in_store(store, quick_classifier(), count=4)


def test_two_runs_are_kept_apart(store: Url, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = []

    def begin_another(_: object) -> None:
        with pytest.raises(OutputError, match=r"another advimg batch is writing to s3://.*, on .* since") as raised:
            attack(store)
        refused.append(raised)

    attack(store, ended=begin_another)
    assert len(refused) == 4
    assert_kept_in_store(store, quick_classifier(), count=4)


def test_the_lock_of_a_run_elsewhere_is_waited_for_and_taken(store: Url, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_lock, "_GIVEN_UP", 0.5)
    monkeypatch.setattr(store_lock, "_LOOKED_AT", 0.1)
    monkeypatch.setattr(store_lock, "_SETTLED", 0.1)
    value = {"host": "elsewhere", "process": 1, "since": "2026-01-01 00:00:00 UTC", "token": "x"}
    stores.put(store / "out" / "journal" / "lock", json.dumps(value).encode(), overwrite=False)
    with pytest.warns(UserWarning, match="is locked by a run on elsewhere since 2026-01-01 00:00:00 UTC; waiting"):
        stats = attack(store)
    assert stats.verified == 4


def test_a_run_whose_lock_was_taken_writes_no_more(store: Url) -> None:
    lock = store / "out" / "journal" / "lock"

    def take(_: object) -> None:
        stores.put(lock, b'{"token": "other", "host": "elsewhere"}', overwrite=True)

    with pytest.raises(OutputError, match=r"another advimg batch writes to .* now"):
        attack(store, ended=take)
    assert json.loads(read_bytes(lock))["token"] == "other"


def test_attacks_that_are_made_again_replace_their_files(store: Url) -> None:
    attack(store)
    attack(store, eps=EPS / 2, force=True)
    records = read_attacks(store / "out")
    assert {record["eps"] for record in records.values()} == {EPS / 2}
    names = {name for name in names_in(store / "out") if name.endswith(".png")}
    assert names == {Url(path).name for record in records.values() for path in record["outputs"].values()}


def test_a_file_of_others_is_not_overwritten(store: Url) -> None:
    attack(store)
    name = Url(next(iter(read_attacks(store / "out").values()))["outputs"]["adversarial"]).name
    stores.put(store / "other" / name, b"mine", overwrite=False)
    with pytest.raises(OutputError, match=r"exists and is not in .* journal"):
        attack(store, out_dir=str(store / "other"))
    assert read_bytes(store / "other" / name) == b"mine"


@pytest.mark.usefixtures("quick")
def test_all_commands_take_urls(store: Url, cli: Cli, tmp_path: Path) -> None:
    listed = "".join(f"{store}/photos/p0{number}.jpg\n" for number in range(2))
    stores.put(store / "list.txt", listed.encode(), overwrite=False)
    table = f"path,target\n{store}/photos/p00.jpg,1\n"
    stores.put(store / "pairs.csv", table.encode(), overwrite=False)
    mask = io.BytesIO()
    Image.new("L", (24, 16), 255).save(mask, "PNG")
    stores.put(store / "mask.png", mask.getvalue(), overwrite=False)

    ran = cli("batch", "--from-file", store / "list.txt", "-t", "1", "-O", store / "a", "--report")
    assert ran.code == 0, ran.err
    assert f"written: {store}/a/report/index.html" in ran.err
    page = read_bytes(store / "a" / "report" / "index.html").decode()
    thumbnails = names_in(store / "a" / "report" / "thumbnails")
    assert thumbnails
    assert all(name in page for name in thumbnails)
    assert 'href="../p00_' in page
    assert cli("report", store / "a").code == 0
    assert cli("batch", "--targets", store / "pairs.csv", "-O", store / "b").code == 0
    assert len(read_attacks(store / "b")) == 1
    ran = cli("attack", store / "photos" / "p00.jpg", "-t", "1", "--mask", store / "mask.png", "-O", store / "c")
    assert ran.code == 0, ran.err
    (png,) = (name for name in names_in(store / "c") if "figure" not in name and "perturbation" not in name)
    assert cli("verify", store / "c" / png, "--original", store / "photos" / "p00.jpg", "-m", "resnet50").code == 0
    assert cli("classify", store / "photos" / "p00.jpg").code == 0
    ran = cli("sweep", store / "photos", "-t", "1", "--eps", "2,4", "-O", store / "d")
    assert ran.code == 0, ran.err
    assert {"sweep.json", "sweep.csv", "sweep.png"} <= names_in(store / "d")


@pytest.mark.usefixtures("quick")
def test_what_is_not_in_a_store_is_said_in_one_line(store: Url, cli: Cli) -> None:
    missing = f"{store.store}-not"
    assert_one_line(cli("batch", store / "photo", "-t", "1", "-O", store / "out"), 1, "does not exist; check the path")
    assert_one_line(cli("batch", f"{missing}/photos", "-t", "1", "-O", store / "out"), 1, "does not exist")
    ran = cli("batch", store / "photos", "-t", "1", "-O", f"{missing}/out")
    assert_one_line(ran, 1, f"cannot write to {missing}/out: there is no bucket {missing}")
    assert_one_line(cli("report", store / "photos"), 1, f"{store}/photos/journal does not exist; give a folder")
    assert_one_line(cli("batch", store / "out", "-t", "1", "-O", store / "out"), 1)


def test_shards_in_a_store_are_merged_there(store: Url) -> None:
    numbers = [1, 2, 3]
    stats = [attack(store, shard=f"{number}/3") for number in numbers if number != 2]
    merged = advimg.merge(str(store / "out"))
    assert [str(shard) for shard in merged.absent] == ["2/3"]
    assert merged.stats.done == sum(each.total for each in stats)
    stats.append(attack(store, shard="2/3"))
    merged = advimg.merge(str(store / "out"), check=True)
    assert (merged.exit_code, merged.stats.verified, merged.missing, merged.gone) == (0, 4, 0, 0)
    records = read_attacks(store / "out")
    assert {Url(record["source"]).name for record in records.values()} == {f"p0{number}.jpg" for number in range(4)}
    for record in records.values():
        data = read_bytes(Url(record["outputs"]["adversarial"]))
        assert hashlib.sha256(data).hexdigest() == record["adversarial_sha256"]
    assert attack(store).earlier == 4
    checked = advimg.verify_folder(str(store / "out"), model=quick_classifier())
    assert checked.holds, [each.reasons for each in checked.files]


def test_packed_results_in_a_store_are_resumed_and_checked(store: Url, monkeypatch: pytest.MonkeyPatch) -> None:
    assert attack(store, pack=3, batch_size=1).verified == 4
    tars = sorted(name for name in names_in(store / "out") if name.endswith(".tar"))
    assert tars == ["results-00000.tar", "results-00001.tar"]
    assert not any(name.endswith(".png") for name in names_in(store / "out"))
    for record in read_attacks(store / "out").values():
        data = read_bytes(Url(record["outputs"]["adversarial"]))
        assert hashlib.sha256(data).hexdigest() == record["adversarial_sha256"]
    assert advimg.verify_folder(str(store / "out"), model=quick_classifier()).holds
    with monkeypatch.context() as patched:
        patched.setattr(Engine, "run", no_attack)
        assert attack(store, pack=3).earlier == 4


def test_photos_may_be_members_of_an_archive_in_a_store(store: Url, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for path in sorted((tmp_path / "photos").iterdir()):
            tar.add(path, f"train/{path.name}")
    stores.put(store / "archives" / "photos.tar", (tmp_path / "photos.tar").read_bytes(), overwrite=False)
    stats = advimg.batch(
        str(store / "archives"), TARGET, model=quick_classifier(), out_dir=str(store / "out"), recursive=True
    )
    assert (stats.verified, stats.total) == (4, 4)
    sources = {record["source"] for record in read_attacks(store / "out").values()}
    assert sources == {f"{store}/archives/photos.tar/train/p0{number}.jpg" for number in range(4)}
    again = advimg.batch(
        str(store / "archives"), TARGET, model=quick_classifier(), out_dir=str(store / "out"), recursive=True
    )
    assert again.earlier == 4


def test_what_others_put_where_a_killed_run_was_to_write_stays(store: Url, monkeypatch: pytest.MonkeyPatch) -> None:
    attack(store)
    name = Url(next(iter(read_attacks(store / "out").values()))["outputs"]["adversarial"]).name
    plan = store / "other" / "journal" / "000001-abcdef" / "plan.jsonl"
    stores.put(plan, json.dumps([name, None]).encode() + b"\n", overwrite=False)
    stores.put(store / "other" / name, b"mine", overwrite=False)
    with pytest.raises(OutputError, match=r"exists and is not in .* journal"):
        attack(store, out_dir=str(store / "other"))
    assert read_bytes(store / "other" / name) == b"mine"


def test_names_with_odd_characters_are_photos_like_others(store: Url) -> None:
    photo = read_bytes(store / "photos" / "p00.jpg")
    for name in ("what?.jpg", "a b#c%41.jpg", "é.jpg"):
        stores.put(store / "odd" / name, photo, overwrite=False)
    odd: dict[str, Any] = {"out_dir": str(store / "odd-out"), "model": quick_classifier()}
    assert advimg.batch(str(store / "odd"), TARGET, **odd).verified == 3
    assert advimg.batch(str(store / "odd"), TARGET, **odd).earlier == 3


def test_a_journal_that_is_written_anew_while_it_is_read_is_one_error(store: Url) -> None:
    attack(store)
    segments = store_of(store / "out").read()
    next(segments)
    rest = list(segments)
    assert len(rest) == 3
    listed = [url for url, _ in stores.listed(store / "out" / "journal")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SegmentStore, "_listed", lambda _: [*listed, store / "out" / "journal" / "gone.jsonl"])
        with pytest.raises(OutputError, match="which a run may have written anew meanwhile"):
            read_attacks(store / "out")


def test_of_two_runs_that_find_a_dead_lock_one_takes_it(store: Url, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_lock, "_SETTLED", 0.5)
    url = store / "out" / "journal" / "lock"
    locks = [StoreLock(url, of=store / "out") for _ in range(2)]
    dead = locks[0]._value | {"process": 2**22 + 1, "token": "dead"}
    stores.put(url, json.dumps(dead).encode(), overwrite=False)
    held: list[StoreLock] = []

    def take(lock: StoreLock) -> None:
        with contextlib.suppress(OutputError):
            lock.acquire(lambda _: None)
            held.append(lock)

    threads = [threading.Thread(target=take, args=(lock,)) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1
    held[0].check()
    held[0].release()
    assert not list(stores.listed(store / "out"))
