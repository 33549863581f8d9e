"""The gallery in a browser: Chromium opens the page from the disk, and a mouse, a finger and a keyboard use it."""

import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from advimg.batches.journal import read_records
from advimg.report.gallery import write_gallery
from advimg.report.quiz import write_quiz
from tests.batches import attack_all, quick_classifier, save_photo

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="neither chromium nor google-chrome is installed")

# Windows does not take such a name; there the labels alone are hostile.
HOSTILE = "<img onerror=alert(1)>.jpg" if sys.platform != "win32" else "img onerror=alert(1).jpg"
OTHERS = ("<img onerror=alert(1)>_of_a_long_name", "other", "third")
MANY = 2000


@dataclass(frozen=True)
class Tab:
    """A page, and what it asked for and complained of."""

    page: Any
    requests: list[str]
    complaints: list[str]

    def cards(self) -> list[str]:
        """The names on the cards that are shown, in order."""
        names: list[str] = self.page.locator(".card:not([hidden]) h3").all_text_contents()
        return names

    def shown(self, card: int) -> str:
        """Which picture a card shows."""
        flip = self.page.locator(".flip").nth(card)
        return "adversarial" if flip.locator("img").nth(1).is_visible() else "photo"

    def count(self) -> str:
        text: str = self.page.locator("#shown").inner_text()
        return text


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        # Its sandbox does not start for root, as whom containers run.
        root = hasattr(os, "getuid") and os.getuid() == 0
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"] if root else [])
        yield started
        started.close()


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four photos, one of them broken, with results that tell them apart, judged after changes by four networks."""
    folder = tmp_path_factory.mktemp("gallery")
    photos = [save_photo(folder / "photos" / name, seed) for seed, name in enumerate(("a.jpg", "b.jpg", HOSTILE))]
    broken = folder / "photos" / "broken.jpg"
    broken.write_bytes(b"no picture")
    attack_all([*photos, broken], folder / "out", quick_classifier())
    records = {Path(record["source"]).name: record for record in read_records(folder / "out")}
    survives = [survival("jpeg:75", 0.75), survival("resize:0.5+jpeg:75", 0.875)]
    fallen = [survival("jpeg:75", 0.625), survival("resize:0.5+jpeg:75", 0.25)]
    changes: dict[str, dict[str, Any]] = {
        "a.jpg": {"confidence": 0.5, "steps": 9, "eps": 4, "visibility": visible(0.75)},
        "b.jpg": {
            "confidence": 0.9,
            "steps": 3,
            "eps": 10,
            "fooled": False,
            "visibility": visible(0.25),
            "survives": fallen,
        },
        HOSTILE: {
            "confidence": 0.7,
            "steps": 5,
            "eps": 2,
            "visibility": visible(2),
            "before": [prediction(4, "<b>cup</b>", 0.75), prediction(1, "one", 0.25)],
        },
    }
    changed = [records["broken.jpg"]]
    for name, change in changes.items():
        record = records[name] | {"fooled": True, "survives": survives} | change
        others = [record | {"model": model, "survives": fallen, "fooled": False} for model in OTHERS]
        changed.append(record | {"checked": others})
    return Path(str(write_gallery(changed, folder / "out", force=False).page))


def survival(change: str, sure: float) -> dict[str, Any]:
    """Return what is seen after a change: the target, or another class where it is not at least half sure."""
    seen = prediction(1, "one", sure) if sure >= 0.5 else prediction(4, "<b>cup</b>", 1 - sure)
    return {"change": change, "fooled": sure >= 0.5, "seen": seen, "confidence": sure}


def visible(delta_e: float) -> dict[str, float]:
    return {"delta_e_mean": delta_e, "delta_e_p95": 2 * delta_e, "ssim": 0.99}


def prediction(index: int, name: str, confidence: float) -> dict[str, Any]:
    return {"index": index, "name": name, "confidence": confidence}


def opened(browser: Any, path: Path, **options: Any) -> Tab:
    context = browser.new_context(**options)
    page = context.new_page()
    tab = Tab(page, [], [])
    page.on("request", lambda request: tab.requests.append(request.url))
    page.on("console", lambda message: tab.complaints.append(message.text))
    page.on("pageerror", lambda error: tab.complaints.append(str(error)))

    def refuse(dialog: Any) -> None:
        tab.complaints.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", refuse)
    page.goto(path.as_uri())
    return tab


@pytest.fixture
def tab(browser: Any, gallery: Path) -> Iterator[Tab]:
    tab = opened(browser, gallery)
    yield tab
    assert tab.complaints == []
    assert all(url.startswith("file://") for url in tab.requests)
    tab.page.context.close()


def test_it_opens_from_the_disk_and_all_pictures_are_there(tab: Tab) -> None:
    tab.page.locator("footer").scroll_into_view_if_needed()
    tab.page.wait_for_function("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")
    assert tab.page.locator("img").count() == 9
    assert sorted(tab.cards()) == sorted(["a.jpg", "b.jpg", HOSTILE])
    assert "broken.jpg is not a picture" in tab.page.locator("#failed").inner_text()


def test_hostile_names_are_text(tab: Tab) -> None:
    assert tab.page.get_by_role("heading", name=HOSTILE, exact=True).is_visible()
    assert tab.page.locator("[onerror]").count() == 0
    assert "<b>cup</b>" in tab.page.locator(".card", has_text=HOSTILE).inner_text()


def test_no_other_script_than_its_own_may_run(tab: Tab) -> None:
    refused = tab.page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "window.ran = true";
        document.body.append(script);
        return window.ran === undefined;
    }""")
    assert refused
    tab.complaints.clear()  # of the policy that refused


def test_a_press_flips_in_the_same_place(tab: Tab) -> None:
    flip = tab.page.locator(".flip").nth(0)
    one, other = (flip.locator("img").nth(place) for place in range(2))
    assert one.bounding_box() == other.bounding_box()
    assert tab.shown(0) == "photo"
    flip.hover()
    assert tab.shown(0) == "adversarial"
    flip.click()
    assert tab.shown(0) == "photo"
    tab.page.mouse.move(0, 0)
    assert tab.shown(0) == "adversarial"
    assert flip.get_attribute("aria-pressed") == "true"
    assert tab.shown(1) == "photo"


def test_a_finger_flips(browser: Any, gallery: Path) -> None:
    tab = opened(browser, gallery, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    tab.page.locator(".flip").nth(0).tap()
    assert tab.shown(0) == "adversarial"
    tab.page.locator(".flip").nth(0).tap()
    assert tab.shown(0) == "photo"
    tab.page.context.close()


def test_the_keyboard_flips_and_goes_from_card_to_card(tab: Tab) -> None:
    flips = tab.page.locator(".flip")
    for _ in range(20):
        tab.page.keyboard.press("Tab")
        if flips.nth(0).evaluate("(element) => element === document.activeElement"):
            break
    else:
        pytest.fail("the tab key does not lead to the first photo")
    tab.page.keyboard.press("Space")
    assert tab.shown(0) == "adversarial"
    tab.page.keyboard.press("ArrowRight")
    tab.page.keyboard.press("Enter")
    assert tab.shown(1) == "adversarial"
    tab.page.keyboard.press("ArrowRight")
    tab.page.keyboard.press("ArrowRight")  # there is no further card
    tab.page.keyboard.press("Space")
    assert tab.shown(2) == "adversarial"
    tab.page.keyboard.press("ArrowLeft")
    tab.page.keyboard.press("Space")
    assert tab.shown(1) == "photo"


def test_all_flip_together(tab: Tab) -> None:
    tab.page.get_by_role("button", name="Flip all").click()
    assert [tab.shown(card) for card in range(3)] == ["adversarial"] * 3
    tab.page.get_by_role("button", name="Flip all").click()
    assert [tab.shown(card) for card in range(3)] == ["photo"] * 3


def test_filters_by_status_and_class(tab: Tab) -> None:
    page = tab.page
    assert tab.count() == "4 of 4 shown"
    page.get_by_label("not reached (1)").uncheck()
    assert "b.jpg" not in tab.cards()
    assert tab.count() == "3 of 4 shown"
    page.get_by_label("failed (1)").uncheck()
    assert not page.locator("#failed").is_visible()
    page.get_by_label("Class").select_option(label="<b>cup</b> (1)")
    assert tab.cards() == [HOSTILE]
    page.get_by_label("verified (2)").uncheck()
    assert tab.cards() == []
    assert page.get_by_text("No attack is of this kind.").is_visible()
    for name in ("verified (2)", "not reached (1)", "failed (1)"):
        page.get_by_label(name).check()
    page.get_by_label("Class").select_option(label="class 1 (4)")
    assert tab.count() == "4 of 4 shown"


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ("confidence, highest first", ["b.jpg", HOSTILE, "a.jpg"]),
        ("confidence, lowest first", ["a.jpg", HOSTILE, "b.jpg"]),
        ("steps, most first", ["a.jpg", HOSTILE, "b.jpg"]),
        ("ε, smallest first", [HOSTILE, "a.jpg", "b.jpg"]),
        ("visibility, lowest first", ["b.jpg", "a.jpg", HOSTILE]),
    ],
)
def test_sorts(tab: Tab, order: str, names: list[str]) -> None:
    first = tab.cards()
    tab.page.get_by_label("Sort by").select_option(label=order)
    assert tab.cards() == names
    tab.page.get_by_label("Sort by").select_option(label="file name")
    assert tab.cards() == first


def test_each_control_has_a_name_and_each_picture_a_text(tab: Tab) -> None:
    nameless = tab.page.evaluate("""() => [...document.querySelectorAll("button, input, select, a, img")].filter(
        (element) => !(element.ariaLabel || element.alt || element.innerText || element.labels?.length)
    ).length""")
    assert nameless == 0
    for card in range(3):
        name = tab.page.locator(".flip").nth(card).get_attribute("aria-label")
        assert name == f"Adversarial picture of {tab.cards()[card]}"


def test_a_table_tells_how_many_files_hold(tab: Tab) -> None:
    def texts(role: str) -> list[str]:
        found = [" ".join(text.split()) for text in tab.page.get_by_role(role).all_inner_texts()]
        assert all(tab.page.get_by_role(role).nth(number).is_visible() for number in range(len(found)))
        return found

    assert texts("columnheader") == [
        "Files that hold",
        "linear attacked",
        *(f"{model} took no part" for model in OTHERS),
    ]
    assert texts("rowheader") == ["the file itself", "jpeg:75", "resize:0.5+jpeg:75", "all of these"]
    every, two, none = "100 % 3 of 3", "66.7 % 2 of 3", "0 % 0 of 3"
    assert texts("cell") == [*[every] * 8, two, *[none] * 3, two, *[none] * 3]


def test_a_wide_table_scrolls_in_its_place(browser: Any, gallery: Path) -> None:
    tab = opened(browser, gallery, viewport={"width": 320, "height": 800})
    table = tab.page.get_by_role("region", name="After changes")
    table.focus()
    tab.page.keyboard.press("ArrowRight")
    tab.page.wait_for_timeout(300)
    assert table.evaluate("(element) => element.scrollLeft") > 0
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 320
    tab.page.context.close()


def test_each_change_has_a_mark_that_tells_what_is_seen(tab: Tab) -> None:
    fallen = tab.page.locator(".card", has_text="b.jpg").locator(".survives li")
    assert [" ".join(text.split()) for text in fallen.all_text_contents()] == [
        "✓held after jpeg:75: one 62.5 %",
        "✗fell after resize:0.5+jpeg:75 →: <b>cup</b> 75.0 %; class 1 25.0 %",
    ]
    assert fallen.nth(0).get_attribute("title") == "jpeg:75: one 62.5 %"
    assert fallen.nth(1).get_attribute("title") == "resize:0.5+jpeg:75: <b>cup</b> 75.0 %; class 1 25.0 %"


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_is_wider_than_the_page_or_its_place(browser: Any, gallery: Path, width: int) -> None:
    tab = opened(browser, gallery, viewport={"width": width, "height": 800})
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= width
    clipped = tab.page.evaluate("""() => [...document.querySelectorAll("h3, p, li, label, figcaption, span")].filter(
        (element) => element.clientWidth && element.scrollWidth > element.clientWidth + 1
            && !element.classList.contains("said")
    ).map((element) => element.outerHTML)""")
    assert clipped == []
    tab.page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_scheme_and_its_text_can_be_read(browser: Any, gallery: Path, scheme: str) -> None:
    tab = opened(browser, gallery, color_scheme=scheme)
    contrasts = tab.page.evaluate("""() => {
        const numbers = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
        const light = (colour) => numbers(colour).map((level) => level / 255)
            .map((level) => level <= 0.04045 ? level / 12.92 : ((level + 0.055) / 1.055) ** 2.4)
            .reduce((sum, level, place) => sum + level * [0.2126, 0.7152, 0.0722][place], 0);
        const behind = (element) => {
            const own = getComputedStyle(element).backgroundColor;
            return own === "rgba(0, 0, 0, 0)" ? behind(element.parentElement) : own;
        };
        const text = "h1, h2, h3, h4, p, a, label, figcaption, li, li > span, .status, th, th > span, td, td span";
        return [...document.querySelectorAll(text)].map((element) => {
            const pair = [getComputedStyle(element).color, behind(element)].map(light).sort((a, b) => b - a);
            return (pair[0] + 0.05) / (pair[1] + 0.05);
        });
    }""")
    assert min(contrasts) >= 4.5
    dark = tab.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 20, 20)"
    assert dark == (scheme == "dark")
    tab.page.context.close()


def test_many_cards_can_be_used_at_once(browser: Any, gallery: Path, tmp_path: Path) -> None:
    """Two thousand attacks on three photos: nothing that the page does may depend on how many there are to see."""
    folder = gallery.parent.parent
    ended = [record for record in read_records(folder) if record["error"] is None]
    records = [
        ended[number % len(ended)]
        | {
            "source": str(folder.parent / "photos" / f"photo {number}.jpg"),
            "source_sha256": hashlib.sha256(str(number % 3).encode()).hexdigest(),
            "steps": number % 97,
        }
        for number in range(MANY)
    ]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    page = Path(str(write_gallery(records, tmp_path, force=False).page))
    # The quickest of three: another process on the machine is not the page's fault.
    assert any(seconds_until_sorted(browser, page) < 2 for _ in range(3))


def seconds_until_sorted(browser: Any, page: Path) -> float:
    """Open a page of many cards, sort it, and return how long that took."""
    began = time.perf_counter()
    tab = opened(browser, page)
    tab.page.locator("#shown").get_by_text(f"{MANY} of {MANY} shown").wait_for()
    tab.page.get_by_label("Sort by").select_option(label="steps, most first")
    assert "96 steps" in tab.page.locator(".card").first.text_content()
    took = time.perf_counter() - began
    assert len(tab.requests) < 200
    assert tab.complaints == []
    tab.page.context.close()
    return took


# The blind test.


@pytest.fixture(scope="module")
def quiz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six pairs, of photos that are larger than a pane in a small window."""
    folder = tmp_path_factory.mktemp("quiz")
    photos = [save_photo(folder / "photos" / f"{seed}.jpg", seed, size=(900, 700)) for seed in range(6)]
    attack_all(photos, folder / "out", quick_classifier())
    return Path(str(write_quiz(read_records(folder / "out"), folder / "out", force=False)))


@pytest.fixture
def asked(browser: Any, quiz: Path) -> Iterator[Tab]:
    tab = opened(browser, quiz, viewport={"width": 1280, "height": 800})
    ready(tab)
    yield tab
    assert tab.complaints == []
    assert all(url.startswith("file://") for url in tab.requests)
    tab.page.context.close()


def ready(tab: Tab) -> None:
    """Wait until the pair can be answered."""
    tab.page.locator("[data-answer='1']:enabled").wait_for()


def file_of(tab: Tab) -> int:
    """Which of the two is the file, as the page's own list has it."""
    place: int = tab.page.evaluate("""() => {
        const files = [...document.querySelectorAll("#pairs li")].map((item) => item.dataset.file);
        const shown = [...document.querySelectorAll(".pane img")].map((image) => image.getAttribute("src"));
        return shown.findIndex((name) => files.includes(name));
    }""")
    return place


@pytest.mark.parametrize(("right", "chance"), [(6, "1.6 %"), (5, "10.9 %"), (0, "100.0 %")])
def test_the_score_says_what_guessing_would_have_done(asked: Tab, right: int, chance: str) -> None:
    page = asked.page
    for number in range(6):
        assert page.locator("#progress").inner_text() == f"Pair {number + 1} of 6"
        place = file_of(asked)
        page.keyboard.press("12"[place if number < right else 1 - place])
        if number < 5:
            ready(asked)
    assert page.locator("#score").inner_text() == f"{right} of 6 right"
    assert f"with a chance of {chance}." in page.locator("#chance").inner_text()
    assert ("hardly guessing" in page.locator("#chance").inner_text()) == (right == 6)
    assert page.locator("#answers .right").count() == right
    assert page.locator("#answers li").count() == 6
    page.get_by_role("button", name="Again").click()
    assert page.locator("#progress").inner_text() == "Pair 1 of 6"
    ready(asked)


def test_the_file_is_now_a_and_now_b(browser: Any, quiz: Path) -> None:
    seen = set()
    for _ in range(12):
        tab = opened(browser, quiz)
        ready(tab)
        seen.add((file_of(tab), tab.page.locator(".pane img").nth(0).get_attribute("src")))
        tab.page.context.close()
    assert {place for place, _ in seen} == {0, 1}
    assert len(seen) > 2


@pytest.mark.parametrize("ratio", [1, 2, 1.5])
def test_a_pixel_is_a_pixel_of_the_screen(browser: Any, quiz: Path, ratio: float) -> None:
    tab = opened(browser, quiz, device_scale_factor=ratio)
    ready(tab)
    for number in range(2):
        box = tab.page.locator(".pane img").nth(number).bounding_box()
        assert (box["width"] * ratio, box["height"] * ratio) == pytest.approx((900, 700), abs=0.5)
    tab.page.context.close()


def test_a_key_lays_both_on_one_spot_and_shows_the_other(asked: Tab) -> None:
    first, second = (asked.page.locator("figure").nth(number) for number in range(2))
    assert first.bounding_box() != second.bounding_box()
    asked.page.keyboard.press("f")
    assert first.bounding_box() == second.bounding_box()
    assert (first.is_visible(), second.is_visible()) == (True, False)
    asked.page.keyboard.press("f")
    assert (first.is_visible(), second.is_visible()) == (False, True)
    asked.page.keyboard.press("s")
    assert (first.is_visible(), second.is_visible()) == (True, True)


def test_both_panes_scroll_together(asked: Tab) -> None:
    panes = asked.page.locator(".pane")
    panes.nth(1).evaluate("(pane) => pane.scrollTo(120, 30)")
    # At the next frame; the page's policy lets no expression be waited for.
    asked.page.wait_for_timeout(200)
    assert panes.nth(0).evaluate("(pane) => [pane.scrollLeft, pane.scrollTop]") == [120, 30]
