"""The bad store of the tests is as bad as it is told to be, and otherwise the store behind it."""

import math
import time
from collections.abc import Iterator

import pytest
import s3fs
from botocore.exceptions import ConnectionClosedError

from tests.faulty_store import Cut, FaultyStore, faulty_store
from tests.object_store import ObjectStore


@pytest.fixture
def faults(object_store: ObjectStore) -> Iterator[FaultyStore]:
    with faulty_store(object_store) as faults:
        yield faults


@pytest.fixture
def key(object_store: ObjectStore) -> str:
    return f"{object_store.new_bucket()}/a folder/ü+%.txt"


def _files(faults: FaultyStore) -> s3fs.S3FileSystem:
    """A client that asks once, and says at once what went wrong."""
    files = faults.store.file_system(config_kwargs={"retries": {"total_max_attempts": 1}})
    files.retries = 1
    return files


def test_all_passes_unless_told_otherwise(faults: FaultyStore, key: str) -> None:
    files = _files(faults)
    content = bytes(range(256)) * 4096
    files.pipe_file(key, content)
    assert files.cat_file(key) == content
    assert files.cat_file(key, start=10, end=20) == content[10:20]
    assert not files.exists(f"{key}x")
    assert files.find(key.split("/")[0]) == [key]
    files.rm_file(key)
    assert files.find(key.split("/")[0]) == []
    assert faults.failed == {}


def test_a_store_that_is_too_busy_n_times(faults: FaultyStore, key: str, object_store: ObjectStore) -> None:
    files = _files(faults)
    faults.slow_down = 2
    for _ in range(2):
        with pytest.raises(OSError, match="Please reduce your request rate"):
            files.pipe_file(key, b"1")
    assert not object_store.files.exists(key)
    files.pipe_file(key, b"1")
    assert files.cat_file(key) == b"1"
    assert faults.failed == {"PUT": 2}


def test_credentials_that_expire_half_way(faults: FaultyStore, key: str, object_store: ObjectStore) -> None:
    files = _files(faults)
    faults.expires_after = 2
    files.pipe_file(key, b"1")
    files.pipe_file(key, b"2")
    for _ in range(2):
        with pytest.raises(PermissionError, match="The provided token has expired"):
            files.pipe_file(key, b"3")
    assert object_store.files.cat_file(key) == b"2"


def test_only_requests_of_the_methods_named_fail(faults: FaultyStore, key: str) -> None:
    files = _files(faults)
    faults.methods = frozenset({"PUT"})
    faults.expired = True
    with pytest.raises(PermissionError, match="The provided token has expired"):
        files.pipe_file(key, b"1")
    assert not files.exists(key)
    assert faults.failed == {"PUT": 1}


def test_answers_that_come_late(faults: FaultyStore, key: str) -> None:
    files = _files(faults)
    faults.delay = 0.5
    start = time.monotonic()
    files.pipe_file(key, b"1")
    assert time.monotonic() - start >= 0.5


@pytest.mark.parametrize(("cut_at", "arrived"), [("request", False), ("answer", True)])
def test_connections_that_are_cut(
    cut_at: Cut, arrived: bool, faults: FaultyStore, key: str, object_store: ObjectStore
) -> None:
    files = _files(faults)
    faults.cut, faults.cut_at = math.inf, cut_at
    with pytest.raises(ConnectionClosedError):
        files.pipe_file(key, b"1")
    assert object_store.files.exists(key) is arrived
    faults.cut = 0
    files.pipe_file(key, b"2")
    assert files.cat_file(key) == b"2"


def test_clients_try_again_by_themselves(faults: FaultyStore, key: str) -> None:
    files = faults.store.file_system()
    content = b"1" * 10_000
    faults.slow_down = 1
    files.pipe_file(key, content)
    assert faults.seen == {"PUT": 2}
    faults.cut, faults.cut_at, faults.methods = 1, "answer", frozenset({"GET"})
    assert files.cat_file(key) == content
    assert faults.failed == {"PUT": 1, "GET": 1}
