"""``advimg batch`` in a folder that an earlier run wrote to."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from advimg.batches.journal import Journal
from advimg.classifiers.classifier import Classifier
from advimg.images.decode import read_photo
from advimg.images.perturbation import shown_in
from tests.batches import (
    COMMAND,
    assert_kept,
    assert_one_line,
    by_source,
    code_of,
    contents,
    no_attack,
    pictures,
    records_of,
    save_photo,
    sha256,
)
from tests.conftest import Cli, EveryModel

pytestmark = pytest.mark.usefixtures("quick")


def test_what_is_done_is_not_done_again(
    cli: Cli, photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli(*COMMAND).code == 0
    before = contents(out)
    monkeypatch.setattr("advimg.batches.pipeline.Engine", no_attack)
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
    [(_delete, "p01_class_3.png"), (_alter, "p01_class_3.png"), (_delete, "p01_class_3_perturbation.png")],
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
    assert set(pictures(out)) == set(before) | {f"p0{number}_class_3_perturbation.png" for number in range(4)}
    assert [shown_in(out / f"p0{number}_class_3_perturbation.png") for number in range(4)] == [(5, 5)] * 4
    again = contents(out)
    assert cli(*COMMAND, "--amplify", "5").code == 0
    assert pictures(out).items() <= again.items()


def test_a_folder_of_0_1_whose_names_hold_the_factor_is_still_finished(cli: Cli, photos: list[Path], out: Path) -> None:
    assert cli(*COMMAND).code == 0
    lines = (out / "results.jsonl").read_text()
    (out / "results.jsonl").write_text(lines.replace("_perturbation.png", "_x10.png"))
    for path in out.glob("*_perturbation.png"):
        with Image.open(path) as image:
            image.copy().save(path.with_name(path.name.replace("_perturbation", "_x10")))
        path.unlink()
    ran = cli(*COMMAND)
    assert ran.code == 0
    assert "4 of 4 were done by an earlier run" in ran.err
    assert not list(out.glob("*_perturbation.png"))


def test_another_s_picture_does_not_stand_for_one_that_is_wanted(cli: Cli, photos: list[Path], out: Path) -> None:
    assert cli(*COMMAND, "--no-perturbation").code == 0
    for number in range(4):
        (out / f"p0{number}_class_3_perturbation.png").write_text("mine")
    assert_one_line(cli(*COMMAND), 1, "p00_class_3_perturbation.png", "--force")
    assert cli(*COMMAND, "--no-perturbation").code == 0
    assert (out / "p00_class_3_perturbation.png").read_text() == "mine"


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
        context.setattr("advimg.batches.pipeline.Engine", no_attack)
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
    assert forced.code == code_of(records_of(out))
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


@pytest.mark.parametrize("name", ["p02_class_3.png", "p02_class_3_perturbation.png"])
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

    monkeypatch.setattr("advimg.batches.reader.read_photo", reading)
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
    assert len(contents(out)) == len(mine) + 11


def test_a_torn_journal_is_mended(cli: Cli, photos: list[Path], out: Path, quick: Classifier) -> None:
    assert cli(*COMMAND).code == 0
    before = pictures(out)
    path = out / "results.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    torn = json.loads(lines[3])
    path.write_bytes(b"".join(lines[:3]) + lines[3][:200])
    for name in torn["outputs"].values():  # a killed run's own list of unfinished files would name them
        (out / name).unlink()
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
        (out / name).unlink()
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


# Photos are known by their content, and paths in the journal are relative to it.


def assert_nothing_is_done_again(
    cli: Cli, command: tuple[object, ...], out: Path, monkeypatch: pytest.MonkeyPatch, *, count: int = 4
) -> None:
    before = contents(out)
    with monkeypatch.context() as context:
        context.setattr("advimg.batches.pipeline.Engine", no_attack)
        ran = cli(*command)
    assert ran.code == 0
    assert f"{count} of {count} were done by an earlier run" in ran.err
    kept = ("summary.json", "results.jsonl", "results.csv")  # with the paths of today
    assert {name: data for name, data in contents(out).items() if name not in kept} == {
        name: data for name, data in before.items() if name not in kept
    }


def test_moved_and_renamed_photos_are_not_attacked_again(
    cli: Cli, photos: list[Path], tmp_path: Path, out: Path, quick: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli(*COMMAND).code == 0
    photos[0].parent.rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/p01.jpg").rename(tmp_path / "elsewhere/other.jpg")
    command = ("batch", "elsewhere", *COMMAND[2:])
    for _ in range(2):
        assert_nothing_is_done_again(cli, command, out, monkeypatch)
        assert_kept(out, quick)
        assert set(by_source(out)) == {"p00.jpg", "other.jpg", "p02.jpg", "p03.jpg"}
    save_photo(tmp_path / "elsewhere/new.jpg", 9)
    ran = cli(*command)
    assert ran.code == 0
    assert "4 of 5 were done by an earlier run" in ran.err
    assert_kept(out, quick)


def test_photos_that_change_names_keep_their_results(
    cli: Cli, photos: list[Path], out: Path, quick: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli(*COMMAND).code == 0
    photos[0].rename(photos[0].with_name("x"))
    photos[1].rename(photos[0])
    photos[0].with_name("x").rename(photos[1])
    assert_nothing_is_done_again(cli, COMMAND, out, monkeypatch)
    assert_kept(out, quick)


def test_a_photo_renamed_over_another_takes_its_place(
    cli: Cli, photos: list[Path], out: Path, quick: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli(*COMMAND).code == 0
    photos[1].rename(photos[0])
    with monkeypatch.context() as context:
        context.setattr("advimg.batches.pipeline.Engine", no_attack)
        assert cli(*COMMAND).code == 0
    assert_kept(out, quick)
    assert set(pictures(out)) == {
        f"p0{number}_class_3{end}.png" for number in (1, 2, 3) for end in ("", "_perturbation")
    }


@pytest.mark.parametrize("version", ["now", "earlier"])
def test_photos_and_results_moved_together_go_on_where_they_were(
    cli: Cli,
    photos: list[Path],
    tmp_path: Path,
    out: Path,
    quick: Classifier,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
) -> None:
    assert cli(*COMMAND).code == 0
    if version == "earlier":
        old = [{**record, "out_dir": str(out)} for record in records_of(out)]
        for record in old:
            del record["outputs_sha256"]
        (out / "results.jsonl").write_text("".join(json.dumps(record) + "\n" for record in old))
    (tmp_path / "server/deep").mkdir(parents=True)
    for folder in (photos[0].parent, out):
        shutil.move(folder, tmp_path / "server/deep")
    monkeypatch.chdir(tmp_path / "server/deep")
    moved = tmp_path / "server/deep/out"
    assert_nothing_is_done_again(cli, COMMAND, moved, monkeypatch)
    assert_kept(moved, quick)
    assert str(tmp_path) not in (moved / "results.jsonl").read_text()


def test_two_names_of_one_content_are_two_photos(cli: Cli, photos: list[Path], out: Path, quick: Classifier) -> None:
    assert cli(*COMMAND).code == 0
    shutil.copy(photos[0], photos[0].with_name("copy.jpg"))
    ran = cli(*COMMAND)
    assert "4 of 5 were done by an earlier run" in ran.err
    assert_kept(out, quick)
    assert len(records_of(out)) == 5


def test_a_refused_run_renames_nothing(cli: Cli, photos: list[Path], tmp_path: Path, out: Path) -> None:
    assert cli(*COMMAND).code == 0
    before = contents(out)
    photos[0].parent.rename(tmp_path / "elsewhere")
    assert_one_line(cli("batch", "elsewhere", *COMMAND[2:], "--seed", "5"), 1, "seed 0 there, 5 here")
    assert contents(out) == before


def test_a_failure_is_tried_again_once_its_option_changes(
    cli: Cli, photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_photo(photos[1], size=(100, 100))
    assert cli(*COMMAND, "--max-pixels", "5000").code == 1
    before = (out / "results.jsonl").read_bytes()
    with monkeypatch.context() as context:
        context.setattr("advimg.batches.pipeline.Engine", no_attack)
        assert cli(*COMMAND, "--max-pixels", "5000").code == 1
    assert (out / "results.jsonl").read_bytes() == before
    ran = cli(*COMMAND)
    assert ran.code == 0
    assert "3 of 4 were done by an earlier run" in ran.err
    records = records_of(out)
    records[0] = records[0] | {"error": "out of memory; try --device cpu", "fooled": False, "outputs": {}}
    records[0]["tried_with"] = {"max_pixels": 100_000_000, "device": "cuda", "force": False}
    for path in out.glob(f"{Path(records[0]['source']).stem}*"):
        path.unlink()
    (out / "results.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    ran = cli(*COMMAND)
    assert ran.code == 0
    assert "3 of 4 were done by an earlier run" in ran.err


def test_a_photo_that_is_attacked_anew_keeps_its_figure(
    cli: Cli, photos: list[Path], out: Path, quick: Classifier
) -> None:
    assert cli("batch", photos[0], "-t", "3", "-O", "out", "--figure").code == 0
    before = contents(out)
    save_photo(photos[0], 77)
    assert cli("batch", photos[0], "-t", "3", "-O", "out", "--no-perturbation").code == 0
    assert_kept(out, quick)
    after = contents(out)
    assert set(after) == set(before)
    assert after["p00_class_3_figure.png"] != before["p00_class_3_figure.png"]
