"""Places: how URLs behave as names, archives as folders, and stores as disks."""

import io
import os
import pickle
import tarfile
from pathlib import Path, PurePosixPath

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from advimg.batches.stamps import stamp_of
from advimg.errors import DiskError, OutputError, UsageError
from advimg.storage import places, stores, tars
from advimg.storage.copies import on_disk
from advimg.storage.url import Url, is_below, is_url, located, path_or_url, place, relative

_PARTS = st.lists(st.text("abc.-_ é", min_size=1, max_size=5).filter(lambda part: part not in (".", "..")), max_size=4)


def test_a_url_has_the_names_that_a_path_has() -> None:
    url, path = Url("s3://bucket/a/dog.old.jpg"), PurePosixPath("/bucket/a/dog.old.jpg")
    assert (url.name, url.stem, url.suffix) == (path.name, path.stem, path.suffix)
    assert (str(url.parent), url.key, url.store) == ("s3://bucket/a", "a/dog.old.jpg", "s3://bucket")
    assert url.with_name("x.png") == url.parent / "x.png" == Url("s3://bucket/a/x.png")
    assert str(url.with_suffix(".png")) == "s3://bucket/a/dog.old.png"
    assert list(map(str, url.parents)) == ["s3://bucket/a", "s3://bucket"]
    assert url.relative_to(Url("s3://bucket")) == PurePosixPath("a/dog.old.jpg")
    assert Url("s3://bucket/").parent == Url("s3://bucket")
    assert pickle.loads(pickle.dumps(url)) == url
    assert len({url, Url(str(url)), url.parent}) == 2


def test_a_url_is_relative_to_folders_and_not_to_beginnings_of_names() -> None:
    assert Url("s3://bucket/ab").is_relative_to(Url("s3://bucket"))
    assert not Url("s3://bucket/ab").is_relative_to(Url("s3://bucket/a"))
    assert not Url("s3://bucket/ab").is_relative_to(Url("s3://buck"))
    with pytest.raises(ValueError, match="is not in"):
        Url("s3://bucket/ab").relative_to(Url("s3://bucket/a"))
    assert not is_below(Path("/bucket/a"), Url("s3://bucket"))
    assert not is_below(Url("s3://bucket/a"), Path("/"))


def test_urls_are_sorted_by_folders() -> None:
    names = ["a/z", "a!/b", "a/b/c"]
    assert sorted(Url(f"s3://b/{name}") for name in names) == [Url(f"s3://b/{n}") for n in ("a/b/c", "a/z", "a!/b")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("https://x/y.jpg", "it knows s3://, gs://, az://, hf://, memory://"),
        ("s3://key:secret@bucket/x", "s3://…@bucket/x: leave credentials out of URLs"),
        ("s3://bucket/x?X-Amz-Signature=abc", r"s3://bucket/x\?…: leave credentials out of URLs"),
        ("s3://", "names no bucket"),
        ("s3://key:abc/secret@bucket/x", "s3://…@bucket/x: leave credentials out of URLs"),
    ],
)
def test_urls_that_make_no_sense_are_refused_without_their_secrets(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        place(text)
    assert "secret" not in str(raised.value)
    assert "abc" not in str(raised.value)


def test_what_a_person_writes_is_a_path_unless_it_is_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert place("a/../b.jpg") == tmp_path / "b.jpg"
    assert path_or_url("b.jpg") == Path("b.jpg")
    assert place("S3://Bucket/Key") == path_or_url("s3://Bucket/Key") == Url("s3://Bucket/Key")
    assert not is_url("s3:/bucket")
    assert not is_url(r"C:\photos\dog.jpg")


@given(_PARTS, _PARTS)
def test_a_stored_place_is_found_again(photo: list[str], folder: list[str]) -> None:
    where, results = (Url("/".join(["s3://b", *parts, last])) for parts, last in ((photo, "p"), (folder, "r")))
    assert located(relative(where, results), results) == where
    disk = Path("/", *photo, "p")
    assert located(relative(disk, Path("/", *folder, "r")), Path("/", *folder, "r")) == disk


@pytest.mark.parametrize(
    ("where", "folder", "stored"),
    [
        (Url("s3://b/photos/dog.jpg"), Url("s3://b/out"), "../photos/dog.jpg"),
        (Url("s3://b/photos//dog.jpg"), Url("s3://b/out"), "s3://b/photos//dog.jpg"),
        (Url("s3://other/dog.jpg"), Url("s3://b/out"), "s3://other/dog.jpg"),
        (Path("/photos/dog.jpg"), Url("s3://b/out"), str(Path("/photos/dog.jpg"))),
        (Url("s3://b/dog.jpg"), Path("/out"), "s3://b/dog.jpg"),
    ],
)
def test_places_are_stored_relative_within_one_store_only(where: Url | Path, folder: Url | Path, stored: str) -> None:
    assert relative(where, folder) == stored
    assert located(stored, folder) == where


def test_a_store_reads_writes_lists_and_removes(memory: Url) -> None:
    dog = memory / "dog.jpg"
    assert stores.find(dog) is None
    places.write_whole(dog, b"one", overwrite=False, check=lambda data: data == b"one")
    assert places.read_bytes(dog) == b"one"
    assert places.read_beginning(dog, 2) == b"on"
    with pytest.raises(OutputError, match="exists; use --force"):
        places.write_whole(dog, b"two", overwrite=False)
    before = stamp_of(dog)
    places.write_whole(dog, b"two", overwrite=True)
    assert stamp_of(dog) != before
    places.write_whole(memory / "sub" / "cat.jpg", b"three", overwrite=False)
    assert [str(url) for url, _ in stores.listed(memory)] == [f"{memory}/dog.jpg", f"{memory}/sub/cat.jpg"]
    assert [url.name for url, _ in stores.listed(memory, recursive=False)] == ["dog.jpg"]
    assert places.is_folder(memory / "sub")
    assert not places.is_folder(dog)
    stores.remove([dog, memory / "gone.jpg"])
    assert not places.exists(dog)


def test_an_object_that_does_not_read_back_is_removed(memory: Url) -> None:
    with pytest.raises(OutputError, match="did not read back"):
        places.write_whole(memory / "dog.png", b"data", overwrite=True, check=lambda _: False)
    assert not places.exists(memory / "dog.png")


def test_a_store_whose_package_is_missing_names_the_extra() -> None:
    with pytest.raises(UsageError, match=r"az:// needs the package adlfs: pip install 'advimg-cli\[az\]'"):
        stores.read(Url("az://container/dog.jpg"))


def _archive(path: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return path


def test_members_of_an_archive_are_places(tmp_path: Path) -> None:
    archive = _archive(tmp_path / "a.tar", ("./dog.jpg", b"dog"), ("sub/cat.jpg", b"cat"), ("../out.jpg", b"out"))
    assert list(tars.members(archive)) == ["dog.jpg", "sub/cat.jpg"]
    assert places.read_bytes(archive / "dog.jpg") == b"dog"
    assert places.read_bytes(archive / "sub" / "cat.jpg") == b"cat"
    assert places.exists(archive / "dog.jpg")
    assert not places.exists(archive / "other.jpg")
    assert places.is_folder(archive)
    with pytest.raises(FileNotFoundError):
        places.read_bytes(archive / "other.jpg")
    _archive(archive, ("dog.jpg", b"another dog"))
    assert places.read_bytes(archive / "dog.jpg") == b"another dog"


def test_members_of_an_archive_in_a_store_are_places(tmp_path: Path, memory: Url) -> None:
    archive = _archive(tmp_path / "a.tar", ("dog.jpg", b"dog"), ("sub/cat.jpg", b"c" * 20_000))
    places.write_whole(memory / "a.tar", archive.read_bytes(), overwrite=False)
    assert list(tars.members(memory / "a.tar")) == ["dog.jpg", "sub/cat.jpg"]
    assert places.read_bytes(memory / "a.tar" / "sub" / "cat.jpg") == b"c" * 20_000


def test_a_folder_may_be_called_like_an_archive(tmp_path: Path) -> None:
    (tmp_path / "a.tar").mkdir()
    (tmp_path / "a.tar" / "dog.jpg").write_bytes(b"dog")
    assert places.read_bytes(tmp_path / "a.tar" / "dog.jpg") == b"dog"


@pytest.mark.parametrize("data", [b"", b"no archive" * 100, b"\0" * 100])
def test_a_broken_archive_is_one_error(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(OSError, match="is no tar archive"):
        tars.members(tmp_path / "a.tar")


def test_a_copy_is_fetched_once_for_each_content(tmp_path: Path, memory: Url, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    weights = memory / "mine.pth"
    places.write_whole(weights, b"one", overwrite=False)
    copy = on_disk(weights)
    assert copy.name == "mine.pth"
    assert copy.read_bytes() == b"one"
    copy.write_bytes(b"kept")
    assert on_disk(weights).read_bytes() == b"kept"
    places.write_whole(weights, b"other", overwrite=True)
    assert on_disk(weights).read_bytes() == b"other"
    assert on_disk(tmp_path) == tmp_path
    with pytest.raises(FileNotFoundError):
        on_disk(memory / "gone.pth")


def test_secrets_are_left_out_of_what_stores_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very+secret/value")
    said = "denied for very+secret/value at https://host/key?X-Amz-Signature=abc&x=1 now"
    assert stores.without_secrets(said) == "denied for … at https://host/key?… now"


def test_a_disk_error_is_one_of_a_store_that_refuses(memory: Url, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "pipe_file", refuse)
    with pytest.raises(DiskError, match=r"cannot write .*dog.png: the store refuses access \(Access Denied\)"):
        places.write_whole(memory / "dog.png", b"data", overwrite=True)


def test_an_archive_is_built_of_any_names_and_read_again() -> None:
    names = ["a.png", "sub/犬 é.png", os.fsdecode(b"caf\xe9.png"), f"{'d' * 150}/{'n' * 200}.png"]
    data = tars.built((name, name.encode("utf-8", "surrogateescape") * 99) for name in names)
    assert data == tars.built((name, name.encode("utf-8", "surrogateescape") * 99) for name in names)
    assert [(name, len(file)) for name, file in tars.contents(data)] == [
        (name, 99 * len(name.encode("utf-8", "surrogateescape"))) for name in names
    ]
    with pytest.raises(OSError, match="no tar archive, or cut off"):
        list(tars.contents(data[:700]))


def test_the_names_in_a_folder_are_those_of_its_files(tmp_path: Path, memory: Url) -> None:
    for folder in (tmp_path / "out", memory):
        assert places.names_in(folder) == []
        places.make_folder(folder / "sub")
        for name in ("a", "sub/b"):
            places.write_whole(folder / name, b"x", overwrite=False)
        assert set(places.names_in(folder)) - {"sub"} == {"a"}
