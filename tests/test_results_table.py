"""``results.csv``: the journal of a folder as a table."""

import csv
import io
import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

import advimg
from advimg.report.results_table import COLUMNS, is_results_table, results_table
from tests.batches import COMMAND, NEVER, by_source, quick_classifier, write
from tests.conftest import Cli, linear_classifier


def table_of(folder: Path) -> list[dict[str, str]]:
    text = (folder / "results.csv").read_bytes().decode("utf-8")
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


@pytest.mark.usefixtures("quick")
def test_each_attack_has_a_row_with_what_its_record_says(cli: Cli, photos: list[Path], out: Path) -> None:
    photos[1].write_bytes(b"")
    assert cli(*COMMAND).code == 1
    rows = table_of(out)
    records = by_source(out)
    assert [row["photo"] for row in rows] == [os.path.join("..", "photos", photo.name) for photo in photos]  # noqa: PTH118
    for row, photo in zip(rows, photos, strict=True):
        record = records[photo.name]
        assert list(row) == list(COLUMNS)
        assert (row["model"], row["attacked"], row["target"]) == ("linear", "true", "class 3")
        if photo is photos[1]:
            assert row["error"] == f"{photo} is empty"
            assert {row[name] for name in COLUMNS[6:12]} == {""}
            continue
        assert row["file"] == f"{photo.stem}_class_3.png"
        for name in ("before", "after"):
            assert row[name] == record[name][0]["name"]
            assert float(row[f"{name}_confidence"]) == record[name][0]["confidence"]
        assert row["fooled"] == "true"
        for name in ("confidence", "eps", "linf", "l2", "psnr", "steps", "gradients", "seconds"):
            assert float(row[name]) == record[name]
        for name in ("ssim", "delta_e_mean"):
            assert float(row[name]) == record["visibility"][name]
        assert (row["norm"], row["attack"], row["target_rule"], row["error"]) == ("linf", "pgd", "", "")


@pytest.mark.usefixtures("quick")
def test_the_table_is_written_anew_from_the_journal(cli: Cli, photos: list[Path], out: Path) -> None:
    assert cli("batch", photos[0], "-t", "3", "-O", "out").code == 0
    assert len(table_of(out)) == 1
    assert cli(*COMMAND).code == 0
    table = (out / "results.csv").read_bytes()
    assert len(table_of(out)) == 4
    (out / "results.csv").unlink()
    assert cli(*COMMAND).code == 0  # nothing is left to attack
    assert (out / "results.csv").read_bytes() == table
    # Of the journal, not of what this command names.
    assert cli("batch", photos[0], "-t", "3", "-O", "out").code == 0
    assert (out / "results.csv").read_bytes() == table


def test_a_run_that_is_stopped_leaves_the_table_of_what_is_done(photos: list[Path], out: Path) -> None:
    stop = threading.Event()
    stats = advimg.batch(
        photos, 1, out_dir=out, model=quick_classifier(), batch_size=1, stop=stop, ended=lambda _: stop.set()
    )
    assert 1 <= stats.done < 4
    assert len(table_of(out)) == stats.done


def test_each_network_has_a_row_of_its_own(photos: list[Path], out: Path) -> None:
    one, other, watching = (
        replace(linear_classifier(classes=4, size=16, seed=seed), name=name)
        for seed, name in enumerate(("one", "other", "watching"))
    )
    advimg.batch(photos[0], 1, out_dir=out, model=[one, other], check_on=watching, settings=NEVER)
    rows = table_of(out)
    (record,) = by_source(out).values()
    assert [(row["model"], row["attacked"]) for row in rows] == [
        ("one", "true"),
        ("other", "true"),
        ("watching", "false"),
    ]
    for row, seen in zip(rows, (record, *record["ensemble"], *record["checked"]), strict=True):
        assert row["after"] == seen["after"][0]["name"]
        assert row["fooled"] == ("true" if seen["after"][0]["index"] == 1 else "false")
        assert float(row["confidence"]) == seen["confidence"]


def test_a_network_that_is_fooled_alone_is_told_from_all(photos: list[Path], out: Path) -> None:
    """The record's own ``fooled`` means every network that was attacked."""
    advimg.batch(photos[0], 1, out_dir=out, model=quick_classifier())
    (record,) = by_source(out).values()
    lost = {name: record[name] for name in ("model", "target", "before", "confidence")} | {
        "after": list(reversed(record["after"])),
        "fooled": False,
    }
    table = b"".join(results_table([record | {"ensemble": [lost], "fooled": False}], out)).decode()
    assert [row["fooled"] for row in csv.DictReader(io.StringIO(table))] == ["true", "false"]


def test_odd_names_and_reasons_read_back(photos: list[Path], out: Path) -> None:
    advimg.batch(photos[0], 1, out_dir=out, model=quick_classifier())
    (record,) = by_source(out).values()
    odd = 'a "quoted", name\r\nof two lines; =1+1'
    kept = record | {"source": str(out / "ö\udcff.jpg"), "model": odd}
    kept["after"] = [{**record["after"][0], "name": "\N{SNOWMAN},"}]
    (row,) = csv.DictReader(io.StringIO(b"".join(results_table([kept], out)).decode("utf-8"), newline=""), strict=True)
    assert (row["photo"], row["model"], row["after"]) == ("ö\\udcff.jpg", odd, "\N{SNOWMAN},")


@pytest.mark.usefixtures("quick")
def test_a_table_of_others_is_not_overwritten(cli: Cli, photos: list[Path], out: Path) -> None:
    write(out / "results.csv", b"mine\n")
    ran = cli(*COMMAND)
    assert ran.code == 1
    assert "results.csv exists and is no table of a batch; choose another -O, or --force" in ran.err
    assert (out / "results.csv").read_bytes() == b"mine\n"
    assert not (out / "results.jsonl").exists()
    assert cli(*COMMAND, "--force").code == 0
    assert len(table_of(out)) == 4


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("mark", "delimiter", "quote"), [(b"\xef\xbb\xbf", b",", b""), (b"", b";", b'"'), (b"\xef\xbb\xbf", b"\t", b'"')]
)
def test_a_table_that_a_spreadsheet_saved_does_not_stop_the_next_run(
    cli: Cli, photos: list[Path], out: Path, mark: bytes, delimiter: bytes, quote: bytes
) -> None:
    assert cli(*COMMAND).code == 0
    table = (out / "results.csv").read_bytes()
    header, rest = table.split(b"\n", 1)
    names = (quote + name + quote for name in header.rstrip(b"\r").split(b","))
    (out / "results.csv").write_bytes(mark + delimiter.join(names) + b"\r\n" + rest)
    ran = cli(*COMMAND)
    assert ran.code == 0, ran.err
    assert (out / "results.csv").read_bytes() == table


@pytest.mark.parametrize("text", ["photo,file,models\n", "photo|file|model|attacked\n", 'photo",file,model,attacked\n'])
def test_what_only_looks_like_a_table_is_none(tmp_path: Path, text: str) -> None:
    assert not is_results_table(write(tmp_path / "results.csv", text.encode()))


@pytest.mark.usefixtures("quick")
def test_a_failure_that_names_no_target_has_its_row(cli: Cli, photos: list[Path], out: Path) -> None:
    photos[1].write_bytes(b"")
    command = ("batch", "photos", "-t", "random", "-O", "out")
    assert cli(*command).code == 1
    journal = out / "results.jsonl"
    records = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    (lost,) = (each for each in records if each["error"])
    for name in ("target", "before", "after", "confidence"):
        del lost[name]
    journal.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    assert cli(*command).code == 1
    assert [(row["target_rule"], row["target"], row["fooled"]) for row in table_of(out) if row["error"]] == [
        ("random", "", "")
    ]


@pytest.mark.usefixtures("quick")
def test_true_labels_are_those_of_the_last_run(cli: Cli, photos: list[Path], out: Path) -> None:
    Path("true.csv").write_text("photo,label\nphotos/p00.jpg,class 1\n", encoding="utf-8")
    assert cli(*COMMAND, "--true-labels", "true.csv").code == 0
    assert table_of(out)[0]["true_label"] == "class 1"
    assert cli(*COMMAND).code == 0
    assert {row["true_label"] for row in table_of(out)} == {""}
