"""Which photos a batch takes, from files, folders and lists."""

import sys
from pathlib import Path

import pytest

from advimg.batches.photos import Found, common_root, find_photos, is_output, read_list
from advimg.errors import PhotoError, UsageError
from advimg.images.encode import encode_png
from advimg.images.perturbation import PERTURBATION_KEY, Shown
from advimg.storage.url import relative
from tests.batches import write
from tests.conftest import random_photo


def write_adversarial(path: Path) -> Path:
    return write(path, encode_png(random_photo(3, 3).levels, chunk="{}"))


def found_names(found: Found) -> list[str]:
    return [relative(photo, found.root) for photo in found.photos]


def find(*paths: Path, out_dir: Path = Path("nowhere"), recursive: bool = False) -> Found:
    return find_photos(paths, out_dir=out_dir, recursive=recursive)


def test_a_folder_gives_its_photos_sorted_and_nothing_else(tmp_path: Path) -> None:
    for name in ("c.jpg", "a.JPEG", "b.webp", "notes.txt", ".hidden.jpg", "._a.jpg", "jpg", "sub/d.jpg"):
        write(tmp_path / name)
    (tmp_path / "folder.jpg").mkdir()
    found = find(tmp_path)
    assert found_names(found) == ["a.JPEG", "b.webp", "c.jpg"]
    assert (found.root, found.own) == (tmp_path, 0)


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "tif", "tiff", "gif", "PNG"])
def test_every_readable_kind_is_found(tmp_path: Path, suffix: str) -> None:
    photo = write(tmp_path / f"x.{suffix}")
    assert find(tmp_path).photos == (photo,)


def test_recursive_looks_into_folders_that_are_not_hidden(tmp_path: Path) -> None:
    for name in ("z.jpg", "b/2.jpg", "b/1.jpg", "a/3.jpg", "a/deep/4.jpg", ".cache/5.jpg"):
        write(tmp_path / name)
    found = find(tmp_path, recursive=True)
    assert found_names(found) == ["z.jpg", "a/3.jpg", "a/deep/4.jpg", "b/1.jpg", "b/2.jpg"]


def test_a_named_file_is_taken_whatever_its_name(tmp_path: Path) -> None:
    paths = [write(tmp_path / name) for name in ("photo", ".hidden.jpg", "notes.txt")]
    assert find(*paths).photos == tuple(paths)


def test_a_path_that_leads_nowhere_is_kept_beside_others(tmp_path: Path) -> None:
    photo = write(tmp_path / "a.jpg")
    assert find(tmp_path / "no.jpg", photo).photos == (tmp_path / "no.jpg", photo)


def test_nothing_but_paths_that_lead_nowhere_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match=r"no\.jpg does not exist"):
        find(tmp_path / "no.jpg")
    with pytest.raises(PhotoError, match="none of the paths given exists"):
        find(tmp_path / "no.jpg", tmp_path / "neither.jpg")


def test_a_photo_that_is_named_twice_is_taken_once_in_the_order_of_naming(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        write(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    found = find(Path("c.jpg"), tmp_path / "c.jpg", Path("./c.jpg"), tmp_path)
    assert found_names(found) == ["c.jpg", "a.jpg", "b.jpg"]


def test_the_root_is_the_deepest_folder_that_holds_all(tmp_path: Path) -> None:
    one, two = write(tmp_path / "a/b/1.jpg"), write(tmp_path / "a/c/2.jpg")
    assert find(one).root == tmp_path / "a/b"
    assert find(one.parent).root == tmp_path / "a/b"
    assert find(one.parent, two).root == tmp_path / "a"
    assert find(one, tmp_path / "other/no.jpg").root == tmp_path
    assert find(one, tmp_path).root == tmp_path
    assert common_root([tmp_path / "a", tmp_path / "ab"]) == tmp_path


def test_the_output_folder_is_never_looked_into(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(tmp_path / "a.jpg")
    write(out / "b.jpg")
    write(out / "sub/c.jpg")
    assert found_names(find(tmp_path, out_dir=out, recursive=True)) == ["a.jpg"]
    found = find(tmp_path / "a.jpg", out / "b.jpg", out / "sub", out_dir=out)
    assert (found_names(found), found.own) == (["a.jpg"], 2)


def test_the_output_folder_as_input_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "out/a.jpg")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PhotoError, match="is the output folder"):
        find(Path("out"), out_dir=tmp_path / "out")
    with pytest.raises(PhotoError, match="is the output folder"):
        find(tmp_path / "out", out_dir=Path("out"))


def test_photos_inside_the_output_folder_are_not_said_to_be_advimg_s(tmp_path: Path) -> None:
    write(tmp_path / "photos/a.jpg")
    with pytest.raises(PhotoError, match="output folder"):
        find(tmp_path / "photos", out_dir=tmp_path)


def test_what_advimg_wrote_is_never_taken(tmp_path: Path) -> None:
    write_adversarial(tmp_path / "dog_pelican.png")
    for name in ("perturbation", "figure", "x10", "x2.5", "x1e-05"):  # the last three are of 0.1
        write(tmp_path / f"dog_pelican_{name}.png")
    (tmp_path / "renamed.png").write_bytes(
        encode_png(random_photo(3, 3).levels, chunk=Shown("auto", 42).to_chunk(), key=PERTURBATION_KEY)
    )
    mine = [write(tmp_path / name) for name in ("cat_figure.png", "cat_x10.png", "dog.png", "dog_pelican_x10.jpg")]
    mine.append(write(tmp_path / "cat_perturbation.png"))
    found = find(tmp_path)
    assert set(found.photos) == set(mine)
    assert found.own == 7
    assert find(tmp_path / "dog_pelican.png", mine[0]).photos == (mine[0],)


def test_a_folder_of_advimg_s_own_files_says_so(tmp_path: Path) -> None:
    write_adversarial(tmp_path / "dog_pelican.png")
    with pytest.raises(PhotoError, match="only files that advimg wrote"):
        find(tmp_path)


def test_nothing_found_hints_at_recursive(tmp_path: Path) -> None:
    write(tmp_path / "sub/a.jpg")
    with pytest.raises(PhotoError, match=r"no photos .*--recursive"):
        find(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PhotoError, match="no photos") as caught:
        find(tmp_path / "empty", recursive=True)
    assert "--recursive" not in str(caught.value)
    with pytest.raises(PhotoError, match="the 2 paths given"):
        find(tmp_path / "empty", tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_keep_their_own_name_and_place(tmp_path: Path) -> None:
    write(tmp_path / "store/1.jpg")
    (tmp_path / "photos").mkdir()
    link = tmp_path / "photos/dog.jpg"
    link.symlink_to(tmp_path / "store/1.jpg")
    assert find(tmp_path / "photos").photos == (link,)
    (tmp_path / "out").symlink_to(tmp_path / "photos")
    with pytest.raises(PhotoError, match="output folder"):
        find(tmp_path / "photos", out_dir=tmp_path / "out")
    assert is_output(link, tmp_path / "out")
    assert not is_output(link, tmp_path / "store")


def test_lists_are_paths_one_a_line() -> None:
    lines = [b"a b.jpg\n", b"\n", b"  \n", b"c.jpg\r\n", "é.jpg\n".encode(), b" d.jpg"]
    assert read_list(lines, name="x") == ["a b.jpg", "c.jpg", "é.jpg", " d.jpg"]
    with pytest.raises(UsageError, match="x names no photo"):
        read_list([b"\n", b" \n"], name="x")
