"""``advimg report``: what the gallery shows, what it reuses, what it leaves alone."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from advimg.batches.journal import Journal, read_records
from advimg.batches.photos import find_photos
from advimg.classifiers.classifier import Classifier
from advimg.errors import OutputError
from advimg.report.gallery import Gallery, write_gallery
from advimg.report.histogram import of_confidences, of_numbers
from advimg.storage.places import read_bytes
from advimg.storage.url import Place
from tests.batches import attack_all, contents, quick_classifier, records_of, save_photo, save_photos
from tests.conftest import Cli, EveryModel


class Page(HTMLParser):
    """The elements of a page: names, attributes and the text that follows each."""

    def __init__(self, page: Place) -> None:
        super().__init__()
        path = Path(str(page))
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.path = path
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data.strip())

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        names = {key.rstrip("_"): value for key, value in wanted.items()}
        return [found for name, found in self.elements if name == tag and names.items() <= found.items()]

    @property
    def cards(self) -> list[dict[str, str | None]]:
        return self.all("li", class_="card")

    @property
    def linked(self) -> list[Path]:
        """The files that the page shows or leads to."""
        named = [found["src"] for found in self.all("img")] + [found["href"] for found in self.all("a")]
        return [self.path.parent / unquote(name) for name in named if name is not None]


@pytest.fixture(scope="module")
def quick() -> Classifier:
    return quick_classifier()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, quick: Classifier) -> Path:
    """Three photos and one that is broken, and the results in ``out``."""
    folder = tmp_path_factory.mktemp("made")
    photos = save_photos(folder / "photos", 3)
    broken = folder / "photos" / "broken.jpg"
    broken.write_bytes(b"no picture")
    attack_all([*photos, broken], folder / "out", quick)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the photos and the results, elsewhere."""
    for name in ("photos", "out"):
        shutil.copytree(made / name, tmp_path / name)
    yield tmp_path / "out"
    shutil.rmtree(tmp_path / "out")


def write(folder: Path) -> tuple[Gallery, Page]:
    written = write_gallery(read_records(folder), folder, force=False)
    return written, Page(written.page)


def one_of(folder: Path) -> dict[str, Any]:
    """Return a record of an attack that did not fail."""
    return next(record for record in read_records(folder) if record["error"] is None)


def change(folder: Path, **fields: Any) -> None:
    """Write other values into each record of a journal."""
    lines = [json.dumps(record | fields) + "\n" for record in stored(folder)]
    (folder / "results.jsonl").write_text("".join(lines), encoding="ascii")


def stored(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a journal as they are."""
    return [json.loads(line) for line in (folder / "results.jsonl").read_text("ascii").splitlines()]


# The journal, read without being touched.


def test_a_journal_is_read_while_a_batch_writes_it(folder: Path) -> None:
    with Journal.opened(folder):
        with (folder / "results.jsonl").open("ab") as file:
            file.write(b'{"advimg": "0", "sou')
        before = contents(folder)
        records = read_records(folder)
        assert contents(folder) == before
    assert len(records) == 4


def test_a_folder_that_was_moved_is_read_with_its_paths_of_today(folder: Path, made: Path) -> None:
    before = (folder / "results.jsonl").read_bytes()
    for record in read_records(folder):
        for path in record["outputs"].values():
            assert Path(path).parent == folder
            assert Path(path).exists()
    assert (folder / "results.jsonl").read_bytes() == before
    assert read_records(folder) != records_of(made / "out")


def test_the_last_record_of_an_attack_counts(folder: Path) -> None:
    again = records_of(folder)[0] | {"seconds": 12345.0}
    with (folder / "results.jsonl").open("a", encoding="ascii") as file:
        file.write(json.dumps(again) + "\n")
    records = read_records(folder)
    assert len(records) == 4
    assert records[0]["seconds"] == 12345.0


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist; give a folder"), (b"[1]\n", "is no journal"), (b'{"advimg": 1}\n', "is no journal")],
)
def test_what_is_no_journal_is_one_line(cli: Cli, tmp_path: Path, content: bytes | None, message: str) -> None:
    (tmp_path / "out").mkdir()
    if content is not None:
        (tmp_path / "out" / "results.jsonl").write_bytes(content)
    ran = cli("report", "out")
    assert ran.code == 1
    (line,) = ran.err.splitlines()
    assert message in line
    assert not Path("out/report").exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"before": [{"index": "x"}]},
        {"size": [0, 0]},
        {"confidence": None},
        {"confidence": 1e308},
        {"after": []},
        {"eps": []},
        {"eps": {}},
        {"eps": float("inf")},
        {"steps": 10**24},
        {"target": {"index": [], "name": "x"}},
    ],
)
def test_a_record_that_was_tampered_with_is_one_line(cli: Cli, folder: Path, fields: dict[str, Any]) -> None:
    one, *others = stored(folder)
    lines = [json.dumps(record) + "\n" for record in (one | {"error": None} | fields, *others)]
    (folder / "results.jsonl").write_text("".join(lines), encoding="ascii")
    ran = cli("report", folder, "--json")
    assert ran.code == 0
    assert "line 1 is no record (" in ran.err
    assert json.loads(ran.out)["total"] == 3
    change(folder, **fields | {"error": None})
    ran = cli("report", folder)
    assert ran.code == 1
    (line,) = ran.err.splitlines()
    assert "is no journal of advimg batch" in line


def test_a_page_that_cannot_be_made_leaves_no_empty_folder(folder: Path) -> None:
    records = [record | {"before": [{"index": "x"}]} for record in read_records(folder)]
    with pytest.raises(OutputError, match="what advimg did not write"):
        write_gallery(records, folder, force=False)
    assert not (folder / "report").exists()


# The page.


def test_the_page_shows_each_attack(folder: Path) -> None:
    written, page = write(folder)
    assert (written.verified + written.not_reached, written.failed) == (3, 1)
    assert len(page.cards) == 3
    by_name = {Path(record["source"]).name: record for record in records_of(folder)}
    for number, card in enumerate(page.cards):
        record = by_name[f"p{number:02}.jpg"]
        assert card["data-confidence"] == str(record["confidence"])
        assert card["data-target"] == "1"
        assert card["data-status"] == ("verified" if record["fooled"] else "not reached")
    for path in page.linked:
        assert path.resolve().is_relative_to(folder)
        with Image.open(path) as image:
            image.load()
    assert len(page.linked) == 3 * (3 + 2)
    assert all(found["alt"] and found["loading"] == "lazy" for found in page.all("img"))
    assert "broken.jpg" in page.words
    assert any(text.startswith("broken.jpg is not a picture") for text in page.words)
    assert page.words.count("ε 10 of 255 levels") == 3


def test_the_page_asks_nothing_of_the_network_and_tells_nothing_of_the_disk(folder: Path, made: Path) -> None:
    text = read_bytes(write(folder)[0].page).decode()
    assert "http:" not in text
    assert "https:" not in text
    assert str(made) not in text
    assert str(folder) not in text


def test_the_same_folder_gives_the_same_page(folder: Path) -> None:
    page = write(folder)[0].page
    before = read_bytes(page)
    assert read_bytes(write(folder)[0].page) == before


HOSTILE = "</script><script>alert(1)</script><img src=x onerror='alert(1)'>\" onmouseover=\"alert(1)"


def test_names_and_labels_mean_nothing_to_a_browser(folder: Path) -> None:
    record = one_of(folder)
    seen = [{"index": 1, "name": HOSTILE, "confidence": 0.5}]
    records = [
        record
        | {
            "source": f"/photos/{HOSTILE}.jpg",
            "model": HOSTILE,
            "target": {"index": 1, "name": HOSTILE},
            "target_rule": HOSTILE,
            "before": seen,
            "after": seen,
            "checked": [record | {"model": HOSTILE, "after": seen}],
        },
        record | {"error": HOSTILE, "target": {"index": 1, "name": HOSTILE}},
    ]
    page = Page(write_gallery(records, folder, force=False).page)
    assert len(page.all("script")) == 1
    assert not [found for _, found in page.elements if any(name.startswith("on") for name in found)]
    assert not page.all("img", src="x")
    assert len(page.cards) == 1


def test_letters_that_steer_and_bytes_that_are_no_letters_are_replaced(folder: Path) -> None:
    records = [one_of(folder) | {"source": "/photos/\udcff\x1b[31m\u202egpj.jpg"}]
    text = read_bytes(write_gallery(records, folder, force=False).page).decode()
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\N{REPLACEMENT CHARACTER}[31m" in text


def test_of_several_networks_the_least_sure_is_shown(folder: Path) -> None:
    record = one_of(folder)
    other = record | {"model": "other", "fooled": False, "confidence": 0.0625}
    changed = record | {"fooled": False, "ensemble": [other], "checked": [other | {"model": "a third"}]}
    page = Page(write_gallery([changed], folder, force=False).page)
    assert page.cards[0]["data-confidence"] == "0.0625"
    assert page.cards[0]["data-status"] == "not reached"
    assert any("other, the least sure of 2" in text for text in page.words)
    assert any(text.endswith("as linear and other see it.") for text in page.words)
    assert any(text.startswith("a third is not fooled: it sees") for text in page.words)


def test_a_bound_in_l2_is_told_as_such(folder: Path) -> None:
    records = [
        one_of(folder) | {"source": f"/photos/{eps}.jpg", "norm": "l2", "eps": eps, "l2": 0.25} for eps in (0.5, 1.5)
    ]
    page = Page(write_gallery(records, folder, force=False).page)
    assert [card["data-eps"] for card in page.cards] == ["0.5", "1.5"]
    assert "ε 0.5 in L2" in page.words
    assert any(", 0.25 in L2" in text for text in page.words)


def test_an_empty_journal_is_a_page_that_says_so(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.jsonl").touch()
    assert cli("report", "out").code == 0
    assert "No attack has ended yet." in Page(tmp_path / "out" / "report" / "index.html").words


# What survives changes.


def survival(change: str, sure: float, *, name: str = "class 0") -> dict[str, Any]:
    """Return what is seen after a change: the target, or another class where it is not at least half sure."""
    seen = {"index": 1, "name": "class 1"} if sure >= 0.5 else {"index": 0, "name": name}
    return {
        "change": change,
        "fooled": sure >= 0.5,
        "seen": seen | {"confidence": max(sure, 1 - sure)},
        "confidence": sure,
    }


def judged(record: dict[str, Any], **sure: float) -> dict[str, Any]:
    """Return a record, or a network's part of it, with verdicts after changes."""
    survives = [survival(change, value) for change, value in sure.items()]
    return record | {"survives": survives, "fooled": all(each["fooled"] for each in survives)}


def table_of(page: Page) -> list[list[str]]:
    """Return the words of the page's table, by row; none where there is no table."""
    text = page.path.read_text(encoding="utf-8")
    rows = re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)
    cells = [re.findall(r"<t[hd]\b.*?</t[hd]>", row, re.DOTALL) for row in rows]
    return [[" ".join(re.sub("<[^>]*>", " ", cell).split()) for cell in row] for row in cells]


def test_a_table_tells_how_many_files_hold_after_each_change(folder: Path) -> None:
    record = one_of(folder)
    lost = record | {"after": list(reversed(record["after"]))}
    other = record | {"model": "other"}
    third = record | {"model": "a_third"}
    records = [
        judged(record, jpeg=0.9, crop=0.8)
        | {"ensemble": [judged(other, jpeg=0.6, crop=0.6)], "checked": [judged(third, jpeg=0.7, crop=0.9)]},
        judged(record, jpeg=0.9, crop=0.8)
        | {"ensemble": [judged(other, jpeg=0.6, crop=0.1)], "checked": [judged(third, jpeg=0.2, crop=0.1)]},
        judged(lost, jpeg=0.1, crop=0.1)
        | {"ensemble": [judged(lost | {"model": "other"}, jpeg=0.6, crop=0.6)], "checked": []},
    ]
    records = [each | {"source": f"/photos/{number}.jpg"} for number, each in enumerate(records)]
    page = Page(write_gallery([*records, record | {"error": "broken"}], folder, force=False).page)
    assert table_of(page) == [
        ["Files that hold", "linear and other attacked", "a_ third took no part"],
        ["the file itself", "66.7 % 2 of 3", "100 % 2 of 2"],
        ["jpeg", "66.7 % 2 of 3", "50.0 % 1 of 2"],
        ["crop", "33.3 % 1 of 3", "50.0 % 1 of 2"],
        ["all of these", "33.3 % 1 of 3", "50.0 % 1 of 2"],
    ]
    assert [found["style"] for found in page.all("td")][:2] == ["--share:66.7%", "--share:100.0%"]
    assert any("as it is and after every change, as linear and other see it" in text for text in page.words)


def test_a_card_marks_each_change(folder: Path) -> None:
    record = judged(one_of(folder), **{"jpeg:75": 0.9, "resize:0.5+jpeg:75": 0.25})
    checked = judged(record, **{"jpeg:75": 0.1, "resize:0.5+jpeg:75": 0.1}) | {"model": "other"}
    page = Page(write_gallery([record | {"checked": [checked]}], folder, force=False).page)
    assert page.cards[0]["data-status"] == "not reached"
    assert [found["title"] for found in page.all("li", class_="held")] == ["jpeg:75: class 1 90.0 %"]
    assert [found["title"] for found in page.all("li", class_="fell")] == [
        "resize:0.5+jpeg:75: class 0 75.0 %; class 1 25.0 %"
    ]
    said = " ".join(page.words)
    assert "Holds after 1 of 2 changes" in said
    assert "held after jpeg:75 : class 1 90.0 %" in said
    assert "fell after resize:0.5+ jpeg:75 → : class 0 75.0 %; class 1 25.0 %" in said
    # The file itself fools it.
    assert "other is fooled, too: it sees class 1," in said
    assert "; it is fooled after 0 of 2 changes." in said


def test_an_untargeted_attack_wants_any_other_class(folder: Path) -> None:
    record = judged(one_of(folder), jpeg=0.25) | {"target_rule": "untargeted"}
    page = Page(write_gallery([record], folder, force=False).page)
    assert [found["title"] for found in page.all("li", class_="fell")] == ["jpeg: class 0 75.0 %; another class 25.0 %"]


def test_changes_mean_nothing_to_a_browser(folder: Path) -> None:
    record = one_of(folder) | {"survives": [survival(HOSTILE, 0.9), survival(f"+{HOSTILE}", 0.1, name=HOSTILE)]}
    page = Page(write_gallery([record | {"checked": [record | {"model": HOSTILE}]}], folder, force=False).page)
    assert len(page.all("script")) == 1
    assert not [found for _, found in page.elements if any(name.startswith("on") for name in found)]
    assert not page.all("img", src="x")


def test_where_nothing_is_to_be_survived_the_page_tells_nothing_of_it(folder: Path) -> None:
    _, page = write(folder)
    assert table_of(page) == []
    assert not page.all("ul", class_="survives")
    assert not any("Holds after" in text or "After changes" in text or "every change" in text for text in page.words)


# The thumbnails.


def test_a_second_run_makes_no_thumbnail_again(folder: Path) -> None:
    write(folder)
    thumbnails = folder / "report" / "thumbnails"
    before = {path: path.stat().st_mtime_ns for path in thumbnails.iterdir()}
    assert len(before) == 9
    write(folder)
    assert {path: path.stat().st_mtime_ns for path in thumbnails.iterdir()} == before


def test_thumbnails_of_attacks_that_are_gone_are_removed_and_no_other_file(folder: Path) -> None:
    write(folder)
    stranger = folder / "report" / "thumbnails" / "mine.jpg"
    stranger.write_bytes(b"mine")
    written = write_gallery([one_of(folder)], folder, force=False)
    kept = {path for path in Page(written.page).linked if path.parent.name == "thumbnails"}
    assert set(stranger.parent.iterdir()) == {*kept, stranger}


@pytest.mark.parametrize("linked", ["report", "report/thumbnails"])
def test_nothing_is_removed_through_a_link_that_leads_elsewhere(folder: Path, tmp_path: Path, linked: str) -> None:
    write(folder)
    elsewhere = tmp_path / "elsewhere"
    (folder / linked).rename(elsewhere)
    (folder / linked).symlink_to(elsewhere)
    before = contents(elsewhere)
    write_gallery([one_of(folder)], folder, force=False)
    assert contents(elsewhere).keys() >= before.keys()


def test_the_perturbation_is_not_blurred_into_nothing(tmp_path: Path, quick: Classifier) -> None:
    photo = save_photo(tmp_path / "photos" / "large.jpg", size=(1600, 1200))
    attack_all([photo], tmp_path / "out", quick)
    _, page = write(tmp_path / "out")
    (small,) = (found for found in page.all("img") if (found["alt"] or "").startswith("Perturbation"))
    (record,) = records_of(tmp_path / "out")
    with (
        Image.open(page.path.parent / str(small["src"])) as image,
        Image.open(record["outputs"]["perturbation"]) as x10,
    ):
        assert image.size == (320, 240)
        assert np.std(np.asarray(image)) > 0.9 * np.std(np.asarray(x10))


def test_photos_that_are_gone_or_changed_are_told_of(tmp_path: Path, quick: Classifier) -> None:
    photos = save_photos(tmp_path / "photos", 3)
    attack_all(photos, tmp_path / "out", quick)
    photos[0].unlink()
    photos[1].write_bytes(photos[2].read_bytes())
    _, page = write(tmp_path / "out")
    assert len(page.cards) == 3
    assert page.words.count("The photo is no longer where it was.") == 1
    assert page.words.count("The photo has been changed since, so it is not shown.") == 1
    assert len(page.all("button", class_="flip")) == 1
    # The perturbation has a file of its own.
    assert len([found for found in page.all("img") if (found["alt"] or "").startswith("Perturbation")]) == 3


def test_a_photo_that_went_after_the_first_report_is_still_shown(tmp_path: Path, quick: Classifier) -> None:
    (photo,) = save_photos(tmp_path / "photos", 1)
    attack_all([photo], tmp_path / "out", quick)
    write(tmp_path / "out")
    photo.unlink()
    _, page = write(tmp_path / "out")
    assert len(page.all("button", class_="flip")) == 1
    assert "The photo is no longer where it was." in page.words


def test_results_that_are_gone_are_told_of(folder: Path) -> None:
    for record in read_records(folder):
        for path in record["outputs"].values():
            Path(path).unlink()
    _, page = write(folder)
    assert page.words.count("The adversarial PNG is no longer where it was.") == 3


def test_small_pictures_are_never_taken_for_photos(folder: Path, tmp_path: Path) -> None:
    write(folder)
    photo = save_photo(tmp_path / "mine.jpg")
    found = find_photos([tmp_path], out_dir=tmp_path / "other", recursive=True)
    photos = sorted((tmp_path / "photos").iterdir())
    assert set(found.photos) == {photo, *photos}


# The command.


def test_the_command_says_where_the_page_is(cli: Cli, folder: Path) -> None:
    ran = cli("report", "out", "--json")
    assert ran.code == 0
    told = json.loads(ran.out)
    assert told == {
        "report": str(folder / "report" / "index.html"),
        "total": 4,
        "verified": told["verified"],
        "not_reached": 3 - told["verified"],
        "failed": 1,
    }
    assert ran.err.splitlines() == [f"written: {Path('out/report/index.html')}"]
    quiet = cli("report", "out", "-q")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def test_a_page_of_others_is_not_overwritten(cli: Cli, folder: Path) -> None:
    page = folder / "report" / "index.html"
    page.parent.mkdir()
    page.write_text("mine")
    ran = cli("report", "out")
    assert ran.code == 1
    assert "is not of advimg" in ran.err
    assert page.read_text() == "mine"
    with pytest.raises(OutputError):
        write_gallery(read_records(folder), folder, force=False)
    assert cli("report", "out", "--force").code == 0
    assert len(Page(page).cards) == 3


def test_torch_and_matplotlib_are_not_imported(folder: Path) -> None:
    code = (
        "import sys; from advimg.cli import run\n"
        f"code = run(['report', {str(folder)!r}])\n"
        "loaded = {'torch', 'torchvision', 'matplotlib'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
        "sys.exit(code)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_a_batch_writes_its_report_at_the_end(
    cli: Cli, tmp_path: Path, quick: Classifier, every_model: EveryModel
) -> None:
    every_model(quick)
    save_photos(tmp_path / "photos", 2)
    command = ("batch", "photos", "-t", "3", "-O", "out")
    page = tmp_path / "out" / "report" / "index.html"
    assert cli(*command).code == 0
    assert not page.exists()
    ran = cli(*command, "--report")
    assert ran.code == 0
    assert ran.err.splitlines()[-1] == f"written: {Path('out/report/index.html')}"
    assert len(Page(page).cards) == 2
    page.write_text("mine")
    ran = cli(*command, "--report", "--json")
    assert (ran.code, ran.out) == (1, "")
    assert page.read_text() == "mine"


# The histograms.


def test_confidences_are_counted_by_tenths() -> None:
    histogram = of_confidences("c", [0.0, 0.05, 0.1, 0.95, 1.0, 1.0])
    assert [each.count for each in histogram.bins] == [2, 1, 0, 0, 0, 0, 0, 0, 0, 3]
    assert [each.share for each in histogram.bins][-1] == 1
    assert histogram.description == "c: 0–10 %: 2; 10–20 %: 1; 90–100 %: 3"


@pytest.mark.parametrize(
    ("values", "labels", "counts"),
    [
        ([3], ["3"], [1]),
        ([1, 4, 4], ["1", "2", "3", "4"], [1, 0, 0, 2]),
        ([1, 2, 30], [f"{at}–{at + 2}" for at in range(1, 31, 3)], [2, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
    ],
)
def test_whole_numbers_are_counted_in_bins_of_one_width(
    values: list[int], labels: list[str], counts: list[int]
) -> None:
    bins = of_numbers("n", values).bins
    assert [each.label for each in bins] == labels
    assert [each.count for each in bins] == counts


def test_other_numbers_are_counted_in_ten_bins() -> None:
    bins = of_numbers("n", [0.5, 0.5, 1.5]).bins
    assert [each.count for each in bins] == [2, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert (bins[0].label, bins[-1].label) == ("0.5–0.6", "1.4–1.5")
