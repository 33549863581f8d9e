"""``--shard``: which photo belongs to which, and batches that make a share."""

import json
import os
import threading
import unicodedata
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import advimg
from advimg.batches.journal import store_of
from advimg.batches.plan import Key
from advimg.batches.shards import (
    Attack,
    Shard,
    Share,
    WrittenShare,
    absent,
    name_of,
    read_share,
    shard_number,
    shards_in,
)
from advimg.classifiers.classifier import Classifier
from advimg.errors import OutputError, UsageError
from tests.batches import assert_kept, assert_one_line, contents, no_attack, records_of, save_photo, write
from tests.conftest import Cli

pytestmark = pytest.mark.usefixtures("quick")

names = st.lists(st.text(st.characters(codec=None, exclude_characters="\0/"), min_size=1), min_size=1, max_size=3).map(
    lambda parts: str(PurePosixPath(*parts))
)


@given(st.lists(names, max_size=20, unique=True), st.integers(1, 20))
def test_every_photo_is_in_exactly_one_shard_with_all_its_targets(photos: list[str], count: int) -> None:
    root = Path("/photos").absolute()
    keys = [Key(root / name, target, 10) for name in photos for target in (3, "random")]
    shares = [Share.of(Shard(count, number), keys, root=root) for number in range(1, count + 1)]
    assert sorted(map(str, (key for share in shares for key in share.keys))) == sorted(map(str, keys))
    assert sum(share.photos for share in shares) == len({key.source for key in keys})
    assert {share.planned for share in shares} == {len(keys)}
    assert len({share.plan_sha256 for share in shares}) == 1


@given(st.lists(names, min_size=1, max_size=20, unique=True), names, st.integers(1, 20))
def test_a_new_photo_moves_no_other(photos: list[str], new: str, count: int) -> None:
    root = Path("/photos").absolute()
    before = {name: shard_number(name_of(root / name, root), count) for name in photos}
    assert {
        name: shard_number(name_of(root / name, root), count) for name in [new, *photos] if name in before
    } == before


# As sha256sum and bc have it, not this code.
@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("dog.jpg", {2: 2, 7: 1, 16: 6}),
        ("holiday/cat 1.png", {2: 1, 7: 5, 16: 3}),
        ("fotos/café.jpg", {2: 2, 7: 3, 16: 4}),
    ],
)
def test_shares_are_the_same_everywhere(name: str, numbers: dict[int, int]) -> None:
    assert {count: shard_number(name, count) for count in numbers} == numbers
    assert {count: shard_number(unicodedata.normalize("NFD", name), count) for count in numbers} == numbers


def test_a_photo_is_named_from_the_root_and_elsewhere_as_it_is(tmp_path: Path) -> None:
    assert name_of(tmp_path / "sub" / "dog.jpg", tmp_path) == "sub/dog.jpg"
    assert name_of(tmp_path / "dog.jpg", tmp_path / "sub") == (tmp_path / "dog.jpg").as_posix()


@pytest.mark.parametrize(("text", "name"), [("3/16", "shard-03-of-16"), (" 1/1 ", "shard-1-of-1")])
def test_a_shard_and_its_folder_name_each_other(text: str, name: str) -> None:
    shard = Shard.parse(text)
    assert (str(shard), shard.folder_name, Shard.of_folder(name)) == (text.strip(), name, shard)


@pytest.mark.parametrize("name", ["shard-3-of-16", "shard-17-of-16", "shard-0-of-4", "shard-1-of-2x", "shard-١-of-٢"])
def test_other_folders_are_of_no_shard(name: str) -> None:
    assert Shard.of_folder(name) is None


@pytest.mark.parametrize("text", ["0/4", "5/4", "x", "", "1", "-1/4", "1/0", "1/4/2", "1.5/4", "١/٢", "1/9999999999"])
def test_bad_shards_are_one_line(cli: Cli, photos: list[Path], text: str) -> None:
    assert_one_line(cli("batch", "photos", "-t", "3", "-O", "out", "--shard", text), 2, "give K/N with K from 1 to N")
    assert not Path("out").exists()


def test_bad_shards_are_an_error_in_python(photos: list[Path], quick: Classifier) -> None:
    with pytest.raises(UsageError, match="give K/N"):
        advimg.batch(photos, 3, out_dir="out", model=quick, shard="5/4")


def test_absent_shards_are_of_the_count_that_most_are_of() -> None:
    assert absent([]) == []
    assert absent([Shard(3, 1), Shard(3, 3), Shard(2, 1)]) == [Shard(3, 2)]
    assert absent([Shard(3, 1), Shard(2, 1), Shard(2, 2)]) == []
    assert absent([Shard(2, 1), Shard(3, 1)]) == absent([Shard(3, 1), Shard(2, 1)]) == [Shard(3, 2), Shard(3, 3)]


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Write four photos, of which each of two shards has two, and the third of four none."""
    return [save_photo(tmp_path / "photos" / f"{name}.jpg", seed) for seed, name in enumerate("bdfh")]


def shard_of(photo: Path, count: int) -> Shard:
    return Shard(count, shard_number(photo.name, count))


def test_shards_attack_every_photo_once_and_say_what_is_theirs(
    cli: Cli, photos: list[Path], out: Path, quick: Classifier
) -> None:
    for number in (1, 2):
        ran = cli("batch", "photos", "-t", "3", "-t", "1", "-O", "out", "--shard", f"{number}/2")
        assert (ran.code, ran.out) == (0, "")
        folder = out / f"shard-{number}-of-2"
        own = [photo for photo in photos if shard_of(photo, 2).number == number]
        assert f"shard {number}/2: {2 * len(own)} of 8 attacks" in ran.err
        share = read_share(folder)
        assert share is not None
        assert (share.advimg, share.shard, share.planned) == (advimg.__version__, f"{number}/2", 8)
        assert (share.eps, share.attacks) == ([10], 2 * len(own))
        assert list(share.attacks_from(folder)) == [Attack(str(photo), t, 10) for photo in own for t in (3, 1)]
        assert {Path(record["source"]) for record in records_of(folder)} == set(own)
        (folder / "shard.json").rename(out / f"{number}.json")
        assert_kept(folder, quick)
    first, second = (json.loads((out / f"{number}.json").read_text()) for number in (1, 2))
    assert first["plan_sha256"] == second["plan_sha256"]
    assert sorted(path.name for path in out.iterdir()) == ["1.json", "2.json", "shard-1-of-2", "shard-2-of-2"]


def test_a_shard_goes_on_and_takes_only_new_photos_of_its_own(
    cli: Cli, photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("batch", "photos", "-t", "3", "-O", "out", "--shard")
    assert cli(*command, "2/2").code == 0
    before = contents(out)
    added = [save_photo(photos[0].with_name(f"new{number}.png"), 20 + number) for number in range(6)]
    own = {photo for photo in added if shard_of(photo, 2).number == 2}
    assert 0 < len(own) < 6
    assert cli(*command, "2/2").code == 0
    journal = before["shard-2-of-2/results.jsonl"]
    assert contents(out)["shard-2-of-2/results.jsonl"].startswith(journal)
    earlier = journal.count(b"\n")
    assert {Path(each["source"]) for each in records_of(out / "shard-2-of-2")[earlier:]} == own
    monkeypatch.setattr("advimg.batches.pipeline.Engine", no_attack)
    ran = cli(*command, "2/2")
    assert (ran.code, f"{earlier + len(own)} of {earlier + len(own)} were done" in ran.err) == (0, True)


def test_an_empty_share_is_no_error_and_is_known(cli: Cli, photos: list[Path], out: Path) -> None:
    (number,) = {1, 2} - {shard_of(photos[0], 2).number}
    ran = cli("batch", photos[0], "-t", "3", "-O", "out", "--shard", f"{number}/2")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err == f"shard {number}/2 has none of the 1 attacks: there is nothing to do\n"
    assert list(contents(out)) == [f"shard-{number}-of-2/shard.json"]
    share = read_share(out / f"shard-{number}-of-2")
    assert share is not None
    assert (share.attacks, share.photos) == (0, {})
    with store_of(out / f"shard-{number}-of-2").locked():
        assert_one_line(cli("batch", photos[0], "-t", "3", "-O", "out", "--shard", f"{number}/2"), 1, "another advimg")


def test_one_of_one_has_all_and_the_environment_names_a_shard_too(
    cli: Cli, photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVIMG_SHARD", "1/1")
    assert cli("batch", "photos", "-t", "3", "-O", "out").code == 0
    assert len(records_of(out / "shard-1-of-1")) == 4
    monkeypatch.setenv("ADVIMG_SHARD", "4/3")
    assert_one_line(cli("batch", "photos", "-t", "3", "-O", "out"), 2, "4/3")


def test_a_table_is_shared_by_photo_and_labels_are_of_the_whole(
    cli: Cli, photos: list[Path], out: Path, tmp_path: Path
) -> None:
    own = photos[0]
    rows = [f"photos/{photo.name},{target},{eps}" for photo in photos for target, eps in ((3, ""), (1, 12))]
    (tmp_path / "pairs.csv").write_text("\n".join(["path,target,eps", *rows]) + "\n")
    (tmp_path / "labels.csv").write_text(f"photo,label\nphotos/{own.name},2\n")
    for number in (1, 2):
        shard = ("--shard", f"{number}/2", "--true-labels", "labels.csv")
        assert cli("batch", "--targets", "pairs.csv", "-O", "out", *shard).code == 0
    records = {number: records_of(out / f"shard-{number}-of-2") for number in (1, 2)}
    for number, there in records.items():
        found = {(Path(each["source"]), each["target"]["index"], each["eps"]) for each in there}
        shared = [photo for photo in photos if shard_of(photo, 2).number == number]
        assert found == {(photo, target, eps) for photo in shared for target, eps in ((3, 10), (1, 12))}
    (share,) = [read_share(out / f"shard-{number}-of-2") for number in (1,)]
    assert share is not None
    assert share.eps == [10, 12]


def test_two_shards_run_at_once(photos: list[Path], out: Path, tmp_path: Path) -> None:
    from tests.batches import quick_classifier

    ended: dict[int, int] = {}

    def run(number: int) -> None:
        stats = advimg.batch(photos, 3, out_dir=out, model=quick_classifier(), shard=f"{number}/2")
        ended[number] = stats.verified

    threads = [threading.Thread(target=run, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(ended.values()) == 4
    assert [len(records_of(Path(str(path)))) for path in shards_in(out)] == [ended[1], ended[2]]


def test_a_shard_that_is_stopped_keeps_what_it_has_and_goes_on(
    photos: list[Path], out: Path, quick: Classifier
) -> None:
    stop = threading.Event()
    options: dict[str, Any] = {"out_dir": out, "model": quick, "shard": "1/1", "batch_size": 1}
    stats = advimg.batch(photos, 3, stop=stop, ended=lambda _: stop.set(), **options)
    assert 0 < stats.done < 4
    assert len(records_of(out / "shard-1-of-1")) == stats.done
    assert (out / "shard-1-of-1" / "shard.json").exists()
    again = advimg.batch(photos, 3, **options)
    assert (again.earlier, again.verified) == (stats.done, 4)


def test_a_folder_of_other_settings_keeps_what_it_says(cli: Cli, photos: list[Path], out: Path) -> None:
    command = ("batch", "photos", "-t", "3", "-O", "out", "--shard", "1/1")
    assert cli(*command).code == 0
    before = contents(out)
    assert_one_line(cli(*command, "--seed", "5"), 1, "begun with other settings")
    assert contents(out) == before


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"shard": "1/2"}', '{"shard": 1}', "\xff", '{"attacks": NaN}', "[" * 100_000]
)
def test_what_is_no_share_is_one_line(tmp_path: Path, text: str) -> None:
    write(tmp_path / "shard.json", text.encode("latin1"))
    with pytest.raises(OutputError, match="is not what advimg batch --shard writes"):
        read_share(tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
def test_names_that_are_no_unicode_are_written_and_read(tmp_path: Path) -> None:
    photo = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    share = Share.of(Shard(1, 1), [Key(photo, 3, "auto")], root=tmp_path)
    share.write_empty(tmp_path / "out")
    read = read_share(tmp_path / "out")
    assert isinstance(read, WrittenShare)
    assert list(read.attacks_from(tmp_path / "out")) == [Attack(str(photo), 3, "auto")]
