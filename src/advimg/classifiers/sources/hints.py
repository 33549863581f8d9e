"""What to do about a model's name that no source knows."""

import re
from collections.abc import Sequence
from difflib import get_close_matches

_WEIGHTS = (".pt", ".pth", ".safetensors")
_MOST = 3
"""The most names that a hint has."""
_SHORTEST = 3
"""The least letters of an abbreviation, or of a part of a name."""


def hint_for(name: str, known: Sequence[str], *, prefix: str = "") -> str:
    """Return the end of a message about a name that is unknown.

    Args:
        name: as it was written.
        known: the names of the sources of its prefix, without that.
        prefix: of these sources.
    """
    if hub := re.match(r"https?://huggingface\.co/([\w.-]+/[\w.-]+)/?$", name, re.IGNORECASE):
        return f"that model is -m hf:{hub[1]}"
    if re.match(r"https?://", name, re.IGNORECASE):
        return "a URL is not loaded: download the file, and use --model ARCH --weights FILE with its architecture"
    if name.lower().endswith(_WEIGHTS):
        return f"it is a file of weights: use --model ARCH --weights {name} with its architecture, such as resnet18"
    nearest = [prefix + each for each in nearest_names(name.removeprefix(prefix), known)]
    return f"did you mean {', '.join(nearest)}?" if nearest else f"`{f'advimg models {prefix}'.strip()}` lists them"


def nearest_names(name: str, known: Sequence[str]) -> list[str]:
    """Return a few names that contain one; else of which it is an abbreviation; else that are spelt like it.

    An abbreviation is a few letters of a name, from its first on, in their order: ``effnet``.
    """
    word = name.lower()
    if len(word) >= _SHORTEST:
        abbreviated = re.compile(".*".join(map(re.escape, word)))
        containing = [each for each in known if word in each]
        if found := containing or [each for each in known if word.isalpha() and abbreviated.match(each)]:
            return found[:_MOST]
    return get_close_matches(word, known, n=_MOST)
