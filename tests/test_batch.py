"""``advimg batch``: which photos, which targets, which files."""

import io
import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from advimg.classifiers.classifier import Classifier
from advimg.images.decode import read_photo
from advimg.images.encode import encode_png
from tests import referee
from tests.batches import (
    CLASSES,
    COMMAND,
    assert_kept,
    assert_one_line,
    by_source,
    contents,
    key_of,
    pictures,
    records_of,
    save_photo,
    save_photos,
    sha256,
)
from tests.conftest import Cli, random_photo, sample

pytestmark = pytest.mark.usefixtures("quick")


# Results and files.


def test_a_folder_becomes_a_folder_of_results(cli: Cli, photos: list[Path], out: Path, quick: Classifier) -> None:
    ran = cli(*COMMAND)
    assert (ran.code, ran.out) == (0, "")
    assert_kept(out, quick)
    assert set(contents(out)) == {
        *(f"p0{number}_class_3.png" for number in range(4)),
        *(f"p0{number}_class_3_perturbation.png" for number in range(4)),
        "results.jsonl",
        "results.csv",
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
            "perturbation": str(out / f"p0{number}_class_3_perturbation.png"),
        }
        with Image.open(record["outputs"]["adversarial"]) as image:
            chunk = json.loads(image.info["advimg"])
        unstored = ("outputs", "seconds", "checked", "adversarial_sha256", "outputs_sha256", "stamps", "amplify")
        assert chunk == {name: value for name, value in record.items() if name not in unstored} | {"source": path.name}
    assert "4 of 4 attacks, in out" in ran.err
    assert "verified" in ran.err
    assert "100.0 %" in ran.err


def test_the_perturbation_s_picture_is_mid_grey_plus_the_multiple(cli: Cli, photos: list[Path], out: Path) -> None:
    assert cli(*COMMAND, "--amplify", "4").code == 0
    before, after = read_photo(photos[0]).levels.astype(int), read_photo(out / "p00_class_3.png").levels
    shown = read_photo(out / "p00_class_3_perturbation.png").levels
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
        (name, before[name]) for name in ("results.jsonl", "results.csv", "summary.json")
    }


def test_an_output_folder_inside_the_photos_is_not_looked_into(cli: Cli, photos: list[Path], quick: Classifier) -> None:
    inside = photos[0].parent / "out"
    for _ in range(2):
        assert cli("batch", "photos", "-r", "-t", "3", "-O", "photos/out").code == 0
        assert_kept(inside, quick)
        assert len(records_of(inside)) == 4
    before = contents(inside)
    # Files that advimg wrote elsewhere are passed over too, with a note.
    ran = cli("batch", "photos", "-r", "-t", "3", "-O", "elsewhere")
    assert ran.code == 0
    assert "8 of the files were written by advimg or are in the output folder; passed over" in ran.err
    assert contents(inside) == before


def test_a_figure_and_no_metadata_on_request(cli: Cli, tmp_path: Path, out: Path, quick: Classifier) -> None:
    save_photos(tmp_path / "photos", 1)
    assert cli(*COMMAND, "--figure", "--no-metadata").code == 0
    assert_kept(out, quick)
    assert set(pictures(out)) == {"p00_class_3.png", "p00_class_3_perturbation.png", "p00_class_3_figure.png"}
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


# Targets.


def test_each_photo_towards_each_target(
    cli: Cli, photos: list[Path], out: Path, quick: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def reading(path: Path, **options: Any) -> Any:
        read.append(path.name)
        return read_photo(path, **options)

    monkeypatch.setattr("advimg.batches.reader.read_photo", reading)
    ran = cli("batch", "photos", "-t", "0", "-t", "class_4", "-t", "least-likely", "-t", "0", "-O", "out")
    assert ran.code == 0
    assert_kept(out, quick)
    assert len(records_of(out)) == 12
    assert {name for name in pictures(out) if name.startswith("p01") and "perturbation" not in name} == {
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
