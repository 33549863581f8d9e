"""TOML files, of models and of defaults."""

from pathlib import Path
from typing import Any

from advimg.errors import UsageError


def parse_toml(data: bytes, path: Path) -> dict[str, Any]:
    """Read the bytes of a TOML file; ``path`` names it in the message.

    Raises:
        UsageError: it is not TOML, or too deep.
    """
    import tomllib  # --help does without

    try:
        return tomllib.loads(data.decode("utf-8"))
    except ValueError as error:  # tomllib's and the codec's are both
        raise UsageError(f"{path} is not TOML: {error}") from None
    except RecursionError:
        raise UsageError(f"{path} is not TOML: it is too deep") from None
