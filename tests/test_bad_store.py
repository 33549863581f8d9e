"""Batches in a store that fails: each failure is one line, nothing is lost, and no credentials are told."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from advimg.batches import journal_segments
from advimg.batches.journal import read_attacks
from advimg.errors import DiskError, PhotoError
from advimg.storage import stores
from advimg.storage.places import read_bytes
from advimg.storage.url import Url
from tests.batches import assert_one_line, quick_classifier
from tests.conftest import Cli, forget_file_systems
from tests.faulty_store import FaultyStore, faulty_store
from tests.object_store import ObjectStore
from tests.slow_batch import slow_classifier
from tests.test_batch_in_store import assert_kept_in_store, attack, names_in, put_photos


@pytest.fixture
def faults(object_store: ObjectStore, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyStore]:
    """A store that fails as it is told to, and whose failures are waited for no long time."""
    with faulty_store(object_store) as faults:
        monkeypatch.setenv("AWS_ENDPOINT_URL", faults.store.endpoint)
        monkeypatch.setattr(stores, "_FIRST_WAIT", 0.01)
        forget_file_systems()
        yield faults


@pytest.fixture
def store(faults: FaultyStore, bucket: str, tmp_path: Path) -> Url:
    put_photos(Url(f"s3://{bucket}"), tmp_path, 4)
    return Url(f"s3://{bucket}")


@pytest.mark.parametrize("method", ["PUT", "GET", "HEAD"])
def test_a_store_that_asks_to_slow_down_is_asked_again(store: Url, faults: FaultyStore, method: str) -> None:
    faults.slow_down, faults.methods = 4, frozenset({method})
    assert attack(store).verified == 4
    assert faults.failed[method] == 4
    assert_kept_in_store(store, quick_classifier(), count=4)


@pytest.mark.parametrize("at", ["request", "answer"])
def test_what_is_cut_off_is_sent_again(store: Url, faults: FaultyStore, at: str) -> None:
    faults.cut, faults.methods = 3, frozenset({"PUT"})
    faults.cut_at = "answer" if at == "answer" else "request"
    assert attack(store).verified == 4
    assert faults.failed["PUT"] == 3
    assert_kept_in_store(store, quick_classifier(), count=4)


def test_a_store_that_does_not_do_it_is_told_in_one_line(store: Url, faults: FaultyStore, cli: Cli) -> None:
    faults.slow_down = math.inf
    ran = cli("attack", store / "photos" / "p00.jpg", "-t", "pelican", "-m", "efficientnet_lite0")
    assert_one_line(ran, 1, f"{store}/photos/p00.jpg cannot be read: the store failed (")
    assert faults.failed["HEAD"] >= stores.TRIES


def test_a_store_that_cannot_be_reached_is_told_in_one_line(
    store: Url, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    forget_file_systems()
    ran = cli("batch", store / "photos", "-t", "pelican", "-m", "efficientnet_lite0", "-O", "out")
    assert_one_line(ran, 1, f"{store}/photos cannot be read: the store failed (Could not connect to the endpoint URL")


def test_a_wrong_secret_is_refused_in_one_line_and_told_to_nobody(
    store: Url, object_store: ObjectStore, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    if object_store.server == "moto":
        pytest.skip("moto believes everyone who signs")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    forget_file_systems()
    ran = cli("batch", store / "photos", "-t", "pelican", "-m", "efficientnet_lite0", "-O", "out")
    assert_one_line(ran, 1, f"{store}/photos cannot be read: the store refuses access (")
    assert "not-the-secret" not in ran.err


def test_no_credentials_are_told_in_one_line(store: Url, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    forget_file_systems()
    ran = cli("batch", store / "photos", "-t", "pelican", "-m", "efficientnet_lite0", "-O", "out")
    assert_one_line(ran, 1, f"{store}/photos cannot be read: the store ")


def test_a_photo_that_a_store_does_not_give_is_a_failure_of_its_own(
    store: Url, faults: FaultyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = stores.read

    def without_one(url: Url, begin: int | None = None, end: int | None = None) -> bytes:
        if url.name == "p01.jpg":
            raise stores.StoreError(5, "the store failed (Please reduce your request rate.)")
        return read(url, begin, end)

    monkeypatch.setattr(stores, "read", without_one)
    stats = attack(store)
    assert (stats.verified, len(stats.failures)) == (3, 1)
    assert (
        stats.failures[0][1]
        == f"{store}/photos/p01.jpg cannot be read: the store failed (Please reduce your request rate.)"
    )
    monkeypatch.setattr(stores, "read", read)
    # The store may do it the next time, so that is tried without --retry-failed.
    stats = attack(store)
    assert (stats.earlier, stats.fresh, stats.verified) == (3, 1, 4)
    assert_kept_in_store(store, quick_classifier(), count=4)


def test_credentials_that_expire_half_way_lose_nothing(
    store: Url, faults: FaultyStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    put_photos(store, tmp_path, 12)
    monkeypatch.setattr(journal_segments, "_EVERY", 0.05)
    ended: list[str] = []

    def expire(record: dict[str, object]) -> None:
        ended.append(str(record["source"]))
        faults.expired = len(ended) >= 3

    with pytest.raises(DiskError, match=r"cannot (read|write).*: the store refuses access \(") as raised:
        attack(store, ended=expire, model=slow_classifier(0.03), batch_size=2)
    assert faults.store.secret not in str(raised.value)
    faults.expired = False
    stats = attack(store)
    assert (stats.verified, stats.total) == (12, 12)
    assert 0 < stats.earlier < 12
    assert_kept_in_store(store, quick_classifier(), count=12)


def test_a_run_ends_when_photo_after_photo_is_refused_and_records_none_of_them(
    store: Url, faults: FaultyStore, tmp_path: Path
) -> None:
    put_photos(store, tmp_path, 40)
    listed = [str(store / "photos" / f"p{number:02}.jpg") for number in range(40)]

    def expire(_: object) -> None:
        faults.expired = True

    def attack_to_disk(**options: object) -> object:
        import advimg

        values = {"model": slow_classifier(0.03), "out_dir": tmp_path / "out", "batch_size": 2} | options
        return advimg.batch(listed, 1, **values)  # type: ignore[arg-type]

    with pytest.raises(PhotoError, match=r"the store refuses access .*nor can the photos before it be read"):
        attack_to_disk(ended=expire)
    records = read_attacks(tmp_path / "out")
    assert all(record["error"] is None for record in records.values())
    assert 0 < len(records) < 40


def test_nothing_of_the_credentials_is_in_what_a_batch_writes(store: Url, faults: FaultyStore) -> None:
    attack(store)
    for name in names_in(store / "out"):
        data = read_bytes(store / "out" / name)
        assert faults.store.secret.encode() not in data
        assert faults.store.key.encode() not in data
        assert faults.store.endpoint.encode() not in data
