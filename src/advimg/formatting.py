"""Values written for people: confidences, and text of others in one line of a bounded length."""

import hashlib

LONGEST_MESSAGE = 1000
"""The most characters of a line that a person reads."""


def percent(confidence: float) -> str:
    """Write a confidence for people, so that only 0 and 1 themselves are called 0 % and 100 %."""
    if 0 < confidence < 0.0005:
        return "< 0.1 %"
    if 0.9995 <= confidence < 1:
        return "> 99.9 %"
    return f"{confidence:.0%}".replace("%", " %") if confidence in (0, 1) else f"{confidence * 100:.1f} %"


def with_confidence(name: str, confidence: float | None) -> str:
    """Write a class with its confidence, where that is known."""
    return name if confidence is None else f"{name} {percent(confidence)}"


def printable(text: str, length: int = LONGEST_MESSAGE) -> str:
    """Replace control characters, and leave out the middle of what is longer than ``length`` characters.

    File names, labels and records of others may hold commands to a terminal, and may be millions of characters long.
    """
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in shortened(text, length)
    )


def bounded(name: str, most: int) -> str:
    """Return a file's name of at most ``most`` bytes; one that is cut ends in a hash, which tells it from others."""
    data = name.encode("utf-8", "surrogateescape")  # as file systems have it
    if len(data) <= most:
        return name
    return f"{data[: most - 9].decode('utf-8', 'ignore')}-{hashlib.sha256(data).hexdigest()[:8]}"


def shortened(text: str, length: int) -> str:
    """Return text of at most ``length`` characters, an ellipsis for its middle: names end in what tells."""
    if len(text) <= length:
        return text
    return f"{text[: length // 2]}…{text[len(text) - (length - 1) // 2 :]}"
