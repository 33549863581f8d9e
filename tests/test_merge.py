"""``advimg merge``: the results of shards, and of other folders, as one."""

import csv
import json
import os
import shutil
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import advimg
from advimg.batches.journal import read_attacks, store_of
from advimg.batches.journal_lines import line_of
from advimg.batches.merge import Merged, merge
from advimg.classifiers.classifier import Classifier
from advimg.errors import OutputError, UsageError
from tests.batches import (
    absolute_paths,
    assert_one_line,
    contents,
    journal_lines,
    no_attack,
    pictures,
    records_of,
    save_photo,
    sha256,
    write,
)
from tests.conftest import Cli, Ran

pytestmark = pytest.mark.usefixtures("quick")

BATCH = ("batch", "photos", "-t", "3", "--no-perturbation", "-O", "out")
MERGED = ("results.jsonl", "results.csv", "summary.json")
Change = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Write four photos, of which each of two shards has two, and the third of four none."""
    return [save_photo(tmp_path / "photos" / f"{name}.jpg", seed) for seed, name in enumerate("bdfh")]


@pytest.fixture
def run(cli: Cli, photos: list[Path]) -> Callable[..., list[Ran]]:
    """Run shards: ``run("1/2", "2/2")``."""

    def shards(*names: str, options: tuple[str, ...] = ()) -> list[Ran]:
        return [cli(*BATCH, *options, "--shard", name) for name in names]

    return shards


def edited(folder: Path, change: Change) -> None:
    """Change each record of a journal."""
    records = [change(record) for record in records_of(folder)]
    (folder / "results.jsonl").write_bytes(b"".join(line_of(record, folder) for record in records))


def sources(records: list[dict[str, Any]]) -> list[str]:
    return [Path(record["source"]).name for record in records]


def test_shards_become_one_folder_of_results(cli: Cli, run: Callable[..., list[Ran]], out: Path) -> None:
    assert [ran.code for ran in run("1/2", "2/2")] == [0, 0]
    before = contents(out)
    ran = cli("merge", "out")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err.splitlines() == [
        "4 of 4 attacks of 2 shards, in out",
        "  verified          4",
        "  not reached       0",
        "  failed            0",
    ]
    after = contents(out)
    assert {name: data for name, data in after.items() if name not in MERGED} == before
    shards = [out / f"shard-{number}-of-2" for number in (1, 2)]
    assert records_of(out) == [record for shard in shards for record in records_of(shard)]
    lines = {line["source"]: line["outputs"] for line in map(json.loads, journal_lines(out))}
    assert lines == {
        f"../photos/{name}.jpg": {"adversarial": f"shard-{number}-of-2/{name}_class_3.png"}
        for name, number in zip("bdfh", (1, 1, 2, 2), strict=True)
    }


def test_the_table_and_the_sum_are_those_that_one_batch_writes(
    cli: Cli, run: Callable[..., list[Ran]], out: Path
) -> None:
    run("1/2", "2/2")
    assert cli("merge", "out").code == 0
    summary, table = json.loads((out / "summary.json").read_text()), (out / "results.csv").read_text()
    assert cli(*BATCH[:-1], "whole").code == 0
    whole = json.loads(Path("whole/summary.json").read_text())
    counts = ("advimg", "total", "verified", "not_reached", "failed", "unfinished", "gradients_each", "delta_e_mean")
    settings = (
        "model",
        "weights_sha256",
        "view",
        "min_confidence",
        "max_steps",
        "loss",
        "seed",
        "norm",
        "checked_fooled",
    )
    assert {name: summary[name] for name in counts + settings} == {name: whole[name] for name in counts + settings}
    assert not {"seconds", "per_second", "earlier"} & set(summary)
    assert summary["eps"] == [whole["eps"]] == [10]
    assert (summary["folders"], summary["shards"]) == (["shard-1-of-2", "shard-2-of-2"], ["1/2", "2/2"])
    rows = [list(csv.DictReader(text.splitlines())) for text in (table, Path("whole/results.csv").read_text())]
    for row in rows[0]:
        row["file"] = row["file"].partition("/")[2]
    assert [{**row, "seconds": ""} for row in rows[0]] == [{**row, "seconds": ""} for row in rows[1]]


def test_the_same_again_is_the_same_bytes(cli: Cli, run: Callable[..., list[Ran]], out: Path) -> None:
    run("1/2", "2/2")
    cli("merge", "out")
    before = contents(out)
    assert cli("merge", "out", "--check").code == 0
    assert cli("merge", "out/shard-2-of-2", "out/shard-1-of-2", "out/shard-1-of-2/.").code == 0
    assert json.loads((out / "summary.json").read_text())["folders"] == ["shard-2-of-2", "shard-1-of-2"]
    assert cli("merge", "out").code == 0
    assert contents(out) == before


def test_a_shard_that_is_not_there_is_missing_until_it_is(cli: Cli, run: Callable[..., list[Ran]], out: Path) -> None:
    run("1/4", "4/4")
    ran = cli("merge", "out", "--json")
    assert ran.code == 1
    assert "  missing           1" in ran.err.splitlines()
    assert "  missing: shards 2/4, 3/4" in ran.err.splitlines()
    summary = json.loads(ran.out)
    assert summary == json.loads((out / "summary.json").read_text())
    assert (summary["total"], summary["verified"], summary["unfinished"], summary["missing"]) == (4, 3, 1, 1)
    assert (summary["absent"], summary["missing_attacks"]) == (["2/4", "3/4"], [])
    run("2/4")
    # The third has no photo, so that it never began does not matter.
    ran = cli("merge", "out", "--json")
    assert (ran.code, json.loads(ran.out)["absent"], json.loads(ran.out)["missing"]) == (0, [], 0)
    run("3/4")
    ran = cli("merge", "out", "--json")
    assert (ran.code, json.loads(ran.out)["shards"]) == (0, ["1/4", "2/4", "3/4", "4/4"])


def test_attacks_without_a_record_are_named_and_a_batch_goes_on_with_them(
    cli: Cli, run: Callable[..., list[Ran]], out: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("1/2", "2/2")
    shard = out / "shard-1-of-2"
    lines = sorted(journal_lines(shard), key=lambda line: json.loads(line)["source"])
    (shard / "results.jsonl").write_bytes(lines[0] + lines[1][:-5])  # as while it is written
    (shard / "d_class_3.png").unlink()
    ran = cli("merge", "out", "--json")
    assert ran.code == 1
    assert "  missing: photos/d.jpg, target 3, eps 10" in ran.err.splitlines()
    summary = json.loads(ran.out)
    assert summary["missing_attacks"] == [{"source": str(photos[1]), "target": 3, "eps": 10}]
    assert (summary["missing"], summary["total"], summary["verified"]) == (1, 4, 3)
    before = contents(shard)
    ran = cli(*BATCH)
    assert ran.code == 0
    assert "3 of 4 were done by an earlier run" in ran.err
    assert contents(shard) == before
    assert {path.name for path in out.iterdir()} == {*MERGED, "shard-1-of-2", "shard-2-of-2", "d_class_3.png"}
    # What the batch has made in the merged folder itself stays in its journal.
    ran = cli("merge", "out")
    assert (ran.code, "missing" in ran.err, "double" in ran.err) == (0, False, False)
    assert sorted(sources(records_of(out))) == ["b.jpg", "d.jpg", "f.jpg", "h.jpg"]
    before = contents(out)
    assert cli("merge", "out").code == 0
    assert contents(out) == before
    monkeypatch.setattr("advimg.batches.pipeline.Engine", no_attack)
    assert cli(*BATCH).code == 0


def test_what_a_batch_made_for_an_absent_shard_is_not_missing(
    cli: Cli, run: Callable[..., list[Ran]], out: Path
) -> None:
    run("1/2")
    assert cli("merge", "out").code == 1
    assert cli(*BATCH).code == 0
    ran = cli("merge", "out", "--json")
    assert (ran.code, json.loads(ran.out)["missing"], json.loads(ran.out)["absent"]) == (0, 0, [])


def test_a_record_that_counts_twice_is_named_and_the_best_is_kept(
    cli: Cli, run: Callable[..., list[Ran]], out: Path, tmp_path: Path
) -> None:
    assert cli(*BATCH[:-1], "first").code == 0
    assert cli(*BATCH[:-1], "second").code == 0

    def worse(record: dict[str, Any]) -> dict[str, Any]:
        name = Path(record["source"]).name
        if name == "b.jpg":  # not reached in the first: the second counts
            return record | {"fooled": False}
        if name == "d.jpg":
            return record | {"error": "broken", "outputs": {}, "outputs_sha256": {}, "adversarial_sha256": None}
        return record

    edited(tmp_path / "first", worse)
    edited(tmp_path / "second", lambda each: each | {"fooled": Path(each["source"]).name not in ("d.jpg", "f.jpg")})
    ran = cli("merge", "first", "second", "--json")
    summary = json.loads(ran.out)
    assert ran.code == 3  # d.jpg was not reached in the second, which is better than a failure
    assert (summary["double"], summary["total"], summary["verified"], summary["not_reached"]) == (4, 4, 3, 1)
    kept = {Path(each["source"]).name: (each["kept"], each["other"]) for each in summary["double_attacks"]}
    assert kept == {
        "b.jpg": ("second", "first"),
        "d.jpg": ("second", "first"),
        "f.jpg": ("first", "second"),
        "h.jpg": ("first", "second"),
    }
    assert "  double: photos/b.jpg, target 3, eps 10: that of second counts, not that of first" in ran.err.splitlines()
    assert sorted(sources(records_of(tmp_path))[:2]) == ["f.jpg", "h.jpg"]
    assert sorted(sources(records_of(tmp_path))[2:]) == ["b.jpg", "d.jpg"]
    before = contents(tmp_path)
    assert cli("merge", "first", "second").code == 3
    assert contents(tmp_path) == before


def test_only_some_of_many_are_named(cli: Cli, tmp_path: Path) -> None:
    for number in range(12):
        save_photo(tmp_path / "many" / f"{number:02}.jpg", number)
    for name in ("first", "second"):
        assert cli("batch", "many", "-t", "3", "--no-perturbation", "-O", name).code == 0
    for picture in (tmp_path / "first").glob("*.png"):
        picture.unlink()
    ran = cli("merge", "first", "second")
    assert ran.code == 1
    lines = [line.strip() for line in ran.err.splitlines()]
    for what in ("double", "file gone or altered"):
        assert sum(line.startswith(f"{what}: ") for line in lines) == 11
        assert f"{what}: and 2 more" in lines


@pytest.mark.parametrize("options", [("--seed", "4"), ("--eps", "9"), ("--steps", "7")])
def test_other_settings_are_refused(
    cli: Cli, run: Callable[..., list[Ran]], out: Path, options: tuple[str, ...]
) -> None:
    run("1/2")
    run("2/2", options=options)
    before = contents(out)
    name = {"--steps": "max_steps"}.get(options[0], options[0][2:])
    assert_one_line(cli("merge", "out"), 1, "shard-2-of-2 has other settings", f"{name} {options[1]} there")
    assert contents(out) == before


def test_another_plan_of_the_same_settings_is_told_of(
    cli: Cli, run: Callable[..., list[Ran]], out: Path, photos: list[Path]
) -> None:
    run("1/2")
    save_photo(photos[0].with_name("g.jpg"), 30)  # of the second
    run("2/2")
    ran = cli("merge", "out", "--json")
    assert (ran.code, json.loads(ran.out)["total"], json.loads(ran.out)["plans"]) == (0, 5, 2)
    assert "the shards have 2 different plans" in ran.err


def test_a_table_with_several_eps_is_one_plan(cli: Cli, photos: list[Path], out: Path, tmp_path: Path) -> None:
    rows = [f"photos/{photo.name},3,{eps}" for photo, eps in zip(photos, (10, 10, 12, 14), strict=True)]
    (tmp_path / "pairs.csv").write_text("\n".join(["path,target,eps", *rows]) + "\n")
    for number in (1, 2):
        assert cli("batch", "--targets", "pairs.csv", "-O", "out", "--shard", f"{number}/2").code == 0
    assert cli("merge", "out").code == 0
    assert sorted(record["eps"] for record in records_of(out)) == [10, 10, 12, 14]


def test_files_that_are_gone_or_altered(cli: Cli, run: Callable[..., list[Ran]], out: Path) -> None:
    run("1/2", "2/2")
    altered, gone = out / "shard-1-of-2" / "b_class_3.png", out / "shard-2-of-2" / "f_class_3.png"
    altered.write_bytes(altered.read_bytes() + b"x")
    gone.unlink()
    ran = cli("merge", "out", "--json")
    assert (ran.code, json.loads(ran.out)["gone_files"]) == (1, ["shard-2-of-2/f_class_3.png"])
    ran = cli("merge", "out", "--check", "--json")
    assert ran.code == 1
    assert json.loads(ran.out)["gone"] == 2
    assert sorted(json.loads(ran.out)["gone_files"]) == ["shard-1-of-2/b_class_3.png", "shard-2-of-2/f_class_3.png"]
    assert "  file gone or altered: out/shard-1-of-2/b_class_3.png" in ran.err.splitlines()


def test_failures_and_files_that_are_not_the_target_have_the_codes_of_a_batch(
    cli: Cli, run: Callable[..., list[Ran]], photos: list[Path]
) -> None:
    run("1/2", "2/2", options=("-e", "1", "--steps", "2"))
    assert cli("merge", "out").code == 3
    photos[0].write_bytes(b"")
    run("1/2", options=("-e", "1", "--steps", "2"))
    ran = cli("merge", "out")
    assert ran.code == 1
    assert f"  failed: {photos[0]} is empty" in ran.err.splitlines()
    assert cli("merge", "out", "-q").err == ""


def test_keys_of_a_line_that_are_not_known_stay(cli: Cli, run: Callable[..., list[Ran]], out: Path) -> None:
    run("1/2", "2/2")
    shard = out / "shard-1-of-2"
    edited(shard, lambda record: record | {"stamps": {"source": "1-2-3"}, "later": [None, {"a": 0.1}]})
    assert cli("merge", "out").code == 0
    there, here = (json.loads(journal_lines(folder)[0]) for folder in (shard, out))
    assert list(here) == list(there)
    paths = ("source", "outputs")
    assert {name: here[name] for name in here if name not in paths} == {
        name: there[name] for name in there if name not in paths
    }
    assert absolute_paths(here, out) == absolute_paths(there, shard)


def test_the_merged_folder_is_one_for_all_commands(cli: Cli, run: Callable[..., list[Ran]], out: Path) -> None:
    run("1/2", "2/2")
    assert cli("merge", "out").code == 0
    assert cli("report", "out").code == 0
    page = (out / "report" / "index.html").read_text()
    assert "../shard-1-of-2/b_class_3.png" in page
    assert len(read_attacks(out)) == 4


def test_a_sweep_reads_what_was_merged(
    cli: Cli, photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = ("sweep", "-t", "3", "-e", "8,9")
    parts = tmp_path / "robustness" / "efficientnet_lite1"
    for number, half in ((1, photos[:2]), (2, photos[2:])):
        assert cli(*sweep, *half, "-m", "efficientnet_lite1", "-O", f"part{number}").code == 0
        (source,) = [path for path in (tmp_path / f"part{number}").iterdir() if path.is_dir()]
        shutil.copytree(source, parts / f"part{number}")
    assert cli("merge", parts / "part1", parts / "part2").code == 0
    monkeypatch.setattr("advimg.batches.pipeline.Engine", no_attack)
    ran = cli(*sweep, *photos, "-m", "efficientnet_lite1", "-O", "robustness", "--json")
    assert ran.code == 0
    assert [point["files"] for point in json.loads(ran.out)] == [4, 4]


def test_shards_that_are_done_again_take_the_place_of_what_was_merged(
    cli: Cli, run: Callable[..., list[Ran]], out: Path, photos: list[Path]
) -> None:
    photos[0].write_bytes(b"")
    run("1/2", "2/2")
    assert cli("merge", "out").code == 1
    save_photo(photos[0], 0)
    assert [ran.code for ran in run("1/2", "2/2", options=("--eps", "9", "--force"))] == [0, 0]
    ran = cli("merge", "out", "--json")
    assert (ran.code, json.loads(ran.out)["total"], json.loads(ran.out)["double"]) == (0, 4, 0)
    assert {record["eps"] for record in records_of(out)} == {9}


def test_a_file_of_a_shard_that_a_later_batch_made_anew_keeps_its_record(
    cli: Cli, run: Callable[..., list[Ran]], out: Path
) -> None:
    run("1/2", "2/2")
    cli("merge", "out")
    file = out / "shard-1-of-2" / "b_class_3.png"
    before = file.read_bytes()
    save_photo(Path("photos/b.jpg"), 50)
    assert cli(*BATCH).code == 0
    assert file.read_bytes() != before
    ran = cli("merge", "out", "--check", "--json")
    assert (ran.code, json.loads(ran.out)["double"]) == (0, 0)
    (record,) = [each for each in records_of(out) if Path(each["source"]).name == "b.jpg"]
    assert record["adversarial_sha256"] == sha256(file)


def test_lines_that_are_no_records(cli: Cli, run: Callable[..., list[Ran]], out: Path) -> None:
    run("1/2", "2/2")
    with (out / "shard-1-of-2" / "results.jsonl").open("ab") as file:
        file.write(b'{"note": 1}\n\0\0\n')
    ran = cli("merge", "out")
    assert ran.code == 0
    assert "shard-1-of-2/results.jsonl: no record in line 3" in ran.err
    with (out / "results.jsonl").open("ab") as file:
        file.write(b'{"note": 2}\n')
    assert cli("merge", "out").code == 0
    assert journal_lines(out)[4:] == [b'{"note": 2}\n']


def test_a_shard_without_its_plan_is_not_known_to_be_whole(cli: Cli, run: Callable[..., list[Ran]], out: Path) -> None:
    run("1/2", "2/2")
    (out / "shard-1-of-2" / "shard.json").unlink()
    ran = cli("merge", "out")
    assert ran.code == 1
    assert "missing: out/shard-1-of-2 has no shard.json" in ran.err
    (out / "shard-2-of-2" / "shard.json").unlink()
    shutil.rmtree(out / "shard-1-of-2")
    ran = cli("merge", "out")
    assert (ran.code, "  missing: shard 1/2" in ran.err.splitlines()) == (1, True)


def _nothing(out: Path) -> None:
    out.mkdir()


def _other_shards(out: Path) -> None:
    (out / "shard-1-of-2").mkdir(parents=True)


def _foreign(out: Path) -> None:
    write(out / "shard-1-of-2" / "results.jsonl", b"hello\n")


def _foreign_without_an_end(out: Path) -> None:
    write(out / "shard-1-of-2" / "results.jsonl", b"hello")


def _no_share(out: Path) -> None:
    write(out / "shard-1-of-2" / "shard.json", b"{}")


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda _: None, "cannot read"),
        (_nothing, "holds no folder of a shard"),
        (_other_shards, "holds no folder of a shard"),
        (_foreign, "is no journal of advimg batch"),
        (_foreign_without_an_end, "is no journal of advimg batch"),
        (_no_share, "is not what advimg batch --shard writes"),
    ],
)
def test_what_is_no_result_is_one_line(cli: Cli, out: Path, prepare: Callable[[Path], None], message: str) -> None:
    prepare(out)
    before = contents(out)
    assert_one_line(cli("merge", "out"), 1, message)
    assert contents(out) == before


def test_several_folders_all_have_to_be_results(cli: Cli, run: Callable[..., list[Ran]], tmp_path: Path) -> None:
    run("1/2", "2/2")
    assert_one_line(cli("merge", "out/shard-1-of-2", "photos"), 1, "photos holds no journal", "give folders")
    assert_one_line(cli("merge", "out/shard-1-of-2", "out"), 1, "out holds no journal", "merge its shards first")
    assert_one_line(cli("merge", "out/shard-1-of-2", "nowhere"), 1, "nowhere holds no journal")
    assert_one_line(cli("merge", "out/shard-1-of-2", "out/shard-2-of-2", "-O", "photos"), 2, "-O photos has to be")
    assert_one_line(cli("merge", "out", "-O", "out/shard-1-of-2"), 2, "has to be a folder that holds")
    assert not [name for name in MERGED if (tmp_path / name).exists()]
    assert cli("merge", "out/shard-1-of-2", "out/shard-2-of-2", "-O", ".").code == 0
    assert len(records_of(tmp_path)) == 4


def test_the_folder_of_a_shard_is_never_written_to(cli: Cli, run: Callable[..., list[Ran]], out: Path) -> None:
    run("1/2", "2/2")
    shutil.copytree(out / "shard-2-of-2", out / "shard-1-of-2" / "inner")
    assert_one_line(cli("merge", "out/shard-1-of-2", "out/shard-1-of-2/inner"), 1, "is the folder of a shard")


def test_no_folder_is_the_help_and_an_error_in_python(cli: Cli) -> None:
    assert cli("merge").code == 2
    with pytest.raises(UsageError, match="which folders"):
        merge([])


def test_files_of_others_are_not_overwritten(cli: Cli, run: Callable[..., list[Ran]], out: Path) -> None:
    run("1/2", "2/2")
    write(out / "summary.json", b"mine")
    assert_one_line(cli("merge", "out"), 1, "summary.json exists and is no summary of a batch")
    assert sorted(path.name for path in out.iterdir()) == ["shard-1-of-2", "shard-2-of-2", "summary.json"]
    assert cli("merge", "out", "--force").code == 0
    write(out / "results.jsonl", b"mine\n")
    assert_one_line(cli("merge", "out", "--force"), 1, "results.jsonl is no journal of advimg batch")
    assert (out / "results.jsonl").read_bytes() == b"mine\n"


def test_a_batch_in_the_merged_folder_is_waited_for_and_one_in_a_shard_is_not(
    cli: Cli, run: Callable[..., list[Ran]], out: Path
) -> None:
    run("1/2", "2/2")
    with store_of(out).locked():
        assert_one_line(cli("merge", "out"), 1, "another advimg batch is writing to")
    with store_of(out / "shard-1-of-2").locked():
        assert cli("merge", "out").code == 0
    assert not list(out.glob(".advimg*"))


@pytest.mark.parametrize("place", ["line_of", "results_table"])
def test_ctrl_c_leaves_only_whole_files(
    cli: Cli, run: Callable[..., list[Ran]], out: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    run("1/2")
    cli("merge", "out")
    run("2/2")
    before = contents(out)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"advimg.batches.merge.{place}", interrupt)
        ran = cli("merge", "out")
        assert (ran.code, ran.out, ran.err.strip()) == (130, "", "advimg: interrupted")
    after = contents(out)
    changed = {name for name in after if after[name] != before.get(name)}
    assert (changed, before.keys() - after.keys()) == ({"results.jsonl"} if place == "results_table" else set(), set())
    assert cli("merge", "out").code == 0
    assert len(records_of(out)) == 4


def test_a_journal_that_is_replaced_meanwhile_is_one_line(
    cli: Cli, run: Callable[..., list[Ran]], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("1/2", "2/2")
    counted = advimg.batches.merge._counted  # type: ignore[attr-defined]

    def replaced(*arguments: Any) -> Merged:
        path = out / "shard-1-of-2" / "results.jsonl"
        path.write_bytes(b"".join(reversed(journal_lines(path.parent))))
        result: Merged = counted(*arguments)
        return result

    monkeypatch.setattr("advimg.batches.merge._counted", replaced)
    assert_one_line(cli("merge", "out"), 1, "was changed while it was merged; run advimg merge again")
    assert not (out / "results.jsonl").exists()


def test_the_memory_grows_with_keys_and_not_with_records(
    cli: Cli, run: Callable[..., list[Ran]], out: Path, tmp_path: Path
) -> None:
    run("1/2", "2/2")
    shard = out / "shard-1-of-2"
    record = records_of(shard)[0] | {"padding": "x" * 20_000}
    lines = [line_of(record | {"source": f"/photos/{number}.jpg"}, shard) for number in range(600)]
    (shard / "results.jsonl").write_bytes(b"".join(lines))
    tracemalloc.start()
    try:
        merged = merge([out], warn=lambda _: None)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert merged.stats.done == 602
    assert (out / "results.jsonl").stat().st_size > 12_000_000
    assert most < 6_000_000  # keys, and the lines of the table


def test_python_merges_too(photos: list[Path], out: Path, quick: Classifier) -> None:
    for number in (1, 2):
        advimg.batch(photos, 3, out_dir=out, model=quick, shard=f"{number}/2", perturbation=False)
    merged = advimg.merge(out)
    assert (merged.stats.verified, merged.missing, merged.exit_code) == (4, 0, 0)
    assert list(map(str, merged.shards)) == ["1/2", "2/2"]
    before = pictures(out)
    stats = advimg.batch(photos, 3, out_dir=out, model=quick, perturbation=False)
    assert (stats.earlier, pictures(out)) == (4, before)
    with pytest.raises(OutputError, match="holds no folder of a shard"):
        advimg.merge(out / "shard-1-of-2")


def test_the_command_imports_no_torch() -> None:
    code = "import sys, advimg.batches.merge; sys.exit('torch' in sys.modules)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0
