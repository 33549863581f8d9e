"""``advimg batch``: exit codes, and what is printed."""

import io
import json
from pathlib import Path

import pytest

from advimg.classifiers.classifier import Classifier
from tests.batches import COMMAND, assert_kept, assert_one_line, records_of, save_photo
from tests.conftest import Cli

pytestmark = pytest.mark.usefixtures("quick")


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


def test_json_prints_the_journal_s_records_with_absolute_paths(
    cli: Cli, photos: list[Path], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advimg.cli.progress._PLAIN_EVERY", 0)
    photos[1].write_bytes(b"")
    ran = cli(*COMMAND, "--json")
    assert ran.code == 1
    assert " of 4, " not in ran.err  # the lines tell how far it is
    assert list(map(json.loads, ran.out.splitlines())) == records_of(out)
    # Only what this run did.
    save_photo(photos[1].with_name("new.jpg"), 9)
    ran = cli(*COMMAND, "--json")
    assert list(map(json.loads, ran.out.splitlines())) == records_of(out)[4:]
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


def test_a_long_list_of_missing_photos_is_counted(cli: Cli, photos: list[Path], tmp_path: Path) -> None:
    missing = "".join(f"missing{number}.jpg\n" for number in range(300))
    (tmp_path / "list.txt").write_text(f"{photos[0]}\n{missing}")
    ran = cli("batch", "--from-file", "list.txt", "-t", "3", "-O", "out")
    assert ran.code == 1
    lines = ran.err.splitlines()
    assert sum(line.startswith("advimg: ") and "does not exist" in line for line in lines) == 50
    assert lines.count("advimg: more than 50 failed; summary.json has the reasons of all") == 1
    assert any(line.split() == ["failed", "300", "99.7", "%"] for line in lines)
