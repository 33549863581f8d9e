"""The object stores that tests use, through s3fs: what holds in each, and that they end with the tests."""

import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs

from tests.object_store import ObjectStore, moto


@pytest.fixture(scope="module", params=["moto", "swift"])
def store(
    request: pytest.FixtureRequest, object_store: ObjectStore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ObjectStore]:
    if request.param == object_store.server:
        yield object_store
    elif request.param == "swift":
        pytest.skip("OpenStack Swift cannot run here")
    else:
        with moto(tmp_path_factory.mktemp("moto")) as running:
            yield running


def test_objects_are_what_was_last_put(store: ObjectStore) -> None:
    files = store.files
    bucket = store.new_bucket()
    key = f"{bucket}/photos/a b+c%20?#ü.txt"
    assert not files.exists(key)
    for content in (b"first", b"second one"):
        files.pipe_file(key, content)
        assert files.cat_file(key) == content
        (listed,) = files.ls(f"{bucket}/photos", detail=True)
        assert (listed["name"], listed["size"]) == (key, len(content))
        assert listed["ETag"] == f'"{hashlib.md5(content).hexdigest()}"'
        assert abs(listed["LastModified"].timestamp() - time.time()) < 60
    files.rm_file(key)
    assert files.find(bucket) == []


def test_every_test_has_a_bucket_of_its_own(bucket: str, object_store: ObjectStore) -> None:
    s3fs.S3FileSystem().pipe_file(f"{bucket}/x", b"1")
    assert s3fs.S3FileSystem().find(bucket) == [f"{bucket}/x"]
    other = object_store.new_bucket()
    assert s3fs.S3FileSystem().find(other) == []


def test_only_moto_creates_conditionally(store: ObjectStore) -> None:
    key = f"{store.new_bucket()}/x"
    files = store.files
    if store.server == "swift":
        with pytest.raises(OSError, match="Conditional object PUTs are not supported"):
            files.pipe_file(key, b"1", mode="create")
    else:
        files.pipe_file(key, b"1", mode="create")
        with pytest.raises(FileExistsError):
            files.pipe_file(key, b"2", mode="create")
        assert files.cat_file(key) == b"1"


def test_only_swift_checks_secrets(store: ObjectStore) -> None:
    key = f"{store.new_bucket()}/x"
    stranger = store.file_system(secret="wrong")
    if store.server == "swift":
        with pytest.raises(PermissionError, match="signature we calculated does not match"):
            stranger.pipe_file(key, b"1")
        assert not store.files.exists(key)
    else:
        stranger.pipe_file(key, b"1")
        assert store.files.exists(key)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux ends the servers")
def test_the_servers_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from tests.object_store import object_store\n"
        "with object_store(Path(sys.argv[1])) as store: print(store.server, flush=True); time.sleep(600)"
    )
    starter = subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE)
    assert starter.stdout is not None
    server = starter.stdout.readline().strip()
    children = Path(f"/proc/{starter.pid}/task/{starter.pid}/children").read_text().split()
    assert len(children) == {b"moto": 1, b"swift": 4}[server]
    starter.send_signal(signal.SIGKILL)
    starter.wait()
    starter.stdout.close()
    deadline = time.monotonic() + 10
    while any(_runs(int(child)) for child in children):
        assert time.monotonic() < deadline, children
        time.sleep(0.02)


def _runs(process: int) -> bool:
    """Return whether a process runs. One that has ended and that nobody has waited for counts as ended."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
