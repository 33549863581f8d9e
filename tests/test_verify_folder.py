"""``advimg verify DIR``: a folder of results against its journal, with files and records that someone has altered."""

import json
import re
import shutil
import signal
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import advimg
from advimg.batches.claims import FileVerification
from advimg.batches.verify_folder import journals_in
from advimg.classifiers.classifier import Classifier
from advimg.classifiers.spec import ModelSpec
from advimg.errors import OutputError
from advimg.storage.places import write_whole
from advimg.storage.url import Url
from advimg.verification import Verification, check_promise
from tests import referee
from tests.batches import COMMAND, assert_one_line, quick_classifier, records_of, save_photo, save_photos
from tests.conftest import Cli, encoded, sample

Edit = Callable[..., None]
FORMATS = "JPEG, PNG, WebP, BMP, TIFF, GIF"


@pytest.fixture
def results(photos: list[Path], out: Path) -> Path:
    """Return a folder with four files that show class 3 to a linear network."""
    advimg.batch(photos, 3, out_dir=out, model=quick_classifier(), device="cpu")
    return out


@pytest.fixture
def edit(results: Path) -> Edit:
    """Change the journal's record of the first file."""

    def change(**values: Any) -> None:
        path = results / "results.jsonl"
        records = [json.loads(line) for line in path.read_bytes().splitlines()]
        for record in records:
            if record["source"].endswith("p00.jpg"):
                record |= values
        path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="ascii")

    return change


def check(folder: Path, **options: Any) -> dict[str, FileVerification]:
    """Check a folder of files for the linear network; return what is found of each photo."""
    found = advimg.verify_folder(folder, model=options.pop("model", quick_classifier()), **options)
    return {Path(each.photo).name: each for each in found.files}


def the_first(folder: Path, **options: Any) -> FileVerification:
    """Return what is found of the first file; the others have to hold."""
    found = check(folder, **options)
    first = found.pop("p00.jpg")
    assert {each.status for each in found.values()} == {"holds"}
    return first


def test_a_folder_that_holds(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("chelsea.png", "coffee.png"):
        with Image.open(sample(name)) as image:
            image.convert("RGB").resize((225, 150)).save(tmp_path / "photos" / name)
    quickly = ("--confidence", "0.3", "--refine", "0")
    assert cli("batch", "photos", "-t", "pelican", "-m", "efficientnet_lite0", "-O", "out", *quickly).code == 0
    ran = cli("verify", "out")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.splitlines() == [
        "out, checked against its journal",
        "                         files    hold  do not hold  cannot be checked",
        "  efficientnet_lite0         2       2            0                  0",
        "the promise holds for all 2 files",
    ]
    assert cli("verify", "out/results.jsonl", "-q") == replace(ran, err="")
    files = [Path(record["outputs"]["adversarial"]) for record in records_of(tmp_path / "out")]
    assert [referee.judge(file)[0] for file in files] == [144, 144]

    shutil.copy(tmp_path / "photos" / "coffee.png", tmp_path / "out" / "coffee_pelican.png")
    top1, _ = referee.judge(tmp_path / "out" / "coffee_pelican.png")
    ran = cli("verify", "out")
    assert ran.code == 3
    _, _, counts, line, last = ran.err.splitlines()
    assert counts.split() == ["efficientnet_lite0", "2", "1", "1", "0"]
    seen = advimg.load_classifier("efficientnet_lite0").labels[top1]
    assert line.startswith(
        f"  coffee_pelican.png: does not hold: its record says pelican, but efficientnet_lite0 sees {seen} "
    )
    assert line.endswith("; its bytes are not those that were recorded")
    assert last == "the promise holds for 1 of 2 files"


def test_pixels_that_were_changed_later(results: Path) -> None:
    path = results / "p00_class_3.png"
    levels = np.array(Image.open(path).convert("RGB"))
    levels[0, 0, 0] ^= 128
    path.write_bytes(encoded(Image.fromarray(levels), "PNG"))
    far = referee.linf(path, results.parent / "photos" / "p00.jpg")
    assert far > 10
    found = the_first(results)
    assert (found.status, found.false_claim) == ("does_not_hold", False)
    assert found.reasons == (
        "its bytes are not those that were recorded",
        f"largest change {far} levels, more than ε = 10",
    )


def test_bytes_that_were_changed_later_show_the_same(results: Path) -> None:
    path = results / "p00_class_3.png"
    path.write_bytes(encoded(Image.open(path), "PNG", compress_level=1))
    assert the_first(results).reasons == ("its bytes are not those that were recorded",)


@pytest.mark.parametrize("altered", ["file", "photo"])
def test_a_file_that_is_cut_off_or_gone(results: Path, altered: str) -> None:
    path = results / "p00_class_3.png" if altered == "file" else results.parent / "photos" / "p00.jpg"
    data = path.read_bytes()
    path.write_bytes(data[:200])
    found = the_first(results)
    if altered == "file":
        assert found.status == "does_not_hold"
        assert found.reasons[0] == "its bytes are not those that were recorded"
        assert found.reasons[1].startswith("the file is damaged: ")
    else:
        assert found.status == "not_checked"
        assert found.reasons[0].startswith(f"its photo {path} is ")
    path.unlink()
    found = the_first(results)
    gone = "the file is gone" if altered == "file" else f"its photo {path} is gone"
    assert (found.status, found.reasons, found.found) == ("not_checked", (gone,), ())


def test_a_photo_that_was_replaced(results: Path) -> None:
    path = save_photo(results.parent / "photos" / "p00.jpg", 9)
    found = the_first(results)
    reason = f"its photo {path} is another than the one that was attacked"
    assert (found.status, found.reasons) == ("not_checked", (reason,))


VIEW = quick_classifier().view


@pytest.mark.parametrize(
    ("claims", "status", "reason"),
    [
        ({"eps": 1}, "does_not_hold", "levels, more than ε = 1"),
        ({"linf": 0}, "does_not_hold", "levels, 0 in its record"),
        ({"l2": 0.001}, "does_not_hold", "in L2, 0.001 in its record"),
        ({"confidence": 1.0}, "does_not_hold", ", 100 % in its record"),
        ({"fooled": False}, "does_not_hold", "its record says that the target is not reached, but it is"),
        ({"view": VIEW | {"crop": 8}}, "does_not_hold", "preprocessing of linear: crop 8 in the record, 64 here"),
        ({"mask_sha256": "ab"}, "not_checked", "its record names a mask; give --mask"),
        ({"survive": "jpg:75"}, "not_checked", "its record names changes that cannot be read (unknown change"),
        ({"target": {"index": 3, "name": "nothing"}}, "not_checked", "nothing"),
        ({"model": "other"}, "not_checked", "the file was made with other"),
        ({"model": "mine.toml"}, "not_checked", "the file was made with mine.toml; give it with -m"),
    ],
)
def test_a_record_that_was_edited(results: Path, edit: Edit, claims: dict[str, Any], status: str, reason: str) -> None:
    edit(**claims)
    found = the_first(results)
    assert (found.status, found.false_claim) == (status, False)
    assert len(found.reasons) == 1
    assert reason in found.reasons[0]


def test_a_target_that_was_edited_is_a_false_claim(results: Path, edit: Edit) -> None:
    edit(target={"index": 2, "name": "class 2"})
    found = the_first(results)
    assert (found.status, found.false_claim) == ("does_not_hold", True)
    assert found.reasons[0].startswith("its record says class 2, but linear sees class 3 ")


def test_a_mask_that_the_record_names(results: Path, edit: Edit, tmp_path: Path) -> None:
    free = tmp_path / "mask.png"
    Image.new("L", (24, 16), 255).save(free)
    edit(mask_sha256=advimg.attack(free, 3, model=quick_classifier(), steps=1).record.source_sha256)
    assert the_first(results, mask=free).status == "holds"
    Image.new("L", (24, 16), 254).save(free)
    assert the_first(results, mask=free).reasons == ("this mask is not the one that its record names",)
    Image.fromarray(np.pad(np.full((1, 1), 255, np.uint8), ((0, 15), (0, 23)))).save(free)
    assert all("it is changed outside of the mask" in each.reasons for each in check(results, mask=free).values())


def test_what_is_not_reached_is_told_as_such_unless_the_record_claims_more(cli: Cli, photos: list[Path]) -> None:
    weak: dict[str, Any] = {"eps": 1, "steps": 1, "step_size": 0.1}
    outcomes = advimg.batch(photos[:1], [1, 2, 3, 4, 5], out_dir="out", model=quick_classifier(), **weak)
    assert outcomes.not_reached >= 4
    found = advimg.verify_folder("out", model=quick_classifier())
    assert found.exit_code == 3
    missed = [each for each in found.files if each.status == "not_reached"]
    assert len(missed) == outcomes.not_reached
    assert all(each.reasons[0].startswith("linear sees class ") for each in missed)
    path = Path("out/results.jsonl")
    path.write_text(path.read_text().replace('"fooled": false', '"fooled": true'))
    found = advimg.verify_folder("out", model=quick_classifier())
    assert sum(each.false_claim for each in found.files) == outcomes.not_reached


def test_failures_are_told_as_such(cli: Cli, photos: list[Path], quick: Classifier) -> None:
    photos[1].write_bytes(b"no photo")
    assert cli(*COMMAND, "-m", "quick").code == 1
    ran = cli("verify", "out", "-m", "quick")
    assert ran.code == 1
    assert ran.err.splitlines() == [
        "out, checked against its journal",
        "                         files    hold  do not hold  cannot be checked  failed",
        "  linear                     3       3            0                  0       1",
        f"  photos/p01.jpg: the attack failed: {photos[1]} is not a picture that can be read ({FORMATS})",
        "the promise holds for all 3 files; 1 attack failed",
    ]


@pytest.fixture
def two() -> list[Classifier]:
    """Return two linear networks."""
    return [replace(quick_classifier(seed=seed), name=f"net{seed}") for seed in (0, 1)]


def test_a_file_for_several_models_holds_for_all_of_them(photos: list[Path], out: Path, two: list[Classifier]) -> None:
    advimg.batch(photos, 3, out_dir=out, model=two, eps=40, steps=100)
    found = check(out, model=two)
    assert {each.status for each in found.values()} == {"holds"}
    assert {tuple(seen.model for seen in each.found) for each in found.values()} == {("net0", "net1")}
    only = advimg.attack(photos[0], 3, model=two[0], eps=40, confidence=0.2)
    seen = two[1].judge(only.levels).top1
    assert seen != 3
    only.save(out / "p00_class_3.png", overwrite=True)
    found = check(out, model=two)
    assert found["p00.jpg"].false_claim
    assert found["p00.jpg"].reasons[0].startswith(f"its record says class 3, but net1 sees class {seen} ")
    assert found["p01.jpg"].status == "holds"
    without = check(out, model=two[0])["p01.jpg"]
    assert without.reasons == ("the file was made with net1, whose weights are not on disk; give it with -m",)


def test_changes_that_files_are_to_survive(cli: Cli, photos: list[Path], out: Path, quick: Classifier) -> None:
    assert cli(*COMMAND, "-m", "quick", "--survive", "mirror,brightness:0.9", "--eps", "30").code == 0
    found = check(out)
    assert {each.status for each in found.values()} == {"holds"}
    changes = {tuple(survival.change for survival in each.found[0].survives) for each in found.values()}
    assert changes == {("mirror", "brightness:0.9")}

    only = advimg.attack(photos[0], 3, model=quick, eps=30, confidence=0.3)
    mirrored = quick.judge(np.ascontiguousarray(only.levels[:, ::-1])).top1
    assert mirrored != 3
    only.save(out / "p00_class_3.png", overwrite=True)
    first = the_first(out)
    assert first.false_claim
    assert first.reasons[0].startswith(f"its record says class 3, but linear sees class {mirrored} ")
    assert first.reasons[0].endswith(" after mirror")
    assert first.reasons[-1] == "its bytes are not those that were recorded"

    without = the_first(out, after="")
    assert without.reasons == ("its bytes are not those that were recorded",)
    assert without.found[0].survives == ()
    other = the_first(out, after="brightness:0.9")
    assert [each.change for each in other.found[0].survives] == ["brightness:0.9"]
    gone = check(out, after="resize:0.02")
    assert {each.status for each in gone.values()} == {"not_checked", "does_not_hold"}
    assert all("resize:0.02 leaves less than a pixel of" in each.reasons[-1] for each in gone.values())
    ran = cli("verify", "out", "-m", "quick", "--after", "noise:60")
    assert "noise:60:0, and its record says nothing of that" in ran.err


def test_untargeted_files_have_to_leave_the_class(photos: list[Path], out: Path) -> None:
    network = quick_classifier()
    advimg.batch(photos, "untargeted", out_dir=out, model=network)
    assert {each.status for each in check(out).values()} == {"holds"}
    path = Path(records_of(out)[0]["outputs"]["adversarial"])
    photo = Path(records_of(out)[0]["source"])
    path.write_bytes(encoded(Image.open(photo), "PNG"))
    found = check(out)[photo.name]
    left = network.labels[advimg.classify(photo, model=network).top1]
    assert found.false_claim
    assert found.reasons[0].startswith(f"its record says not {left}, but linear sees {left} ")


def test_folders_in_a_folder(cli: Cli, photos: list[Path], quick: Classifier) -> None:
    assert cli("sweep", "photos", "-t", "3", "--eps", "8,16", "-m", "quick", "-O", "out").code == 0
    save_photos(Path("more"), 1)
    assert cli("batch", "more", "-t", "3", "-O", "out/deep/shard", "-m", "quick").code == 0
    ran = cli("verify", "out", "-m", "quick")
    assert ran.code == 0
    assert ran.err.splitlines()[::3] == ["out, checked against 2 journals", "the promise holds for all 9 files"]
    Path("out/deep/shard/p00_class_3.png").unlink()
    ran = cli("verify", "out", "-m", "quick")
    assert ran.code == 1
    assert "  deep/shard/p00_class_3.png: cannot be checked: the file is gone" in ran.err.splitlines()


def test_json_is_an_object_a_file(cli: Cli, results: Path, quick: Classifier) -> None:
    ran = cli("verify", "out", "-m", "quick", "--json")
    found = {Path(each["file"]): each for each in map(json.loads, ran.out.splitlines())}
    records = records_of(results)
    assert (ran.code, list(found)) == (0, [Path(record["outputs"]["adversarial"]) for record in records])
    for record in records:
        each = found[Path(record["outputs"]["adversarial"])]
        (seen,) = each.pop("found")
        assert each == {
            "file": record["outputs"]["adversarial"],
            "photo": record["source"],
            "models": ["linear"],
            "status": "holds",
            "false_claim": False,
            "reasons": [],
            "recorded": {
                **{name: record[name] for name in ("fooled", "error", "target", "target_rule", "norm", "eps")},
                **{name: record[name] for name in ("survive", "linf", "mask_sha256", "source_sha256")},
                "adversarial_sha256": record["adversarial_sha256"],
                "models": [{"model": "linear", "weights_sha256": None, "confidence": record["confidence"]}],
            },
        }
        alone = advimg.verify(each["file"], each["photo"], 3, eps=10, model=quick)
        assert seen == json.loads(json.dumps(alone.to_dict()))


def test_ten_lines_name_what_does_not_hold(cli: Cli, tmp_path: Path, quick: Classifier) -> None:
    save_photos(tmp_path / "photos", 12)
    assert cli(*COMMAND, "-m", "quick").code == 0
    path = tmp_path / "out" / "results.jsonl"
    path.write_text(path.read_text().replace('"eps": 10', '"eps": 1'))
    shutil.copy("out/p00_class_3.png", "out/p11_class_3.png")
    (tmp_path / "photos" / "p05.jpg").unlink()
    ran = cli("verify", "out", "-m", "quick")
    assert ran.code == 1
    lines = ran.err.splitlines()
    assert lines[2].split() == ["linear", "12", "0", "11", "1"]
    assert len(lines) == 3 + 10 + 2
    assert lines[-2:] == ["  and 2 more; --json has them all", "the promise holds for 0 of 12 files"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("photos",), 1, "/photos has no journal, nor has a folder in it; give a folder that advimg batch wrote to"),
        (("nothing",), 1, "nothing does not exist; check the path"),
        (("out", "--original", "photos/p00.jpg"), 2, "--original is for a single file; the records of out say it"),
        (("out", "-t", "3"), 2, "--target is for a single file"),
        (("out", "-m", "efficientnet_lite0"), 2, "no record names efficientnet_lite0; they name linear"),
        (("out", "--after", "jpg:75"), 2, "unknown change 'jpg'"),
        (("out/p00_class_3.png",), 2, "Missing option '--original'; see `advimg verify --help`"),
        (("foreign",), 1, "foreign/results.jsonl is no journal of advimg batch; give a folder that it wrote to"),
        (("empty/results.jsonl",), 1, "has no record of an attack"),
        (("none/results.jsonl",), 1, "none/results.jsonl does not exist; give a folder that advimg batch wrote to"),
    ],
)
def test_bad_input_is_one_line(
    cli: Cli, results: Path, quick: Classifier, arguments: tuple[str, ...], code: int, message: str
) -> None:
    for name, text in (("foreign", "{}\n"), ("empty", "")):
        (results.parent / name).mkdir()
        (results.parent / name / "results.jsonl").write_text(text)
    assert_one_line(cli("verify", *arguments), code, message)


def test_lines_that_are_no_records_are_told(cli: Cli, results: Path, quick: Classifier) -> None:
    with (results / "results.jsonl").open("a") as file:
        file.write("{}\n")
    ran = cli("verify", "out", "-m", "quick")
    assert ran.code == 1
    assert "results.jsonl: line 5 is no record" in ran.err
    assert ran.err.endswith("\nthe promise holds for all 4 files; not all lines of the journal are records\n")


def test_ctrl_c_tells_what_was_found(
    cli: Cli, results: Path, quick: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[Verification] = []

    def interrupted(*pictures: Any, **options: Any) -> Verification:
        if len(done) == 2:
            signal.raise_signal(signal.SIGINT)
        done.append(check_promise(*pictures, **options))
        return done[-1]

    monkeypatch.setattr("advimg.batches.verify_folder.check_promise", interrupted)
    ran = cli("verify", "out", "-m", "quick")
    assert ran.code == 130
    assert ran.err.splitlines()[2:] == [
        "  linear                     2       2            0                  0",
        "advimg: interrupted; 2 of 4 are checked",
    ]


def test_photos_wait_for_room_and_networks_are_loaded_once(
    photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = replace(quick_classifier(), name="efficientnet_lite0")  # whose weights are on disk
    advimg.batch(photos, [3, 5], out_dir=out / "a", model=network)
    photos[2].write_bytes(b"no photo")
    advimg.batch(photos, 3, out_dir=out / "b", model=network)
    loaded = []

    def load(spec: ModelSpec, **options: object) -> Classifier:
        loaded.append(spec.model)
        return network

    monkeypatch.setattr("advimg.classifiers.load.load_classifier", load)
    monkeypatch.setattr("advimg.batches.opened_files.machine_memory", lambda: 16)  # room for one photo
    found = advimg.verify_folder(out)
    assert loaded == ["efficientnet_lite0"]
    statuses = [each.status for each in found.files]
    assert {status: statuses.count(status) for status in statuses} == {"holds": 9, "not_checked": 2, "failed": 1}


def test_a_model_of_a_file_is_given_and_judges_the_files_of_that_name(
    cli: Cli, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.toml").write_text('model = "efficientnet_lite0"\n')
    network = replace(quick_classifier(), name="mine.toml", weights_sha256="ab")
    monkeypatch.setattr("advimg.classifiers.load.load_classifier", lambda *_, **__: network)
    advimg.batch(photos, 3, out_dir="out", model=network)
    ran = cli("verify", "out")
    assert ran.code == 1
    reason = "cannot be checked: the file was made with mine.toml; give it with -m"
    assert re.fullmatch(rf"  p0\d_class_3\.png and 3 more: {re.escape(reason)}", ran.err.splitlines()[3])
    assert cli("verify", "out", "-m", "mine.toml").code == 0
    network = replace(network, weights_sha256="cd")
    ran = cli("verify", "out", "-m", "mine.toml")
    assert ran.code == 0
    assert ran.err.splitlines()[0] == "note: the weights of mine.toml are not those that the records name"


def test_files_in_an_archive(results: Path, edit: Edit) -> None:
    path = results / "p00_class_3.png"
    with tarfile.open(results / "results-00000.tar", "w") as tar:
        tar.add(path, path.name)
    path.unlink()
    assert the_first(results).reasons == ("the file is gone",)
    edit(outputs={"adversarial": f"results-00000.tar/{path.name}"})
    assert the_first(results).status == "holds"


def test_journals_in_a_store() -> None:
    root = Url("memory://verify")
    for name in ("a/results.jsonl", "a/b/results.jsonl", "c/journal/run1/worker-0.jsonl", "c/p.png", "d/p.png"):
        write_whole(root / name, b"{}", overwrite=True)
    assert journals_in(root) == [root / "c"]  # a results.jsonl there is a copy, which nothing writes or reads
    assert journals_in(root / "c") == [root / "c"]
    assert journals_in(root / "a" / "results.jsonl") == [root / "a"]
    with pytest.raises(OutputError, match=r"memory://verify/d has no journal, nor has a folder in it"):
        journals_in(root / "d")
