"""Objects of stores as files of this machine, for libraries that read files: checkpoints, which may be large."""

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

from advimg.storage import stores
from advimg.storage.url import Place


def on_disk(where: Place) -> Path:
    """Return the path of a file, or of a copy of an object, which is fetched where this machine has none yet.

    Copies are kept in ``advimg`` in the user's cache folder (``XDG_CACHE_HOME``, else ``~/.cache``), by their URL and
    by what the store says that is another once their bytes are.

    Raises:
        OSError: there is no such object, the store does not answer, or the copy cannot be written.
    """
    if isinstance(where, Path):
        return where
    found = stores.find(where)
    if found is None:
        raise FileNotFoundError(f"{where} does not exist")
    digest = hashlib.sha256(f"{where} {found.stamp}".encode()).hexdigest()[:32]
    copy = _cache() / digest / where.name
    if not copy.is_file():
        copy.parent.mkdir(parents=True, exist_ok=True)
        # Another process may fetch it, too.
        partial = copy.with_name(f"{secrets.token_hex(4)}.part")
        try:
            stores.fetch(where, partial)
            partial.replace(copy)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
    return copy


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "advimg"
