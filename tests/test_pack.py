"""Results packed into tar archives: what webdataset reads there, and what journal, resume and report make of it."""

import hashlib
import io
import json
import tarfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import webdataset
from PIL import Image

import advimg
from advimg.batches import packer as packing
from advimg.batches.executor import InProcess
from advimg.batches.journal import Journal, read_records
from advimg.batches.options import Options
from advimg.batches.packed import first_free, sha256_of_results, tar_name, tar_of, unpacked
from advimg.batches.packer import Packer, Written
from advimg.batches.plan import Files, Item, Key, each_target, plan_items
from advimg.batches.run import Batch
from advimg.batches.stats import BatchStats
from advimg.classifiers.classifier import Classifier
from advimg.errors import DiskError, OutputError, UsageError
from advimg.outcome import Outcome
from advimg.outputs import plan_outputs
from advimg.report.gallery import write_gallery
from advimg.report.quiz import write_quiz
from advimg.settings import Settings
from advimg.storage import places, tars
from advimg.storage.url import Place, Url
from advimg.writing import encode_outputs
from tests import referee
from tests.batches import COMMAND, EPS, assert_one_line, no_attack, pictures, records_of, save_photo, save_photos
from tests.conftest import Cli, encoded, random_photo, sample

PACKED = (*COMMAND, "--pack", "3")


def archives(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.tar"))


def samples(folder: Path, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Return what webdataset reads, with the pixels of pictures and the JSON decoded."""
    paths = [str(folder / name) for name in names or archives(folder)]
    return list(webdataset.WebDataset(paths, shardshuffle=False, empty_check=False).decode("rgb8"))


def pixels(data: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def member(record: Mapping[str, Any], kind: str = "adversarial") -> bytes:
    """Return the bytes of a member that a record names, as tarfile reads it."""
    before, _, name = record["outputs"][kind].partition(".tar/")
    with tarfile.open(f"{before}.tar") as tar:
        file = tar.extractfile(name)
        assert file is not None
        return file.read()


def assert_packed(folder: Path, classifier: Classifier, *, archived: int | None = None) -> None:
    """Check a folder of packed results: its archives hold what its journal names, and each file keeps the promise."""
    records = records_of(folder)
    named: set[str] = set()
    for record in records:
        assert record["error"] is None
        for kind, path in record["outputs"].items():
            data = member(record, kind)
            assert hashlib.sha256(data).hexdigest() == record["outputs_sha256"][kind]
            named.add(path)
        assert record["adversarial_sha256"] == record["outputs_sha256"]["adversarial"]
        levels, original = pixels(member(record)), pixels(places.read_bytes(Path(record["source"])))
        assert np.abs(levels.astype(int) - original).max() <= EPS
        assert record["fooled"]
        assert classifier.judge(levels).top1 == record["target"]["index"]
    assert len(named) == len(records) * len(records[0]["outputs"])
    sums = {"results.jsonl", "results.csv", "summary.json"}
    assert {str(path.relative_to(folder)) for path in folder.rglob("*")} == {*archives(folder), *sums}
    if archived is not None:
        assert len(archives(folder)) == archived


def attack(
    photos: Sequence[Path],
    folder: Path,
    classifier: Classifier,
    *,
    pack: int | None = 100,
    stop: threading.Event | None = None,
    target: int = 1,
    eps: int = EPS,
    force: bool = False,
) -> BatchStats:
    with Journal.opened(folder) as journal:
        options = Options(settings=Settings(eps=eps), pack=pack, force=force)
        keys = each_target(photos, [target], eps)
        files = Files(folder=folder, root=photos[0].parent)
        batch = Batch(keys, files, InProcess([classifier]), journal, options)
        batch.run(stop=stop or threading.Event(), ended=lambda _: None)
        return batch.stats


def test_webdataset_reads_all_samples_whatever_the_photos_are_called(
    cli: Cli, tmp_path: Path, out: Path, quick: Classifier
) -> None:
    names = (
        "dog.jpg",
        "dog.png",
        "dog.v1.jpg",
        "dög 犬.png",
        "sub.v2/dog.jpg",
        "sub/deep/.dog.bmp",
        f"{'x' * 180}.png",
    )
    for number, name in enumerate(names):
        save_photo(tmp_path / "photos" / name, number)
    more = tmp_path / "photos" / "sub" / "deep" / ".dog.bmp"  # a hidden file, which is taken because it is named
    assert cli(*PACKED, "-r", more).code == 0
    assert archives(out) == ["results-00000.tar", "results-00001.tar", "results-00002.tar"]
    assert_packed(out, quick)
    read = samples(out)
    assert sorted(sample["__key__"] for sample in read) == sorted(
        (
            "dog_jpg_class_3",
            "dog_png_class_3",
            "dog_v1_class_3",
            "dög 犬_class_3",
            "sub.v2/dog_class_3",
            "sub/deep/_dog_class_3",
            f"{'x' * 180}_class_3",
        )
    )
    by_member = {record["outputs"]["adversarial"].partition(".tar/")[2]: record for record in records_of(out)}
    for each in read:
        assert {key for key in each if not key.startswith("__")} == {"png", "json", "perturbation.png"}
        record = by_member[f"{each['__key__']}.png"]
        assert np.array_equal(each["png"], pixels(member(record)))
        told = each["json"]
        assert told["source"] == Path(record["source"]).name
        assert (told["target"], told["after"]) == (record["target"], record["after"])
        assert told["outputs"]["perturbation"] == f"{each['__key__']}.perturbation.png"
        assert told["outputs_sha256"] == record["outputs_sha256"]
        assert str(tmp_path) not in json.dumps(told)


def test_a_packed_file_convinces_a_judge_who_was_not_asked_before(
    cli: Cli, tmp_path: Path, out: Path, lite0: Classifier, quick: Classifier
) -> None:
    (tmp_path / "photos").mkdir()
    with Image.open(sample("coffee.png")) as image:
        image.convert("RGB").resize((200, 150)).save(tmp_path / "photos" / "coffee.png")
    command = ("batch", "photos", "-t", "pelican", "-m", "efficientnet_lite0", "-e", "6", "-O", "out", "--pack", "2")
    assert cli(*command).code == 0
    (record,) = records_of(out)
    path = tmp_path / "alone.png"
    path.write_bytes(member(record))
    top1, confidence = referee.judge(path)
    assert (top1, record["target"]["name"]) == (record["target"]["index"], "pelican")
    assert confidence == pytest.approx(record["confidence"], abs=1e-3)
    assert referee.linf(path, Path(record["source"])) == record["linf"] <= 6
    packed = advimg.verify(record["outputs"]["adversarial"], record["source"], "pelican", eps=6, model=lite0)
    assert packed.holds


def test_the_same_attacks_give_the_same_archive(photos: list[Path], tmp_path: Path, quick: Classifier) -> None:
    attack(photos, tmp_path / "one", quick)
    attack(photos[::-1], tmp_path / "two", quick)
    one, two = ((tmp_path / name / "results-00000.tar").read_bytes() for name in ("one", "two"))
    assert one == two
    with tarfile.open(fileobj=io.BytesIO(one)) as tar:
        infos = tar.getmembers()
    assert len(infos) == 12
    assert {(i.mtime, i.uid, i.gid, i.uname, i.gname, i.mode, i.type) for i in infos} == {
        (0, 0, 0, "", "", 0o644, tarfile.REGTYPE)
    }


def test_the_files_are_those_that_are_not_packed(photos: list[Path], tmp_path: Path, quick: Classifier) -> None:
    attack(photos, tmp_path / "packed", quick)
    attack(photos, tmp_path / "plain", quick, pack=None)
    packed = dict(tars.contents((tmp_path / "packed" / "results-00000.tar").read_bytes()))
    plain = pictures(tmp_path / "plain")
    assert {name.replace("_perturbation", ".perturbation"): data for name, data in plain.items()} == {
        name: data for name, data in packed.items() if name.endswith(".png")
    }


def test_a_second_run_makes_no_attack_again(
    cli: Cli, photos: list[Path], out: Path, quick: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli(*PACKED).code == 0
    before = (out / "results.jsonl").read_bytes(), [(out / name).read_bytes() for name in archives(out)]
    monkeypatch.setattr("advimg.batches.pipeline.Engine", no_attack)
    for more in (("--pack", "3"), ("--pack", "1"), ()):  # how they are packed changes no result
        ran = cli(*COMMAND, *more)
        assert ran.code == 0, ran.err
        assert "4 of 4 were done by an earlier run" in ran.err
    assert ((out / "results.jsonl").read_bytes(), [(out / name).read_bytes() for name in archives(out)]) == before
    assert_packed(out, quick, archived=2)


def test_results_that_are_not_packed_stay_as_they_are(photos: list[Path], out: Path, quick: Classifier) -> None:
    attack(photos[:2], out, quick, pack=None)
    before = pictures(out)
    attack(photos, out, quick)
    assert pictures(out) == before
    assert {sample["__key__"] for sample in samples(out)} == {"p02_class_1", "p03_class_1"}
    attack(photos, out, quick, pack=None, eps=4, force=True)
    assert len(pictures(out)) == 8
    assert archives(out) == []


def test_a_photo_that_was_changed_has_a_new_member_and_no_archive_is_touched(
    photos: list[Path], out: Path, quick: Classifier
) -> None:
    attack(photos, out, quick)
    first = (out / "results-00000.tar").read_bytes()
    save_photo(photos[1], 17)
    attack(photos, out, quick)
    assert (out / "results-00000.tar").read_bytes() == first
    assert [sample["__key__"] for sample in samples(out, ["results-00001.tar"])] == ["p01_class_1"]
    assert_packed(out, quick, archived=2)


def test_an_archive_is_removed_once_the_journal_names_none_of_its_members(
    photos: list[Path], out: Path, quick: Classifier
) -> None:
    attack(photos, out, quick, pack=2)
    # Which two share an archive is a matter of threads.
    first = str(out / "results-00000.tar")
    one, other = (Path(each["source"]) for each in records_of(out) if each["outputs"]["adversarial"].startswith(first))
    save_photo(one, 17)
    attack(photos, out, quick)
    assert archives(out) == ["results-00000.tar", "results-00001.tar", "results-00002.tar"]
    save_photo(other, 18)
    attack(photos, out, quick)
    assert archives(out) == ["results-00001.tar", "results-00002.tar", "results-00003.tar"]
    assert_packed(out, quick)


def test_an_archive_that_someone_has_added_to_is_never_removed(
    photos: list[Path], out: Path, quick: Classifier
) -> None:
    attack(photos, out, quick)
    with tarfile.open(out / "results-00000.tar", "a") as tar:
        tar.addfile(tarfile.TarInfo("notes.txt"), io.BytesIO())
    assert sha256_of_results(out / "results-00000.tar") is None
    attack(photos, out, quick, eps=4, force=True)
    assert archives(out) == ["results-00000.tar", "results-00001.tar"]


@pytest.mark.parametrize("damage", ["cut", "another", "gone", "empty"])
def test_what_a_damaged_archive_held_is_made_again(
    photos: list[Path], out: Path, quick: Classifier, damage: str
) -> None:
    attack(photos, out, quick, pack=2)
    tar, rest = out / "results-00000.tar", (out / "results-00001.tar").read_bytes()
    data = tar.read_bytes()
    match damage:
        case "gone":
            tar.unlink()
        case "another":
            tar.write_bytes(data.replace(b"IDAT", b"IDAX"))
        case _:
            tar.write_bytes(data[: 700 if damage == "cut" else 0])
    stats = attack(photos, out, quick, pack=2)
    assert (stats.earlier, stats.verified) == (2, 4)
    assert (out / "results-00001.tar").read_bytes() == rest
    assert {Path(str(tar_of(Path(record["outputs"]["adversarial"])))).name for record in records_of(out)} == {
        "results-00001.tar",
        "results-00002.tar",
    }
    if damage == "gone":
        assert_packed(out, quick, archived=2)


def test_names_that_are_taken_are_passed_over(photos: list[Path], out: Path, quick: Classifier) -> None:
    out.mkdir()
    (out / "results-00007.tar").write_bytes(b"of someone else")
    attack(photos, out, quick, pack=2)
    assert archives(out) == ["results-00007.tar", "results-00008.tar", "results-00009.tar"]
    assert (out / "results-00007.tar").read_bytes() == b"of someone else"


def test_each_worker_counts_its_own_archives() -> None:
    names = ["results-00004.tar", "results-03-00001.tar", "results-03-x.tar", "results.csv", "results-00009.tar.part"]
    assert [first_free(names, tag) for tag in ("", "03", "04")] == [5, 2, 0]
    assert tar_name(100_000, "a1") == "results-a1-100000.tar"
    assert unpacked(Path("/out/results-a1-100000.tar/sub/dog_x.png")) == Path("/out/sub/dog_x.png")
    assert unpacked(Url("s3://b/out/results-00000.tar/dog_x.png")) == Url("s3://b/out/dog_x.png")
    assert unpacked(Path("/out/other.tar/dog_x.png")) == Path("/out/other.tar/dog_x.png")


def test_an_attack_that_is_packed_anew_gets_a_name_without_dots() -> None:
    folder, labels = Path("/out"), advimg.labels.Labels(["a b", "c"])
    keys = [Key(Path(f"/photos/{name}"), 0, 0.5) for name in ("x.y.jpg", "z.jpg", "x_y.jpg")]
    recorded: dict[Key, Place] = {keys[0]: folder / "x.y_a_b.png", keys[1]: folder / "old_name.png"}
    items = plan_items(keys, Files(folder=folder, root=Path("/photos")), labels, recorded=recorded, packed=True)
    names = [item.outputs.adversarial.name for item in items]
    assert names == ["x_y_jpg_a_b_eps0_5_2.png", "old_name.png", "x_y_jpg_a_b_eps0_5_3.png"]


class Recorder:
    """Stands for a journal."""

    def __init__(self) -> None:
        self.begun: list[Mapping[Place, str]] = []
        self.written: list[Written] = []

    def begin(self, hashes: Mapping[Place, str]) -> set[Place]:
        self.begun.append(hashes)
        return set()

    def append(self, *written: Written) -> None:
        self.written += written


def packer_for(folder: Place, recorder: Recorder, count: int = 100, **options: Any) -> Packer:
    known = {"memory": 1 << 30} | options
    return Packer(folder, count, begin=recorder.begin, recorded=recorder.append, **known)


@pytest.fixture
def outcome(quick: Classifier) -> Outcome:
    return advimg.attack(random_photo(24, 16), 3, model=quick, eps=EPS)


def put(packer: Packer, outcome: Outcome, place: Place) -> None:
    outputs = plan_outputs(place, figure=False)
    files = encode_outputs(outcome, outputs, amplify="auto", metadata=True)
    packer.put(outcome, Item(Key(place, 3, EPS), outputs), files)


def test_archives_in_a_store_are_read_from_there(outcome: Outcome, memory: Url) -> None:
    recorder = Recorder()
    packer = packer_for(memory, recorder, 2, tag="03")
    for name in ("a", "sub/é", "c"):
        put(packer, outcome, memory / f"{name}_x.png")
    assert [len(each) for each in recorder.begun] == [1]
    packer.flush()
    packer.flush()
    named = [record["outputs"]["adversarial"] for record, _, _ in recorder.written]
    assert named == [f"{memory}/results-03-{name}_x.png" for name in ("00000.tar/a", "00000.tar/sub/é", "00001.tar/c")]
    for record, hashes, _ in recorder.written:
        for kind, place in record["outputs"].items():
            assert hashlib.sha256(places.read_bytes(Url(place))).hexdigest() == hashes[kind]
        assert outcome.holds(places.read_bytes(Url(record["outputs"]["adversarial"])))
    for begun in recorder.begun:
        ((tar, sha256),) = begun.items()
        assert places.sha256(tar) == sha256 == sha256_of_results(tar)


@pytest.mark.parametrize("folder", ["disk", "store"])
def test_two_packers_of_one_folder_do_not_meet(
    outcome: Outcome, memory: Url, out: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out.mkdir()
    place: Place = out if folder == "disk" else memory
    recorder = Recorder()
    one, two = packer_for(place, recorder), packer_for(place, recorder)
    looks: list[Place] = []

    def not_yet(where: Place) -> bool:
        """Tell what was true before the other has written."""
        looks.append(where)
        return len(looks) != 3 and places.exists(where)

    monkeypatch.setattr(packing, "exists", not_yet)
    for packer, name in ((one, "a"), (two, "b"), (one, "c")):
        put(packer, outcome, place / f"{name}_x.png")
        packer.flush()
    assert [record["outputs"]["adversarial"].removeprefix(f"{place}/") for record, _, _ in recorder.written] == [
        "results-00000.tar/a_x.png",
        "results-00001.tar/b_x.png",
        "results-00002.tar/c_x.png",
    ]


def test_an_archive_that_takes_the_place_of_another_is_listed_anew(outcome: Outcome, memory: Url) -> None:
    for name in ("a", "b"):
        packer = packer_for(memory, Recorder())
        put(packer, outcome, memory / f"{name}_x.png")
        packer.flush()
        tar = memory / "results-00000.tar"
        assert places.exists(tar / f"{name}_x.png")
        places.remove(tar)
        assert not places.exists(tar / f"{name}_x.png")


def test_names_that_webdataset_would_take_for_one_share_no_archive(outcome: Outcome, out: Path) -> None:
    out.mkdir()
    recorder = Recorder()
    packer = packer_for(out, recorder)
    for name in ("a_x", "A_x", "b_x"):
        put(packer, outcome, out / f"{name}.png")
    packer.flush()
    assert [sorted(sample["__key__"] for sample in samples(out, [name])) for name in archives(out)] == [
        ["a_x"],
        ["A_x", "b_x"],
    ]


def test_an_archive_appears_only_if_it_reads_back_with_the_pixels_that_were_judged(
    outcome: Outcome, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out.mkdir()
    answers: dict[str, bool] = {}

    def write(where: Place, data: bytes, *, check: Any, **options: Any) -> None:
        files = list(tars.contents(data))
        (name, png), *rest = files
        other = encoded(Image.new("RGB", outcome.photo.size), "PNG")
        answers["as it is"] = check(data)
        answers["cut off"] = check(data[:-12_000])
        answers["empty"] = check(b"")
        answers["no tar"] = check(b"x" * 20_000)
        answers["another byte"] = check(data.replace(b"IDAT", b"IDAX"))
        answers["one less"] = check(tars.built(files[:-1]))
        answers["one more"] = check(tars.built([*files, ("more.txt", b"")]))
        answers["renamed"] = check(tars.built([("b.png", png), *rest]))
        answers["another picture"] = check(tars.built([(name, other), *rest]))
        answers["another order"] = check(tars.built(files[::-1]))

    monkeypatch.setattr(packing, "write_whole", write)
    packer = packer_for(out, Recorder())
    put(packer, outcome, out / "a_x.png")
    outcome.levels = 255 - outcome.levels  # as if another picture had been judged than was encoded
    packer.flush()
    assert {name for name, right in answers.items() if right} == {"as it is"}
    files = encode_outputs(outcome, plan_outputs(out / "b.png", figure=False), amplify="auto", metadata=True)
    outcome.levels = 255 - outcome.levels
    packer.put(outcome, Item(Key(out, 3, EPS), plan_outputs(out / "b.png", figure=False)), files)
    packer.flush()
    assert not any(answers.values())


def test_a_file_that_does_not_read_back_ends_the_run_and_nothing_is_recorded(
    outcome: Outcome, out: Path, memory: Url, monkeypatch: pytest.MonkeyPatch
) -> None:
    out.mkdir()
    monkeypatch.setattr(packing, "_are_right", lambda *_: False)
    for folder in (out, memory):
        recorder = Recorder()
        packer = packer_for(folder, recorder)
        put(packer, outcome, folder / "a_x.png")
        with pytest.raises(DiskError, match=r"results-00000\.tar did not read back as it was written"):
            packer.flush()
        assert recorder.written == []
        assert places.names_in(folder) == []
        put(packer, outcome, folder / "b_x.png")  # without waiting for room that nobody gives back
        packer.flush()
        assert recorder.written == []


@pytest.mark.parametrize("error", [DiskError("no space left"), OutputError("no space left"), MemoryError()])
def test_a_disk_that_is_full_is_one_line_and_the_next_run_goes_on(
    cli: Cli, photos: list[Path], out: Path, quick: Classifier, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(where: Place, *arguments: Any, **options: Any) -> None:
        if where.name == "results-00001.tar":
            raise error
        places.write_whole(where, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(packing, "write_whole", refuse)
        ran = cli(*COMMAND, "--pack", "2", "-q")
    reason = "memory is too short for 2 packed attacks" if isinstance(error, MemoryError) else "no space left"
    assert_one_line(ran, 1, reason, "2 of 4 are done")
    assert len(records_of(out)) == 2
    assert_packed(out, quick, archived=1)
    assert "2 of 4 were done by an earlier run" in cli(*COMMAND, "--pack", "2").err
    assert_packed(out, quick, archived=2)


def test_an_archive_whose_record_did_not_fit_is_removed(
    photos: list[Path], out: Path, quick: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Journal, *records: Mapping[str, Any]) -> None:
        assert (out / "results-00000.tar").exists()
        raise DiskError("full")

    monkeypatch.setattr(Journal, "append", refuse)
    with pytest.raises(DiskError, match="full"):
        attack(photos, out, quick)
    assert archives(out) == []


def test_a_run_that_is_stopped_packs_what_is_complete(
    tmp_path: Path, out: Path, quick: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = save_photos(tmp_path / "photos", 40)
    stop, packed = threading.Event(), threading.Semaphore(5)
    original = Packer.put

    def counted(self: Packer, *arguments: Any) -> None:
        original(self, *arguments)
        if not packed.acquire(blocking=False):
            stop.set()

    monkeypatch.setattr(Packer, "put", counted)
    stats = attack(photos, out, quick, stop=stop)
    assert 6 <= stats.verified < 40
    assert len(records_of(out)) == stats.verified
    assert_packed(out, quick, archived=1)
    monkeypatch.undo()
    assert attack(photos, out, quick).earlier == stats.verified
    assert_packed(out, quick, archived=2)
    assert len(records_of(out)) == 40


def test_where_memory_is_short_archives_are_small_and_nobody_waits_for_ever(
    tmp_path: Path, out: Path, quick: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advimg.batches.pipeline.machine_memory", lambda: 16 * 4 * 8_000)
    attack(save_photos(tmp_path / "photos", 20), out, quick, pack=1000)
    assert_packed(out, quick)
    # A sample takes about 4,000 bytes, and an archive ends with the one that makes it 8,000.
    assert 5 <= len(archives(out)) <= 10


def test_a_report_a_quiz_and_the_table_show_packed_results(photos: list[Path], out: Path, quick: Classifier) -> None:
    attack(photos, out, quick)
    records = read_records(out)
    gallery = write_gallery(records, out, force=False)
    assert gallery.verified == 4
    text = (out / "report" / "index.html").read_text(encoding="utf-8")
    for photo in photos:
        link = f'<a href="../results-00000.tar" aria-label="results-00000.tar of {photo.name}">results-00000.tar</a>'
        assert f"{link}<span>{photo.stem}_class_1.png</span>" in text
    assert "no longer where" not in text
    assert len(list((out / "report" / "thumbnails").iterdir())) == 12
    write_quiz(records, out, force=False)
    assert len(list((out / "report" / "quiz").iterdir())) == 8
    rows = (out / "results.csv").read_text(encoding="utf-8").splitlines()
    assert [row.split(",")[1] for row in rows[1:]] == [f"results-00000.tar/p0{n}_class_1.png" for n in range(4)]


def test_packed_results_are_no_photos(cli: Cli, photos: list[Path], out: Path, quick: Classifier) -> None:
    assert cli(*PACKED, "--figure").code == 0
    kinds = {"png", "json", "perturbation.png", "figure.png"}
    assert all(kinds < set(sample) for sample in samples(out))
    ran = cli("batch", "out/results-00000.tar", "-t", "3", "-O", "again")
    assert_one_line(ran, 1, "only files that advimg wrote")


@pytest.mark.parametrize("count", ["0", "-1", "x"])
def test_a_number_that_makes_no_sense_is_one_usage_line(
    cli: Cli, photos: list[Path], quick: Classifier, count: str
) -> None:
    assert_one_line(cli(*COMMAND, "--pack", count), 2, "--pack")


def test_python_packs_and_refuses_as_well(photos: list[Path], out: Path, quick: Classifier) -> None:
    with pytest.raises(UsageError, match="pack 0: give a whole number from 1"):
        advimg.batch(photos, 3, out_dir=out, model=quick, pack=0)
    assert not out.exists()
    assert advimg.batch(photos, 3, out_dir=out, model=quick, pack=2).verified == 4
    assert_packed(out, quick, archived=2)


def tar_of_photos(path: Path, *names: str) -> Path:
    """Write an archive as webdataset has it: photos with their class and some JSON beside them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files: list[tuple[str, bytes]] = []
    for number, name in enumerate(names):
        photo = Image.fromarray(random_photo(24, 16, number).levels)
        files += [(f"{name}.cls", b"1"), (f"{name}.jpg", encoded(photo, "JPEG")), (f"{name}.json", b"{}")]
    path.write_bytes(tars.built(files))
    return path


def test_photos_in_archives_are_attacked_and_known_again(
    cli: Cli, tmp_path: Path, out: Path, quick: Classifier
) -> None:
    tar_of_photos(tmp_path / "photos" / "train-0.tar", "000/a", "000/b")
    tar_of_photos(tmp_path / "photos" / "train-1.tar", "000/a")
    save_photo(tmp_path / "photos" / "a.jpg", 9)
    assert cli(*COMMAND, "-r", "--no-perturbation").code == 0
    assert set(pictures(out)) == {
        "a_class_3.png",
        "train-0/000/a_class_3.png",
        "train-0/000/b_class_3.png",
        "train-1/000/a_class_3.png",
    }
    # What was 000/a is 000/c now, and 000/a is another picture.
    tar_of_photos(tmp_path / "photos" / "train-1.tar", "000/c", "000/a")
    ran = cli(*PACKED, "-r", "--no-perturbation")
    assert (ran.code, "4 of 5 were done by an earlier run" in ran.err) == (0, True)
    assert [sample["__key__"] for sample in samples(out)] == ["train-1/000/a_jpg_class_3"]
    records = records_of(out)
    assert len(records) == 5
    for record in records:
        assert record["source_sha256"] == places.sha256(Path(record["source"]))


def test_one_archive_of_photos_is_the_folder_of_all(cli: Cli, tmp_path: Path, out: Path, quick: Classifier) -> None:
    tar_of_photos(tmp_path / "photos.tar", "a", "sub/b")
    assert cli("batch", "photos.tar", "-t", "3", "-O", "out", "--pack", "9").code == 0
    assert {sample["__key__"] for sample in samples(out)} == {"a_class_3", "sub/b_class_3"}
    assert {record["source"] for record in records_of(out)} == {
        str(tmp_path / "photos.tar" / name) for name in ("a.jpg", "sub/b.jpg")
    }


def test_a_photo_in_an_archive_that_cannot_be_read_fails_alone(
    cli: Cli, tmp_path: Path, out: Path, quick: Classifier
) -> None:
    good = encoded(Image.fromarray(random_photo(24, 16).levels), "PNG")
    (tmp_path / "photos.tar").write_bytes(tars.built([("a.png", good), ("b.png", good[:99]), ("c.cls", b"2")]))
    command = ("batch", "photos.tar", "-t", "3", "-O", "out", "--pack", "9")
    ran = cli(*command)
    assert ran.code == 1
    assert {Path(record["source"]).name: bool(record["error"]) for record in records_of(out)} == {
        "a.png": False,
        "b.png": True,
    }
    assert "2 of 2 were done by an earlier run" in cli(*command).err


def test_photos_in_an_archive_of_a_store_are_found_and_read(memory: Url, out: Path, tmp_path: Path) -> None:
    data = tar_of_photos(tmp_path / "train.tar", "a", "sub/b").read_bytes()
    for name in ("train-0.tar", "train-1.tar"):
        places.write_whole(memory / name, data, overwrite=False)
    found = advimg.batches.photos.find_photos([memory], out_dir=out, recursive=True)
    assert [str(photo.relative_to(memory)) for photo in found.photos] == [  # type: ignore[arg-type] # all are URLs
        f"train-{number}.tar/{name}.jpg" for number in range(2) for name in ("a", "sub/b")
    ]
    assert found.root == memory
    files = Files(folder=out, root=found.root)
    assert [files.folder_for(photo) for photo in found.photos] == [
        out / name for name in ("train-0", "train-0/sub", "train-1", "train-1/sub")
    ]
    assert np.array_equal(advimg.api.open_photo(found.photos[1]).levels, pixels(dict(tars.contents(data))["sub/b.jpg"]))
