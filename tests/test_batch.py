"""``advimg batch``: which photos, which files, what an earlier run did, and what becomes of photos that are broken."""

import io
import json
import os
import random
import shutil
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from advimg.batch.journal import Journal
from advimg.classifiers.classifier import Classifier, Verdict
from advimg.errors import ClassifierError, DiskError
from advimg.images.decode import read_photo
from advimg.images.encode import encode_png
from advimg.images.photo import Photo
from tests import referee
from tests.batches import (
    CLASSES,
    assert_kept,
    contents,
    key_of,
    quick_classifier,
    records_of,
    save_photo,
    save_photos,
    sha256,
)
from tests.conftest import Cli, EveryModel, Ran, random_photo, sample


@pytest.fixture(scope="module")
def quick() -> Classifier:
    return quick_classifier()


@pytest.fixture(autouse=True)
def _load(every_model: EveryModel, quick: Classifier, lite0: Classifier) -> None:
    every_model(quick, efficientnet_lite0=lite0)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    return save_photos(tmp_path / "photos", 4)


COMMAND = ("batch", "photos", "-t", "3", "-O", "out")


def failing(*arguments: object, **options: object) -> Any:
    raise AssertionError("nothing is to do")


def by_source(folder: Path) -> dict[str, dict[str, Any]]:
    return {Path(record["source"]).name: record for record in records_of(folder)}


def pictures(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if name.endswith(".png")}


def assert_one_line(ran: Ran, code: int, *parts: str) -> None:
    assert (ran.code, ran.out) == (code, "")
    (line,) = ran.err.splitlines()
    assert line.startswith("advimg: ")
    for part in parts:
        assert part in line


# Results and files.


def test_a_folder_becomes_a_folder_of_results(cli: Cli, photos: list[Path], out: Path, quick: Classifier) -> None:
    ran = cli(*COMMAND)
    assert (ran.code, ran.out) == (0, "")
    assert_kept(out, quick)
    assert set(contents(out)) == {
        *(f"p0{number}_class_3.png" for number in range(4)),
        *(f"p0{number}_class_3_x10.png" for number in range(4)),
        "results.jsonl",
        "summary.json",
    }
    records = by_source(out)
    for number, path in enumerate(photos):
        record = records[path.name]
        assert record["source"] == str(path)
        assert record["source_sha256"] == sha256(path)
        assert record["target"] == {"index": 3, "name": "class 3"}
        assert (record["fooled"], record["error"], record["target_rule"]) == (True, None, None)
        assert record["confidence"] >= 0.9
        assert record["outputs"] == {
            "adversarial": str(out / f"p0{number}_class_3.png"),
            "perturbation": str(out / f"p0{number}_class_3_x10.png"),
        }
        with Image.open(record["outputs"]["adversarial"]) as image:
            chunk = json.loads(image.info["advimg"])
        unstored = ("outputs", "seconds", "checked", "adversarial_sha256", "out_dir")
        assert chunk == {name: value for name, value in record.items() if name not in unstored} | {"source": path.name}
    assert "4 of 4 attacks, in out" in ran.err
    assert "verified" in ran.err
    assert "100.0 %" in ran.err


def test_the_perturbation_s_picture_is_mid_grey_plus_the_multiple(cli: Cli, photos: list[Path], out: Path) -> None:
    assert cli(*COMMAND, "--amplify", "4").code == 0
    before, after = read_photo(photos[0]).levels.astype(int), read_photo(out / "p00_class_3.png").levels
    shown = read_photo(out / "p00_class_3_x4.png").levels
    assert np.array_equal(shown, np.clip(128 + 4 * (after - before), 0, 255))


def test_every_file_convinces_a_judge_who_was_not_asked_before(cli: Cli, tmp_path: Path, out: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("chelsea.png", "coffee.png", "rocket.jpg"):
        with Image.open(sample(name)) as image:
            image.convert("RGB").resize((200, 150)).save(tmp_path / "photos" / f"{Path(name).stem}.jpg")
    ran = cli("batch", "photos", "-t", "pelican", "-t", "random", "-m", "efficientnet_lite0", "-e", "6", "-O", "out")
    assert ran.code == 0, ran.err
    records = records_of(out)
    assert len(records) == 6
    for record in records:
        path, photo = Path(record["outputs"]["adversarial"]), Path(record["source"])
        top1, confidence = referee.judge(path)
        assert top1 == record["target"]["index"]
        assert confidence == pytest.approx(record["confidence"], abs=1e-3)
        assert confidence >= 0.9
        assert referee.linf(path, photo) == record["linf"] <= 6
        assert sha256(path) == record["adversarial_sha256"]
    assert {record["target"]["name"] for record in records if record["target_rule"] is None} == {"pelican"}
    checked = cli("verify", "out/coffee_pelican.png", "--original", "photos/coffee.jpg")
    assert checked.code == 0


def test_the_outputs_mirror_the_tree(cli: Cli, tmp_path: Path, out: Path, quick: Classifier) -> None:
    for number, name in enumerate(("a.jpg", "sub/a.jpg", "sub/deep/b.png", "sub/b.jpg", ".git/c.jpg")):
        save_photo(tmp_path / "photos" / name, number)
    assert cli(*COMMAND, "--no-perturbation").code == 0
    assert set(pictures(out)) == {"a_class_3.png"}
    assert cli(*COMMAND, "--no-perturbation", "--recursive").code == 0
    assert_kept(out, quick)
    assert set(pictures(out)) == {
        "a_class_3.png",
        "sub/a_class_3.png",
        "sub/deep/b_class_3.png",
        "sub/b_class_3.png",
    }


def test_photos_of_one_stem_have_files_of_their_own(cli: Cli, tmp_path: Path, out: Path, quick: Classifier) -> None:
    for number, name in enumerate(("dog.jpg", "dog.png", "dog.jpeg")):
        save_photo(tmp_path / "photos" / name, number)
    assert cli(*COMMAND).code == 0
    assert_kept(out, quick)
    assert len(pictures(out)) == 6
    before = contents(out)
    save_photo(tmp_path / "photos/dog.bmp", 4)
    assert cli(*COMMAND).code == 0
    assert_kept(out, quick)
    assert before.items() - contents(out).items() == {
        (name, before[name]) for name in ("results.jsonl", "summary.json")
    }


def test_an_output_folder_inside_the_photos_is_not_looked_into(cli: Cli, photos: list[Path], quick: Classifier) -> None:
    inside = photos[0].parent / "out"
    for _ in range(2):
        assert cli("batch", "photos", "-r", "-t", "3", "-O", "photos/out").code == 0
        assert_kept(inside, quick)
        assert len(records_of(inside)) == 4
    before = contents(inside)
    # What advimg wrote elsewhere is passed over too, and said to be.
    ran = cli("batch", "photos", "-r", "-t", "3", "-O", "elsewhere")
    assert ran.code == 0
    assert "8 of the files were written by advimg or are in the output folder; passed over" in ran.err
    assert contents(inside) == before


def test_a_figure_and_no_metadata_on_request(cli: Cli, tmp_path: Path, out: Path, quick: Classifier) -> None:
    save_photos(tmp_path / "photos", 1)
    assert cli(*COMMAND, "--figure", "--no-metadata").code == 0
    assert_kept(out, quick)
    assert set(pictures(out)) == {"p00_class_3.png", "p00_class_3_x10.png", "p00_class_3_figure.png"}
    with Image.open(out / "p00_class_3.png") as image:
        assert "advimg" not in image.info


def test_lists_of_paths(
    cli: Cli, photos: list[Path], tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "list.txt").write_text(f"{photos[0]}\r\n\r\nphotos/p01.jpg\r\nphotos/p01.jpg\r\n")
    assert cli("batch", "--from-file", "list.txt", "photos/p03.jpg", "-t", "3", "-O", "out").code == 0
    assert set(by_source(out)) == {"p00.jpg", "p01.jpg", "p03.jpg"}
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"photos/p02.jpg\n")))
    assert cli("batch", "--from-file", "-", "-t", "3", "-O", "out").code == 0
    assert set(by_source(out)) == {"p00.jpg", "p01.jpg", "p02.jpg", "p03.jpg"}


def test_a_list_may_begin_with_a_byte_order_mark(cli: Cli, photos: list[Path], tmp_path: Path, out: Path) -> None:
    (tmp_path / "list.txt").write_text("photos/p00.jpg\nphotos/p01.jpg\n", encoding="utf-8-sig")
    assert cli("batch", "--from-file", "list.txt", "-t", "3", "-O", "out").code == 0
    assert set(by_source(out)) == {"p00.jpg", "p01.jpg"}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems know no such names")
def test_names_that_are_no_text(cli: Cli, tmp_path: Path, out: Path, quick: Classifier) -> None:
    save_photo(tmp_path / "photos/p.jpg").rename(tmp_path / "photos" / os.fsdecode(b"\xff\xe9.jpg"))
    for _ in range(2):
        ran = cli(*COMMAND, "--json")
        assert ran.code == 0
        assert_kept(out, quick)
    assert ran.out == ""
    (record,) = records_of(out)
    assert Path(record["source"]).exists()


# Towards what.


def test_each_photo_towards_each_target(
    cli: Cli, photos: list[Path], out: Path, quick: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def reading(path: Path, **options: Any) -> Any:
        read.append(path.name)
        return read_photo(path, **options)

    monkeypatch.setattr("advimg.batch.pipeline.read_photo", reading)
    ran = cli("batch", "photos", "-t", "0", "-t", "class_4", "-t", "least-likely", "-t", "0", "-O", "out")
    assert ran.code == 0
    assert_kept(out, quick)
    assert len(records_of(out)) == 12
    assert {name for name in pictures(out) if name.startswith("p01") and "x10" not in name} == {
        "p01_class_0.png",
        "p01_class_4.png",
        "p01_least_likely.png",
    }
    assert sorted(read) == [path.name for path in photos]


def test_all_is_every_class(cli: Cli, photos: list[Path], out: Path, quick: Classifier) -> None:
    assert cli("batch", photos[0], "-t", "all", "-O", "out").code == 0
    assert_kept(out, quick)
    assert sorted(record["target"]["index"] for record in records_of(out)) == list(range(CLASSES))


@pytest.mark.parametrize("rule", ["random", "least-likely", "runner-up"])
def test_rules_are_chosen_by_the_photo_and_repeatable(
    cli: Cli, photos: list[Path], tmp_path: Path, quick: Classifier, rule: str
) -> None:
    for folder in ("one", "two"):
        assert cli("batch", *photos[:: -1 if folder == "two" else 1], "-t", rule, "-O", folder).code == 0
        assert_kept(tmp_path / folder, quick)
    assert pictures(tmp_path / "one") == pictures(tmp_path / "two")
    for record in records_of(tmp_path / "one"):
        assert record["target_rule"] == rule
        order = quick.judge(read_photo(record["source"]).levels).probabilities.argsort(descending=True).tolist()
        assert record["target"]["index"] in {"least-likely": order[-1:], "runner-up": order[1:2]}.get(rule, order[1:])


def test_a_table_of_pairs_with_their_own_eps(
    cli: Cli, photos: list[Path], tmp_path: Path, out: Path, quick: Classifier
) -> None:
    table = "Target,Path,eps\nclass_1,photos/p00.jpg,3\nclass_1,photos/p00.jpg,5/255\n2,photos/p01.jpg,\n"
    (tmp_path / "pairs.csv").write_text(table, encoding="utf-8-sig")
    for _ in range(2):
        ran = cli("batch", "--targets", "pairs.csv", "-O", "out", "-e", "8")
        assert ran.code == 0
        assert_kept(out, quick)
    assert "3 of 3 were done by an earlier run" in ran.err
    found = {(Path(record["source"]).name, record["target"]["index"], record["eps"]) for record in records_of(out)}
    assert found == {("p00.jpg", 1, 3), ("p00.jpg", 1, 5), ("p01.jpg", 2, 8)}
    assert {Path(record["outputs"]["adversarial"]).name for record in records_of(out)} == {
        "p00_class_1_eps3.png",
        "p00_class_1_eps5.png",
        "p01_class_2.png",
    }
    assert all(record["linf"] <= record["eps"] for record in records_of(out))


def test_a_folder_in_a_table_is_no_photo(cli: Cli, photos: list[Path], tmp_path: Path, out: Path) -> None:
    (tmp_path / "pairs.csv").write_text("path,target\nphotos,1\n")
    ran = cli("batch", "--targets", "pairs.csv", "-O", "out")
    assert ran.code == 1
    assert "photos is a folder" in ran.err
    (tmp_path / "pairs.csv").write_text("path,target\nphotos,1\nphotos/p00.jpg,1\n")
    ran = cli("batch", "--targets", "pairs.csv", "-O", "out")
    assert ran.code == 1
    assert "photos is a folder" in ran.err
    assert by_source(out)["p00.jpg"]["fooled"]


def test_a_table_passes_over_what_advimg_wrote(cli: Cli, photos: list[Path], tmp_path: Path, out: Path) -> None:
    assert cli(*COMMAND).code == 0
    (tmp_path / "pairs.csv").write_text("path,target\nout/p00_class_3.png,1\nphotos/p00.jpg,1\n")
    ran = cli("batch", "--targets", "pairs.csv", "-O", "other")
    assert ran.code == 0
    assert "1 of the files were written by advimg" in ran.err
    assert set(by_source(tmp_path / "other")) == {"p00.jpg"}
    (tmp_path / "pairs.csv").write_text("path,target\nout/p00_class_3.png,1\n")
    assert_one_line(cli("batch", "--targets", "pairs.csv", "-O", "other"), 2, "only pictures that advimg wrote")


# Exit codes and messages.


def test_not_reached_is_exit_3_with_the_best_attempts(
    cli: Cli, photos: list[Path], out: Path, quick: Classifier
) -> None:
    ran = cli(*COMMAND, "-e", "1", "--steps", "2")
    assert ran.code == 3
    assert_kept(out, quick)
    assert not any(record["fooled"] for record in records_of(out))
    assert all((out / f"p0{number}_class_3.png").exists() for number in range(4))
    # Nothing to do is the same answer.
    assert cli(*COMMAND, "-e", "1", "--steps", "2").code == 3


_WRONG = {
    "no photo": (("-t", "3"), 2, "which photos?"),
    "no target": (("photos",), 2, "which target class?"),
    "unknown class": (("photos", "-t", "clas 3"), 2, "unknown class 'clas 3'"),
    "wrong eps": (("photos", "-t", "3", "-e", "0.04"), 2, "write 10"),
    "wrong factor": (("photos", "-t", "3", "--amplify", "0"), 2, "amplify"),
    "no room in a pass": (("photos", "-t", "3", "--batch-size", "0"), 2, "--batch-size"),
    "batch size in words": (("photos", "-t", "3", "--batch-size", "many"), 2, "--batch-size"),
    "table and target": (("--targets", "pairs.csv", "-t", "3"), 2, "leave out"),
    "table and photos": (("--targets", "pairs.csv", "photos"), 2, "leave out"),
    "table and list": (("--targets", "pairs.csv", "--from-file", "list.txt"), 2, "leave out"),
    "wrong table": (("--targets", "pairs.csv"), 2, "pairs.csv, line 2: unknown class"),
    "table that is no text": (("--targets", "photos/p00.jpg"), 2, "not UTF-8"),
    "no table": (("--targets", "no.csv"), 1, "no.csv cannot be read"),
    "no list": (("--from-file", "no.txt", "-t", "3"), 1, "no.txt cannot be read"),
    "empty list": (("--from-file", "empty.txt", "-t", "3"), 2, "empty.txt names no photo"),
    "no such folder": (("nowhere", "-t", "3"), 1, "nowhere does not exist"),
    "empty folder": (("empty", "-t", "3"), 1, "empty: no photos"),
    "output folder": (("out", "-t", "3"), 1, "is the output folder"),
    "file as output folder": (("photos", "-t", "3", "-O", "pairs.csv"), 1, "cannot make the folder"),
}


@pytest.mark.parametrize("case", _WRONG)
def test_wrong_usage_is_one_line_and_leaves_nothing(
    cli: Cli, photos: list[Path], tmp_path: Path, out: Path, case: str
) -> None:
    arguments, code, message = _WRONG[case]
    (tmp_path / "pairs.csv").write_text("path,target\nphotos/p00.jpg,clas 3\n")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "empty").mkdir()
    if "out" in arguments:
        out.mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert_one_line(cli("batch", *(() if "-O" in arguments else ("-O", "out")), *arguments), code, message)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_output_folder_has_to_be_named(cli: Cli, photos: list[Path]) -> None:
    assert_one_line(cli("batch", "photos", "-t", "3"), 2, "--out-dir")


def test_a_terminal_is_not_waited_for(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal())
    assert_one_line(cli("batch", "--from-file", "-", "-t", "3", "-O", "out"), 2, "pipe them in")


def test_json_prints_the_journal_s_lines(
    cli: Cli, photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advimg.cli.progress._PLAIN_EVERY", 0)
    photos[1].write_bytes(b"")
    ran = cli(*COMMAND, "--json")
    assert ran.code == 1
    assert " of 4, " not in ran.err  # the lines tell how far it is
    assert ran.out == (out / "results.jsonl").read_text()
    # Only what this run did.
    save_photo(photos[1].with_name("new.jpg"), 9)
    ran = cli(*COMMAND, "--json")
    assert ran.out.splitlines() == (out / "results.jsonl").read_text().splitlines()[4:]
    assert [Path(json.loads(line)["source"]).name for line in ran.out.splitlines()] == ["new.jpg"]


def test_quiet_says_nothing_but_errors(cli: Cli, photos: list[Path], tmp_path: Path) -> None:
    ran = cli(*COMMAND, "-q")
    assert (ran.code, ran.out, ran.err) == (0, "", "")
    photos[1].write_bytes(b"")
    ran = cli("batch", "photos", "-t", "3", "-O", "other", "-q")
    assert (ran.code, ran.out, ran.err) == (1, "", f"advimg: {photos[1]} is empty\n")


def test_progress_outside_a_terminal_is_plain_lines(
    cli: Cli, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advimg.cli.progress._PLAIN_EVERY", 0)
    photos[2].write_bytes(b"")
    ran = cli(*COMMAND)
    lines = ran.err.splitlines()
    assert "\x1b" not in ran.err
    assert "\r" not in ran.err
    assert [line.split(",")[0] for line in lines if " of 4, " in line] == [f"{done} of 4" for done in (1, 2, 3, 4)]
    last = [line for line in lines if line.startswith("4 of 4, ")]
    assert len(last) == 1
    assert "3 verified, 1 failed" in last[0]
    assert lines.count(f"advimg: {photos[2]} is empty") == 1
    assert lines.count(f"  failed: {photos[2]} is empty") == 1


def test_verbose_tells_of_each_photo(cli: Cli, photos: list[Path]) -> None:
    photos[2].write_bytes(b"")
    ran = cli(*COMMAND, "-v")
    assert ran.code == 1
    told = [line for line in ran.err.splitlines() if "→ class 3" in line]
    assert sorted(line.split(":")[0] for line in told) == [str(photos[number]) for number in (0, 1, 3)]


def test_the_summary_agrees_with_the_journal(cli: Cli, photos: list[Path], out: Path) -> None:
    photos[1].write_bytes(b"")
    assert cli(*COMMAND, "--confidence", "0.8").code == 1
    summary = json.loads((out / "summary.json").read_text())
    records = records_of(out)
    assert summary["total"] == len(records) == 4
    assert summary["verified"] == sum(record["fooled"] for record in records) == 3
    assert (summary["not_reached"], summary["failed"], summary["unfinished"], summary["earlier"]) == (0, 1, 0, 0)
    assert summary["failures"] == [{"source": str(photos[1]), "error": f"{photos[1]} is empty"}]
    assert summary["gradients_each"] == round(sum(record["gradients"] or 0 for record in records) / 3, 2)
    for name in ("advimg", "model", "eps", "min_confidence", "max_steps", "seed", "loss"):
        assert {record[name] for record in records} == {summary[name]}
    assert cli(*COMMAND, "--confidence", "0.8").code == 1
    again = json.loads((out / "summary.json").read_text())
    assert again["earlier"] == 4
    changing = ("earlier", "seconds", "per_second")
    assert [again[name] for name in again if name not in changing] == [
        summary[name] for name in summary if name not in changing
    ]


# Broken photos among good ones.


def _tiff(mode: str) -> Callable[[Path], object]:
    return lambda path: Image.new(mode, (24, 16), 7).save(path, "TIFF")


def _bytes(make: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        buffer = io.BytesIO()
        Image.fromarray(random_photo(24, 16).levels).save(buffer, "JPEG")
        path.write_bytes(make(buffer.getvalue()))

    return write


def _png_of(size: tuple[int, int]) -> Callable[[Path], object]:
    return lambda path: Image.new("1", size).save(path, "PNG")


_HEADER = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 24, 16, 8, 2, 0, 0, 0) + b"\0\0\0\0"

_BREAK: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "truncated": (_bytes(lambda data: data[: len(data) // 2]), "is damaged"),
    "head of a jpeg": (_bytes(lambda data: data[:20]), "not a picture|is damaged"),
    "text": (lambda path: path.write_text("hello"), "is not a picture"),
    "header of a png": (lambda path: path.write_bytes(_HEADER), "is damaged|not a picture"),
    "link to nowhere": (lambda path: path.symlink_to("nowhere"), "does not exist"),
    "too many pixels": (_png_of((1000, 501)), "more than the 500,000 allowed"),
    "floats": (_tiff("F"), "floating-point levels"),
    "32 bits": (_tiff("I"), "32-bit levels"),
    "long and thin": (_png_of((45000, 1)), "too long and thin"),
}


def test_forty_broken_photos_among_two_hundred(
    cli: Cli, tmp_path: Path, out: Path, quick: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [save_photo(tmp_path / f"photos/{number:03}.jpg", number) for number in range(200)]
    (tmp_path / "photos/folder.jpg").mkdir()
    broken: dict[str, str] = {}
    kinds = list(_BREAK.values()) * 4
    for path, (harm, reason) in zip(random.Random(1).sample(photos, 40), kinds, strict=True):
        path.unlink()
        harm(path)
        broken[str(path)] = reason
    command = (*COMMAND, "--max-pixels", "500000")
    ran = cli(*command)
    assert ran.code == 1
    assert "160   80.0 %" in ran.err
    assert "and 30 more; summary.json has them all" in ran.err
    records = records_of(out)
    assert len(records) == 200
    assert sum(record["fooled"] for record in records) == 160
    failed = {record["source"]: record for record in records if record["error"] is not None}
    assert set(failed) == set(broken)
    for source, reason in broken.items():
        error = failed[source]["error"]
        assert any(part in error for part in reason.split("|")), error
        assert source in error
        assert f"advimg: {error}" in ran.err.splitlines()
        assert (failed[source]["outputs"], failed[source]["fooled"]) == ({}, False)
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["verified"], summary["failed"]) == (160, 40)
    assert {failure["source"]: failure["error"] for failure in summary["failures"]} == {
        source: record["error"] for source, record in failed.items()
    }
    assert_kept(out, quick)

    before = contents(out)
    monkeypatch.setattr("advimg.batch.pipeline.Engine", failing)
    again = cli(*command)
    assert again.code == 1
    assert "200 of 200 were done by an earlier run" in again.err
    assert {name: data for name, data in contents(out).items() if name != "summary.json"} == {
        name: data for name, data in before.items() if name != "summary.json"
    }


def test_a_broken_photo_has_a_record_for_each_of_its_targets(cli: Cli, photos: list[Path], out: Path) -> None:
    photos[1].write_bytes(b"")
    ran = cli(*COMMAND, "-t", "1", "-t", "random")
    assert ran.code == 1
    failed = [record for record in records_of(out) if record["error"]]
    assert {key_of(record) for record in failed} == {(str(photos[1]), target, 10) for target in (3, 1, "random")}
    assert len(records_of(out)) == 12
    assert ran.err.count(f"  failed: {photos[1]} is empty") == 1


def test_nothing_but_broken_photos(cli: Cli, photos: list[Path], out: Path) -> None:
    for path in photos:
        path.write_text("hello")
    assert cli(*COMMAND).code == 1
    assert len(records_of(out)) == 4
    assert set(contents(out)) == {"results.jsonl", "summary.json"}


def test_a_photo_that_memory_has_no_room_for_does_not_stop_the_others(
    cli: Cli, photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Path.read_bytes

    def read_bytes(self: Path) -> bytes:
        if self == photos[1]:
            raise MemoryError
        return honest(self)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert cli(*COMMAND).code == 1
    assert [name for name, record in by_source(out).items() if record["error"]] == ["p01.jpg"]
    assert sum(record["fooled"] for record in records_of(out)) == 3


def test_a_name_too_long_for_its_results_does_not_stop_the_others(cli: Cli, photos: list[Path], out: Path) -> None:
    photos[0].rename(photos[0].with_name("x" * 250 + ".jpg"))
    ran = cli(*COMMAND)
    assert ran.code == 1
    assert "name too long" in ran.err.lower()
    assert sum(record["fooled"] for record in records_of(out)) == 3


@pytest.mark.parametrize("line", ["y" * 300, "a\0b.jpg", "a\0b/c.jpg", "a\0b.png"])
def test_an_impossible_path_in_a_list_does_not_stop_the_others(
    cli: Cli, photos: list[Path], tmp_path: Path, out: Path, line: str
) -> None:
    (tmp_path / "list.txt").write_text(f"{line}\nphotos/p00.jpg\n")
    assert cli("batch", "--from-file", "list.txt", "-t", "3", "-O", "out").code == 1
    assert sum(record["fooled"] for record in records_of(out)) == 1
    assert len(records_of(out)) == 2


def test_a_file_where_a_folder_should_be_fails_its_photos_only(cli: Cli, tmp_path: Path, out: Path) -> None:
    for name in ("a.jpg", "sub/b.jpg"):
        save_photo(tmp_path / "photos" / name)
    out.mkdir()
    (out / "sub").write_text("mine")
    ran = cli(*COMMAND, "-r")
    assert ran.code == 1
    assert "sub" in ran.err
    assert sum(record["fooled"] for record in records_of(out)) == 1
    assert (out / "sub").read_text() == "mine"


def test_a_disk_without_room_for_a_folder_stops_the_run(
    cli: Cli, tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch, quick: Classifier
) -> None:
    """Else the photos would stand in the journal as failed, and the next run would pass them over."""
    for number in range(6):
        save_photo(tmp_path / f"photos/{number}/a.jpg", number)
    honest = Path.mkdir

    def mkdir(self: Path, *arguments: Any, **options: Any) -> None:
        if self.parent == out and self.name >= "3":
            raise OSError(28, "No space left on device", str(self))
        honest(self, *arguments, **options)

    command = (*COMMAND, "-r", "--batch-size", "1")
    with monkeypatch.context() as full:
        full.setattr(Path, "mkdir", mkdir)
        ran = cli(*command)
    assert_one_line(ran, 1, "No space left on device", "3 of 6 are done", "run the same command again")
    assert all(record["fooled"] for record in records_of(out))
    assert cli(*command).code == 0
    assert_kept(out, quick)
    assert len(records_of(out)) == 6


def test_a_disk_that_takes_no_more_is_not_worked_for(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_photos(tmp_path / "photos", 40)
    looked: list[str] = []
    judge = Classifier.judge_photo

    def look(self: Classifier, photo: Photo) -> Verdict:
        looked.append(photo.source)
        return judge(self, photo)

    def full(*arguments: object) -> None:
        raise DiskError("the disk is full")

    monkeypatch.setattr(Classifier, "judge_photo", look)
    monkeypatch.setattr(Journal, "append", full)
    assert_one_line(cli(*COMMAND, "--batch-size", "1"), 1, "the disk is full; 0 of 40 are done")
    assert len(looked) < 20


def test_a_network_that_is_no_classifier_is_one_reason_for_each_photo(
    cli: Cli, photos: list[Path], out: Path, every_model: EveryModel
) -> None:
    odd = Classifier.wrap(
        torch.nn.Flatten(), labels=["a"], mean=(0, 0, 0), std=(1, 1, 1), resize=8, crop=8, device="cpu"
    )
    every_model(odd)
    ran = cli("batch", "photos", "-t", "a", "-O", "out")
    assert ran.code == 1
    assert "one logit for each of 1 labels" in ran.err
    assert all("one logit" in record["error"] for record in records_of(out))


def test_a_run_that_cannot_begin_leaves_no_folder_that_it_made(
    cli: Cli, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> Any:
        raise ClassifierError("device cuda: torch finds no GPU here")

    (tmp_path / "mine").mkdir()
    monkeypatch.setattr("advimg.classifiers.load.load_classifier", refuse)
    assert_one_line(cli(*COMMAND[:-1], "mine/a/b"), 1, "no GPU")
    assert list((tmp_path / "mine").iterdir()) == []


# Going on.


def test_what_is_done_is_not_done_again(
    cli: Cli, photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli(*COMMAND).code == 0
    before = contents(out)
    monkeypatch.setattr("advimg.batch.pipeline.Engine", failing)
    ran = cli(*COMMAND)
    assert ran.code == 0
    assert "4 of 4 were done by an earlier run" in ran.err
    assert before.items() - contents(out).items() == {("summary.json", before["summary.json"])}


def test_new_photos_and_new_targets_are_added(cli: Cli, photos: list[Path], out: Path, quick: Classifier) -> None:
    assert cli(*COMMAND).code == 0
    before = (out / "results.jsonl").read_bytes()
    save_photo(photos[0].with_name("new.png"), 9)
    ran = cli(*COMMAND, "-t", "1")
    assert ran.code == 0
    assert "4 of 10 were done by an earlier run" in ran.err
    assert_kept(out, quick)
    assert (out / "results.jsonl").read_bytes().startswith(before)
    assert len(records_of(out)) == 10
    assert json.loads((out / "summary.json").read_text())["total"] == 10


def test_a_photo_that_has_changed_is_attacked_anew(cli: Cli, photos: list[Path], out: Path, quick: Classifier) -> None:
    assert cli(*COMMAND).code == 0
    before = by_source(out)
    save_photo(photos[2], 77)
    ran = cli(*COMMAND)
    assert "3 of 4 were done by an earlier run" in ran.err
    assert_kept(out, quick)
    after = by_source(out)
    assert len(records_of(out)) == 4
    assert after["p02.jpg"]["source_sha256"] == sha256(photos[2]) != before["p02.jpg"]["source_sha256"]
    assert after["p02.jpg"]["outputs"] == before["p02.jpg"]["outputs"]
    assert {name: record for name, record in after.items() if name != "p02.jpg"} == {
        name: record for name, record in before.items() if name != "p02.jpg"
    }


def test_results_outlive_their_photo(cli: Cli, photos: list[Path], out: Path) -> None:
    assert cli("batch", *photos, "-t", "3", "-O", "out").code == 0
    before = (out / "results.jsonl").read_bytes()
    photos[1].unlink()
    assert cli("batch", *photos, "-t", "3", "-O", "out").code == 0
    assert (out / "results.jsonl").read_bytes() == before


def _delete(path: Path) -> None:
    path.unlink()


def _alter(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"x")


@pytest.mark.parametrize(
    ("harm", "name"),
    [(_delete, "p01_class_3.png"), (_alter, "p01_class_3.png"), (_delete, "p01_class_3_x10.png")],
)
def test_a_picture_that_is_gone_or_altered_is_made_anew(
    cli: Cli, photos: list[Path], out: Path, quick: Classifier, harm: Callable[[Path], None], name: str
) -> None:
    assert cli(*COMMAND).code == 0
    before = pictures(out)
    harm(out / name)
    ran = cli(*COMMAND)
    assert ran.code == 0
    assert "3 of 4 were done by an earlier run" in ran.err
    assert_kept(out, quick)
    assert pictures(out) == before
    assert len(records_of(out)) == 4


def test_a_picture_that_was_not_wanted_before_is_made(
    cli: Cli, photos: list[Path], out: Path, quick: Classifier
) -> None:
    assert cli(*COMMAND, "--no-perturbation").code == 0
    before = pictures(out)
    assert cli(*COMMAND).code == 0
    assert_kept(out, quick)
    assert before.items() < pictures(out).items()
    # One that is not wanted now does no harm; another factor is another picture.
    with_both = contents(out)
    assert cli(*COMMAND, "--no-perturbation").code == 0
    assert with_both.items() - contents(out).items() == {("summary.json", with_both["summary.json"])}
    assert cli(*COMMAND, "--amplify", "5").code == 0
    assert_kept(out, quick)
    assert set(pictures(out)) == {f"p0{number}_class_3{end}.png" for number in range(4) for end in ("", "_x5")}


def test_another_s_picture_does_not_stand_for_one_that_is_wanted(cli: Cli, photos: list[Path], out: Path) -> None:
    assert cli(*COMMAND, "--no-perturbation").code == 0
    for number in range(4):
        (out / f"p0{number}_class_3_x10.png").write_text("mine")
    assert_one_line(cli(*COMMAND), 1, "p00_class_3_x10.png", "--force")
    assert cli(*COMMAND, "--no-perturbation").code == 0
    assert (out / "p00_class_3_x10.png").read_text() == "mine"


def test_failures_are_tried_again_on_request_or_once_the_photo_has_changed(
    cli: Cli, photos: list[Path], tmp_path: Path, out: Path, quick: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = photos[0].read_bytes()
    photos[0].write_bytes(b"")
    save_photo(photos[1], size=(100, 100))
    command = (*COMMAND, "--max-pixels", "5000")
    assert cli(*command).code == 1
    before = (out / "results.jsonl").read_bytes()
    with monkeypatch.context() as context:
        context.setattr("advimg.batch.pipeline.Engine", failing)
        assert cli(*command).code == 1
    assert (out / "results.jsonl").read_bytes() == before
    photos[0].write_bytes(good)
    ran = cli(*command)
    assert ran.code == 1
    assert "3 of 4 were done by an earlier run" in ran.err
    assert by_source(out)["p00.jpg"]["fooled"]
    ran = cli(*COMMAND, "--retry-failed")
    assert ran.code == 0
    assert "3 of 4 were done by an earlier run" in ran.err
    assert_kept(out, quick)
    assert len(records_of(out)) == 4


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--seed", "5", "seed 0 there, 5 here"),
        ("--steps", "9", "max_steps 100 there, 9 here"),
        ("-e", "4", "eps 10 there, 4 here"),
        ("--confidence", "0.5", "min_confidence 0.9 there, 0.5 here"),
        ("--step-size", "1.5", "step_size unset there, 1.5 here"),
        ("--momentum", "0", "momentum 0.8 there, 0.0 here"),
        ("--loss", "margin", "loss ce there, margin here"),
        ("--restarts", "2", "restarts 0 there, 2 here"),
    ],
)
def test_other_settings_in_one_folder_are_refused(
    cli: Cli, photos: list[Path], out: Path, quick: Classifier, option: str, value: str, said: str
) -> None:
    assert cli(*COMMAND).code == 0
    before = contents(out)
    ran = cli(*COMMAND, option, value)
    assert_one_line(ran, 1, "begun with other settings", said, "--force")
    assert contents(out) == before
    forced = cli(*COMMAND, option, value, "--force")
    assert forced.code in (0, 3)
    assert "earlier" not in forced.err
    assert_kept(out, quick)
    assert len(records_of(out)) == 4
    assert cli(*COMMAND, option, value).code == forced.code


def test_another_network_in_one_folder_is_refused(
    cli: Cli, photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli(*COMMAND).code == 0
    before = contents(out)
    ran = cli(*COMMAND[:2], "-t", "pelican", "-O", "out", "-m", "efficientnet_lite0")
    assert_one_line(ran, 1, "model linear there, efficientnet_lite0 here")
    assert contents(out) == before


def test_another_view_of_the_photo_in_one_folder_is_refused(
    cli: Cli, photos: list[Path], out: Path, quick: Classifier, every_model: EveryModel
) -> None:
    """As with --mean or --resize: what the network is fed is as much of a setting as the network."""
    assert cli(*COMMAND).code == 0
    before = contents(out)
    other = replace(quick, preprocessing=replace(quick.preprocessing, mean=(0.4, 0.4, 0.4)))
    every_model(other)
    assert_one_line(cli(*COMMAND), 1, "begun with other settings")
    assert contents(out) == before


def test_device_precision_and_batch_size_may_change(cli: Cli, photos: list[Path], out: Path) -> None:
    assert cli(*COMMAND).code == 0
    before = (out / "results.jsonl").read_bytes()
    assert cli(*COMMAND, "--precision", "bf16", "--batch-size", "1", "--device", "cpu").code == 0
    assert (out / "results.jsonl").read_bytes() == before


@pytest.mark.parametrize("name", ["p02_class_3.png", "p02_class_3_x10.png"])
def test_a_file_in_the_way_is_refused(cli: Cli, photos: list[Path], out: Path, quick: Classifier, name: str) -> None:
    out.mkdir()
    (out / name).write_text("mine")
    assert_one_line(cli(*COMMAND), 1, name, "not in", "--force")
    assert contents(out) == {name: b"mine"}
    assert cli(*COMMAND, "--force").code == 0
    assert_kept(out, quick)
    assert len(records_of(out)) == 4


def test_a_run_that_is_refused_changes_nothing(cli: Cli, photos: list[Path], out: Path) -> None:
    assert cli(*COMMAND).code == 0
    save_photo(photos[1], 77)  # whose results are of no use any longer
    save_photo(photos[0].with_name("new.jpg"), 9)
    (out / "new_class_3.png").write_text("mine")
    before = contents(out)
    assert_one_line(cli(*COMMAND), 1, "new_class_3.png", "--force")
    assert contents(out) == before


def test_a_file_that_comes_in_the_way_later_is_not_overwritten(
    cli: Cli, photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reading(path: Path, **options: Any) -> Any:
        if path == photos[2]:
            (out / "p02_class_3.png").write_text("mine")
        return read_photo(path, **options)

    monkeypatch.setattr("advimg.batch.pipeline.read_photo", reading)
    ran = cli(*COMMAND)
    assert ran.code == 1
    assert f"advimg: {out / 'p02_class_3.png'} exists; use --force to overwrite it" in ran.err.splitlines()
    assert (out / "p02_class_3.png").read_text() == "mine"
    assert sum(record["fooled"] for record in records_of(out)) == 3


def test_a_summary_that_is_not_a_batch_s_is_not_overwritten(cli: Cli, photos: list[Path], out: Path) -> None:
    out.mkdir()
    (out / "summary.json").write_text("mine")
    assert_one_line(cli(*COMMAND), 1, "summary.json", "--force")
    assert contents(out) == {"summary.json": b"mine"}


def test_other_files_in_the_output_folder_are_left_alone(cli: Cli, photos: list[Path], out: Path) -> None:
    mine = {"notes.txt": b"x", "p00_class_4.png": b"y", ".hidden": b"z", "sub/p00_class_3.png": b"w"}
    for name, data in mine.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(data)
    assert cli(*COMMAND).code == 0
    assert mine.items() <= contents(out).items()
    assert len(contents(out)) == len(mine) + 10


def test_a_torn_journal_is_mended(cli: Cli, photos: list[Path], out: Path, quick: Classifier) -> None:
    assert cli(*COMMAND).code == 0
    before = pictures(out)
    path = out / "results.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    torn = json.loads(lines[3])
    path.write_bytes(b"".join(lines[:3]) + lines[3][:200])
    for name in torn["outputs"].values():  # a killed run's own list of unfinished files would name them
        Path(name).unlink()
    ran = cli(*COMMAND)
    assert ran.code == 0
    assert "3 of 4 were done by an earlier run" in ran.err
    assert path.read_bytes().splitlines(keepends=True)[:3] == lines[:3]
    assert_kept(out, quick)
    assert pictures(out) == before


def test_a_line_that_cannot_be_read_is_made_anew(cli: Cli, photos: list[Path], out: Path, quick: Classifier) -> None:
    assert cli(*COMMAND).code == 0
    path = out / "results.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for name in json.loads(lines[1])["outputs"].values():
        Path(name).unlink()
    path.write_bytes(lines[0] + b"\0" * (len(lines[1]) - 1) + b"\n" + b"".join(lines[2:]))
    assert cli(*COMMAND).code == 0
    assert_kept(out, quick)
    assert len(records_of(out)) == 4


def test_another_s_results_are_refused(cli: Cli, photos: list[Path], out: Path) -> None:
    out.mkdir()
    (out / "results.jsonl").write_text('{"name": "dog"}\n')
    assert_one_line(cli(*COMMAND), 1, "is no journal of advimg batch; choose another -O")
    assert contents(out) == {"results.jsonl": b'{"name": "dog"}\n'}


def test_two_batches_do_not_write_to_one_folder(cli: Cli, photos: list[Path], out: Path) -> None:
    with Journal.opened(out):
        assert_one_line(cli(*COMMAND), 1, "another advimg batch is writing to")
    assert cli(*COMMAND).code == 0


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_folder_that_was_moved_is_gone_on_with_where_it_is(
    cli: Cli, photos: list[Path], tmp_path: Path, out: Path, quick: Classifier, force: tuple[str, ...]
) -> None:
    assert cli(*COMMAND).code == 0
    moved = out.rename(tmp_path / "moved")
    assert cli(*COMMAND[:-1], "moved", *force).code == 0
    assert not out.exists()
    assert_kept(moved, quick)


def test_a_copied_folder_has_no_hold_over_the_one_it_was_copied_from(
    cli: Cli, photos: list[Path], tmp_path: Path, out: Path
) -> None:
    assert cli(*COMMAND).code == 0
    before = contents(out)
    shutil.copytree(out, tmp_path / "copy")
    cli(*COMMAND[:-1], "copy", "--seed", "4", "--force")
    assert contents(out) == before


# The same bytes.


def test_a_photo_gets_the_same_bytes_alone_in_company_and_in_any_order(
    cli: Cli, tmp_path: Path, quick: Classifier
) -> None:
    photos = [
        save_photo(tmp_path / f"photos/p{number:02}.png", number, size=(20 + number, 40 - number))
        for number in range(16)
    ]
    alone: dict[str, bytes] = {}
    for photo in photos:
        assert cli("batch", photo, "-t", "random", "-e", "6", "-O", f"alone/{photo.stem}").code == 0
        alone |= pictures(tmp_path / "alone" / photo.stem)
    assert len(alone) == 32
    shuffled = random.Random(3).sample(photos, len(photos))
    for name, order, size in (("a", photos, 16), ("b", photos[::-1], 5), ("c", shuffled, 16)):
        command = ("-t", "random", "-e", "6", "--batch-size", size, "-O", name)
        assert cli("batch", *order, *command).code == 0
        assert pictures(tmp_path / name) == alone
        assert_kept(tmp_path / name, quick)


def test_batch_and_attack_write_the_same_bytes(cli: Cli, photos: list[Path], tmp_path: Path, out: Path) -> None:
    assert cli(*COMMAND).code == 0
    (tmp_path / "one").mkdir()
    assert cli("attack", photos[0], "-t", "3", "--no-figure", "-O", "one").code == 0
    assert contents(tmp_path / "one").items() <= contents(out).items()


def test_keys_tell_attacks_apart(cli: Cli, photos: list[Path], out: Path) -> None:
    assert cli("batch", photos[0], "-t", "all", "-t", "random", "-O", "out").code == 0
    assert len({key_of(record) for record in records_of(out)}) == CLASSES + 1


def test_a_photo_with_transparency_keeps_it(cli: Cli, tmp_path: Path, out: Path) -> None:
    alpha = random_photo(24, 16, 5).levels[:, :, 0]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/glass.png").write_bytes(encode_png(random_photo(24, 16).levels, alpha=alpha))
    assert cli(*COMMAND).code == 0
    with Image.open(out / "glass_class_3.png") as image:
        assert np.array_equal(np.asarray(image)[:, :, 3], alpha)
