"""The blind test of a folder: which pairs it asks, and what it keeps from telling."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advimg.batches.journal import read_records
from advimg.classifiers.classifier import Classifier
from advimg.errors import OutputError
from advimg.images.decode import read_photo
from advimg.report import quiz
from advimg.report.quiz import write_quiz
from advimg.storage.url import Place
from tests.batches import attack_all, save_photos
from tests.conftest import Cli


@pytest.fixture
def folder(tmp_path: Path, quick: Classifier) -> Path:
    attack_all(save_photos(tmp_path / "photos", 3), tmp_path / "out", quick)
    return tmp_path / "out"


def pairs_in(written: Place) -> list[tuple[Path, Path]]:
    """Return the copies of photo and file of each pair."""
    page = Path(str(written))
    found = re.findall(r'data-photo="(.+?)" data-file="(.+?)"', page.read_text(encoding="utf-8"))
    return [(page.parent / photo, page.parent / file) for photo, file in found]


def test_the_copies_are_both_pictures_pixel_for_pixel_and_their_names_tell_nothing(folder: Path) -> None:
    records = read_records(folder)
    page = write_quiz(records, folder, force=False)
    assert page == folder / "report" / "quiz.html"
    pairs = pairs_in(page)
    assert len(pairs) == 3
    shown = {tuple(read_photo(path).levels.tobytes() for path in pair) for pair in pairs}
    assert shown == {
        tuple(read_photo(path).levels.tobytes() for path in (record["source"], record["outputs"]["adversarial"]))
        for record in records
    }
    for path in (each for pair in pairs for each in pair):
        assert re.fullmatch(r"[0-9a-f]{32}\.png", path.name)
        with Image.open(path) as image:
            assert image.info == {}
    assert {path for pair in pairs for path in pair} == set((folder / "report" / "quiz").iterdir())


def test_what_is_not_reached_unchanged_failed_or_gone_is_not_asked_and_no_photo_twice(folder: Path) -> None:
    first, second, third = read_records(folder)
    unchanged = third | {"linf": 0}
    again = first | {"adversarial_sha256": second["adversarial_sha256"], "outputs": second["outputs"]}
    records = [first, again, second | {"fooled": False}, third | {"error": "broken"}, unchanged]
    assert len(pairs_in(write_quiz(records, folder, force=False))) == 1
    assert len(list((folder / "report" / "quiz").iterdir())) == 2
    Path(first["source"]).unlink()
    with pytest.raises(OutputError, match="nothing to ask"):
        write_quiz(records, folder, force=False)


def test_there_are_so_many_pairs_at_most(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiz, "_MOST", 2)
    assert len(pairs_in(write_quiz(read_records(folder), folder, force=False))) == 2


def test_a_page_of_others_is_left_alone(folder: Path) -> None:
    page = folder / "report" / "quiz.html"
    page.parent.mkdir()
    page.write_text("mine")
    with pytest.raises(OutputError, match="not of advimg"):
        write_quiz(read_records(folder), folder, force=False)
    assert page.read_text() == "mine"
    write_quiz(read_records(folder), folder, force=True)
    write_quiz(read_records(folder), folder, force=False)
    assert page.read_text() != "mine"


def test_the_command_writes_both_pages(cli: Cli, folder: Path) -> None:
    ran = cli("report", folder, "--quiz", "--json")
    assert ran.code == 0
    said = json.loads(ran.out)
    assert said["quiz"] == str(folder / "report" / "quiz.html")
    assert Path(said["quiz"]).is_file()
    assert Path(said["report"]).is_file()
    assert "quiz" not in json.loads(cli("report", folder, "--json").out)


def test_the_copy_of_a_transparent_photo_keeps_its_alpha(tmp_path: Path, quick: Classifier) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (16, 24, 4), dtype=np.uint8)
    (tmp_path / "photos").mkdir()
    Image.fromarray(levels).save(tmp_path / "photos" / "a.png")
    attack_all([tmp_path / "photos" / "a.png"], tmp_path / "out", quick)
    ((photo, file),) = pairs_in(write_quiz(read_records(tmp_path / "out"), tmp_path / "out", force=False))
    for path in (photo, file):
        alpha = read_photo(path).alpha
        assert alpha is not None
        assert np.array_equal(alpha, levels[:, :, 3])
