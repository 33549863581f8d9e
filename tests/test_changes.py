"""Changes as people write them: what is read, how it is written again, what the verdict takes, what is refused."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from advimg.changes import MOST_CASES, Change, Range, cases_of, parameters, parse_changes
from advimg.errors import UsageError
from advimg.registry import TRANSFORMS
from advimg.settings import Settings

_WEB = ["jpeg:75", "jpeg:50", "webp:80", "resize:0.5", "crop:0.1", "resize:0.5+jpeg:75"]


def written(text: str | list[str]) -> list[str]:
    """Return how changes are written once they have been read."""
    return [str(change) for change in parse_changes(text)]


def change_of(text: str) -> Change:
    (change,) = parse_changes(text)
    return change


def cases(text: str) -> list[str]:
    return [str(case) for case in change_of(text).cases()]


# Every transform: the numbers that it takes, in their order, as whole steps of a decimal, and its words.
_TAKES: dict[str, tuple[list[tuple[int, int, float]], list[str]]] = {
    "jpeg": ([(1, 100, 1)], ["420", "444"]),
    "webp": ([(0, 100, 1)], []),
    "resize": ([(1, 800, 0.01)], ["bicubic", "bilinear", "lanczos", "box", "hamming"]),
    "crop": ([(1, 999, 0.001), (0, 100, 0.01), (0, 100, 0.01)], []),
    "mirror": ([], []),
    "brightness": ([(1, 1000, 0.01)], []),
    "blur": ([(1, 1000, 0.1)], []),
    "noise": ([(1, 2550, 0.1), (0, 999_999, 1)], []),
}


@st.composite
def _numbers(draw: st.DrawFn, least: int, most: int, unit: float) -> str:
    """Draw a number or a range, written in one of several ways."""
    ends = sorted(draw(st.lists(st.integers(least, most), min_size=1, max_size=2)))
    digits = 0 if unit == 1 else len(f"{unit:g}") - 2
    zeros = draw(st.sampled_from(["", "0"])) if digits else ""
    return "-".join(f"{end * unit:.{digits}f}{zeros}" for end in ends)


@st.composite
def _links(draw: st.DrawFn) -> str:
    name = draw(st.sampled_from(sorted(_TAKES)))
    numbers, words = _TAKES[name]
    parts = [draw(_numbers(*each)) for each in numbers[: draw(st.integers(0, len(numbers)))]]
    named = draw(st.booleans())
    if words and named:
        # A word may stand anywhere.
        parts.insert(draw(st.integers(0, len(parts))), draw(st.sampled_from(words)))
    return draw(st.sampled_from([":", " : "])).join([draw(st.sampled_from([name, name.upper(), f" {name}"])), *parts])


_texts = st.lists(_links(), min_size=1, max_size=2).map("+".join)


def test_the_texts_drawn_here_name_every_transform() -> None:
    assert set(_TAKES) == set(TRANSFORMS)


@given(_texts)
def test_what_is_written_is_read_as_the_same_change(text: str) -> None:
    change = change_of(text)
    assert change_of(str(change)) == change
    assert change_of(str(change).upper()) == change
    assert Settings(survive=str(change)).survive == str(change)
    assert [str(change_of(str(case))) for case in change.cases()] == [str(case) for case in change.cases()]


@given(_texts, st.integers(0, 1000))
def test_what_is_drawn_has_no_ranges_and_is_written_like_the_others(text: str, seed: int) -> None:
    """But for the digits of a number that are not written."""
    change = change_of(text)
    drawn = change.drawn(Random(seed))
    assert drawn.fixed
    assert drawn == change.drawn(Random(seed))
    assert (drawn == change) == change.fixed
    for link, own in zip(change.links, drawn.links, strict=True):
        assert link.name == own.name
        for parameter, value, one in zip(parameters(link.name), link.values, own.values, strict=True):
            if isinstance(value, Range):
                assert isinstance(one, int | float)
                assert parameter.allows(one)
                assert parameter.seed or value.low <= one <= value.high
                assert not isinstance(value.low, int) or isinstance(one, int)
            else:
                assert one == value
    assert str(change_of(str(drawn))) == str(drawn)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("jpeg", "jpeg:75"),
        ("JPEG : 75 ", "jpeg:75"),
        ("jpeg:75.0", "jpeg:75"),
        ("jpeg:420:75", "jpeg:75"),
        ("jpeg:444", "jpeg:75:444"),
        ("jpeg:444:30", "jpeg:30:444"),
        ("jpeg:50-95", "jpeg:50-95"),
        ("jpeg:75-75", "jpeg:75"),
        ("webp:0", "webp:0"),
        ("resize:.50:bicubic", "resize:0.5"),
        ("resize:box", "resize:0.5:box"),
        ("resize:0.5-2:lanczos", "resize:0.5-2:lanczos"),
        ("crop:0.1:0.5:0.5", "crop:0.1"),
        ("crop:0.1:0.5:0", "crop:0.1:0.5:0"),
        ("crop:0.25:0:0.5", "crop:0.25:0"),
        ("mirror", "mirror"),
        ("noise", "noise:4"),
        ("noise:4:0-1000", "noise:4"),
        ("noise:8:7", "noise:8:7"),
        (" resize:0.5 + jpeg:75 ", "resize:0.5+jpeg:75"),
        ("mirror+mirror", "mirror+mirror"),
    ],
)
def test_the_canonical_form(text: str, canonical: str) -> None:
    assert written(text) == [canonical]
    assert Settings(survive=text).survive == canonical


@pytest.mark.parametrize(
    "text",
    [
        "noise:4:999999",
        pytest.param("noise:4:1234567"),
        pytest.param("noise:4:2147483647"),
        pytest.param("noise:4:0-2147483647"),
        "crop:0.0012",
        "crop:0.1234567",
        "crop:0.123456-0.123457",
    ],
)
def test_large_and_small_numbers_are_read_again_too(text: str) -> None:
    change = change_of(text)
    assert change_of(str(change)) == change
    assert [change_of(str(case)) for case in Settings(survive=text).cases] == [
        change_of(str(case)) for case in change.cases()
    ]


def test_a_number_that_is_rounded_stays_within_its_limits() -> None:
    """What rounds to 1 is refused, as 1 is, or else written as what it is."""
    try:
        change = change_of("crop:0.9999999")
    except UsageError:
        return
    assert change_of(str(change)) == change


@pytest.mark.parametrize("text", ["blur:0.1-6.1", "crop:0.123456-0.123457", "resize:0.001-7.99999"])
def test_what_the_verdict_takes_is_what_is_written(text: str) -> None:
    """The record names the case, and others judge it by its name."""
    assert [change_of(str(case)) for case in change_of(text).cases()] == list(change_of(text).cases())


# What the verdict takes.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("jpeg:75", ["jpeg:75"]),
        ("jpeg:50-95", ["jpeg:50", "jpeg:95", "jpeg:72"]),
        ("jpeg:75-76", ["jpeg:75", "jpeg:76"]),
        ("resize:0.5-1:box", ["resize:0.5:box", "resize:1:box", "resize:0.75:box"]),
        ("noise", ["noise:4:0", "noise:4:1000", "noise:4:500"]),
        ("noise:2-6:5", ["noise:2:5", "noise:6:5", "noise:4:5"]),
        ("noise:9:3-4", ["noise:9:3", "noise:9:4"]),
        ("crop:0.1:0-1:0-1", ["crop:0.1:0:0", "crop:0.1:0:1", "crop:0.1:1:0", "crop:0.1:1:1", "crop:0.1"]),
        (
            "resize:0.5-1+jpeg:50-90",
            [
                "resize:0.5+jpeg:50",
                "resize:0.5+jpeg:90",
                "resize:1+jpeg:50",
                "resize:1+jpeg:90",
                "resize:0.75+jpeg:70",
            ],
        ),
    ],
)
def test_the_verdict_takes_the_ends_of_ranges_in_every_combination_and_the_middle(
    text: str, expected: list[str]
) -> None:
    assert cases(text) == expected
    assert all(case.fixed for case in change_of(text).cases())
    assert change_of(text).fixed == (expected == [text])


def test_the_verdict_takes_a_case_of_several_changes_once() -> None:
    changes = parse_changes("jpeg:50-95,jpeg:95,noise:4:500,noise,mirror")
    assert [str(case) for case in cases_of(changes)] == [
        *("jpeg:50", "jpeg:95", "jpeg:72", "noise:4:500", "noise:4:0", "noise:4:1000", "mirror")
    ]
    assert Settings(survive="jpeg:50-95,jpeg:95").cases == cases_of(parse_changes("jpeg:50-95,jpeg:95"))


@pytest.mark.parametrize("text", ["noise", "noise:4:0-1", "noise:4:2147483646-2147483647", "noise:2-6"])
def test_other_seeds_are_drawn_than_the_verdict_takes(text: str) -> None:
    change = change_of(text)
    judged = {case.links[0].values[1] for case in change.cases()}
    drawn = [change.like(case).drawn(Random(number)) for case in change.cases() for number in range(20)]
    seeds = [each.links[0].values[1] for each in drawn]
    assert len(judged) in (2, 3)
    assert not judged & set(seeds)
    assert len(set(seeds)) > 15
    assert all(each.fixed for each in drawn)
    # All else is that of the case.
    levels = [case.links[0].values[0] for case in change.cases() for _ in range(20)]
    assert [each.links[0].values[0] for each in drawn] == levels


def test_one_seed_is_the_same_noise_everywhere() -> None:
    change = change_of("noise:4:7+jpeg")
    assert change.like(change) == change == change.drawn(Random(0))
    assert change.cases() == (change,)


def test_all_of_a_range_is_drawn() -> None:
    whole = [str(change_of("jpeg:50-52").drawn(Random(seed))) for seed in range(100)]
    assert set(whole) == {"jpeg:50", "jpeg:51", "jpeg:52"}
    factors = [change_of("resize:0.5-1").drawn(Random(seed)).links[0].values[0] for seed in range(100)]
    numbers = [factor for factor in factors if isinstance(factor, float)]
    assert len(set(numbers)) > 90
    assert 0.5 <= min(numbers) < 0.55 < 0.95 < max(numbers) <= 1


def test_values_of_a_chain_are_drawn_independently() -> None:
    pairs = {str(change_of("jpeg:50-51+jpeg:50-51").drawn(Random(seed))) for seed in range(60)}
    assert pairs == {f"jpeg:{first}+jpeg:{second}" for first in (50, 51) for second in (50, 51)}


# Several changes.


def test_the_preset_stands_for_six_changes() -> None:
    assert written("web") == written(" WEB ") == _WEB
    assert written("mirror,web,blur:2") == ["mirror", *_WEB, "blur:2"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("web,jpeg:75", _WEB),
        ("jpeg:75,web", _WEB),
        ("jpeg:50,web", ["jpeg:50", *(each for each in _WEB if each != "jpeg:50")]),
        ("jpeg,jpeg:75:420,JPEG:75,jpeg:75-75", ["jpeg:75"]),
        ("mirror,mirror+mirror", ["mirror", "mirror+mirror"]),
    ],
)
def test_a_change_is_there_once(text: str, expected: list[str]) -> None:
    assert written(text) == expected


def test_a_list_is_as_good_as_a_text() -> None:
    assert written(["jpeg", "web"]) == written("jpeg,web") == _WEB
    assert written(["mirror,blur:2", "mirror"]) == ["mirror", "blur:2"]
    given: list[object] = [["jpeg", "resize:.5+jpeg"], ("jpeg", "resize:.5+jpeg"), parse_changes("jpeg,resize+jpeg")]
    for each in given:
        settings = Settings(survive=each)  # type: ignore[arg-type]
        assert settings.survive == "jpeg:75,resize:0.5+jpeg:75"
        assert settings.changes == parse_changes("jpeg:75,resize:0.5+jpeg:75")
        assert settings == Settings(survive="jpeg:75,resize:0.5+jpeg:75")
        assert settings.to_record()["survive"] == settings.survive


def test_without_changes_there_is_nothing_to_survive() -> None:
    assert Settings().survive is None
    assert Settings().changes == Settings().cases == ()


def test_too_many_cases_are_refused() -> None:
    qualities = [f"jpeg:{quality}" for quality in range(1, MOST_CASES + 1)]
    assert len(parse_changes(qualities)) == MOST_CASES
    with pytest.raises(UsageError, match=r"too many: give fewer .* at most 64 verdicts"):
        parse_changes([*qualities, "mirror"])
    with pytest.raises(UsageError, match="too many"):
        parse_changes([*qualities[:-1], "resize:0.5-1"])
    with pytest.raises(UsageError, match="too many"):
        parse_changes("+".join(["jpeg:50-94"] * 7))
    with pytest.raises(UsageError, match="too many"):  # at once, and not after 2 to the power of 60 of them
        parse_changes("+".join(["jpeg:50-94"] * 60))
    # A case of several changes counts once.
    assert len(parse_changes([*qualities[:-1], "jpeg:3-5"])) == MOST_CASES


# What is refused.


def refused(text: object) -> str:
    """Return the message about something that ``survive`` does not take: always one short line of plain letters."""
    with pytest.raises(UsageError) as raised:
        Settings(survive=text)  # type: ignore[arg-type]
    message = str(raised.value)
    assert message.isprintable()
    assert len(message) < 250
    return message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nothing", "unknown change 'nothing': use jpeg, webp, resize, crop, mirror, brightness, blur, noise, web, or"),
        ("jpeg:75,jpg:75", "unknown change 'jpg': use jpeg, "),
        ("resize:0.5+nothing:3", "unknown change 'nothing'"),
        ("jpeg:0", "'jpeg:0': the quality must be a whole number, at least 1 and at most 100"),
        ("jpeg:101", "the quality must be a whole number, at least 1 and at most 100"),
        ("jpeg:75.5", "the quality must be a whole number"),
        ("jpeg:50-101", "the quality must be"),
        ("webp:-1", "'-1' is no quality"),
        ("webp:101", "the quality must be a whole number, at least 0 and at most 100"),
        ("resize:0", "'resize:0': the factor must be at least 0.001 and at most 8"),
        ("resize:8.01", "the factor must be at least 0.001 and at most 8"),
        ("crop:0", "the share must be at least 0.001 and at most 0.999"),
        ("crop:1", "the share must be at least 0.001 and at most 0.999"),
        ("crop:0.1:1.1", "the left must be at least 0 and at most 1"),
        ("crop:0.1:0:2", "the top must be at least 0 and at most 1"),
        ("brightness:0", "the factor must be at least 0.01 and at most 10"),
        ("blur:0", "the radius must be at least 0.01 and at most 100"),
        ("noise:0", "the levels must be at least 0.01 and at most 255"),
        ("noise:4:0.5", "the seed must be a whole number"),
        ("noise:4:2147483648", "the seed must be a whole number"),
        *((f"jpeg:{number}", "the quality must be a whole number") for number in ("nan", "inf", "NaN", "infinity")),
        *((f"blur:{number}", "the radius must be at least 0.01") for number in ("nan", "inf", "1-inf", "nan-1")),
        ("crop:nan", "the share must be"),
        ("resize:1-0.5", "'resize:1-0.5': the range begins above its end; write 0.5-1"),
        ("jpeg:95-50", "the range begins above its end; write 50-95"),
        ("noise:4:1000-0", "the range begins above its end"),
        ("jpeg:75+", "'jpeg:75+': a change is missing beside a +"),
        ("+jpeg", "'+jpeg': a change is missing beside a +"),
        ("resize:0.5++jpeg", "a change is missing beside a +"),
        ("+", "a change is missing beside a +"),
        (":75", "a change is missing"),
        ("", "an empty change"),
        (" ", "an empty change"),
        ("jpeg:75,", "an empty change"),
        (",jpeg:75", "an empty change"),
        ("jpeg:75,,mirror", "an empty change"),
        ("web:3", "'web:3': web is a list of changes of its own"),
        ("resize:0.5+web", "'resize:0.5+web': web is a list of changes of its own"),
        ("jpeg:", "'' is no quality; give a number or a range, or 420 or 444"),
        ("jpeg::444", "'' is no quality"),
        ("jpeg:high", "'high' is no quality; give a number or a range, or 420 or 444"),
        ("jpeg:422", "the quality must be a whole number, at least 1 and at most 100"),
        ("jpeg:75:80", "'80' says nothing to jpeg; write jpeg:QUALITY:420|444"),
        ("jpeg:444:420:75", "the quality must be"),
        ("jpeg:75:444:420", "'420' says nothing to jpeg"),
        ("jpeg:50-", "'50-' is no quality"),
        ("jpeg:-50", "'-50' is no quality"),
        ("jpeg:-", "'-' is no quality"),
        ("jpeg:50-60-70", "'50-60-70' is no quality"),
        ("resize:0.5:nearest", "'nearest' says nothing to resize; write resize:FACTOR:bicubic|bilinear|lanczos|box|"),
        ("resize:nearest", "'nearest' is no factor; give a number or a range, or bicubic or bilinear or"),
        ("mirror:1", "'1' says nothing to mirror; write mirror"),
        ("crop:0.1:left", "'left' is no left; give a number or a range"),
        ("noise:1:2:3", "'3' says nothing to noise; write noise:LEVELS:SEED"),
        ([], "an empty change"),
        (["jpeg", ""], "an empty change"),
        (["jpeg", None], "unknown change 'none'"),
        ([75], "unknown change '75'"),
        ([True], "unknown change 'true'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: object, says: str) -> None:
    assert says in refused(text)


@pytest.mark.parametrize("value", [True, False, 0, 75, 0.5, b"jpeg", {"jpeg": 75}, object(), Settings])
def test_what_is_no_text_is_refused(value: object) -> None:
    assert refused(value).startswith("survive ")


def test_what_is_no_text_is_told_what_to_give() -> None:
    assert not refused(True).rstrip().endswith("give")


@pytest.mark.parametrize("text", ["\x1b[31mred", "jpeg:\x1b]0;title\x07", "mirror:\x00", "jpeg:75+\x9b31m", "jp\neg"])
def test_control_characters_are_not_shown(text: str) -> None:
    assert "\N{REPLACEMENT CHARACTER}" in refused(text)


@pytest.mark.parametrize(
    "text",
    [
        "x" * 10**6,
        "jpeg:" + "7" * 10**6,
        "jpeg:" + "x" * 10**6,
        "jpeg:" + "-" * 10**6,
        "jpeg:75:" + "x" * 10**6,
        "jpeg:75" + ":" * 10**6,
        "," * 10**6,
        "+" * 10**6,
        "jpeg:75+" * 10**5,
        "web:" + "x" * 10**6,
        "\x1b" * 10**6,
        ["x"] * 10**5,
        b"x" * 10**6,
    ],
    ids=lambda text: str(text[:9]),
)
def test_a_million_characters_are_refused_in_one_short_line(text: object) -> None:
    refused(text)


def test_changes_that_no_record_takes_are_refused() -> None:
    refused("+".join(["mirror"] * 200))
