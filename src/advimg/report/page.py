"""A page for the browser in one file: its template, style and script are installed beside this module.

What all pages share is in ``page.html``, which the template of each extends, and in ``page.css``.
"""

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from advimg import __version__
from advimg.errors import OutputError
from advimg.formatting import percent, printable
from advimg.outputs import REPORT_MARK
from advimg.report.layout import PAGE_COLOURS
from advimg.storage.places import exists, read_beginning
from advimg.storage.url import Place

_HERE = Path(__file__).parent

_LONGEST = 100_000
"""The most characters of a text on the page: a link may be as long as a path is, three times for each byte."""


def check_page(page: Place, *, force: bool) -> Place:
    """Return the path of a page that may be written.

    Raises:
        OutputError: there is a page of others, and not ``force``.
    """
    if exists(page) and not force and not _is_own(page):
        raise OutputError(f"{page} exists and is not of advimg; move it away, or use --force to overwrite it")
    return page


def rendered(template: str, /, **values: Any) -> bytes:
    """Return a page.

    Args:
        template: the name of its template, style and script, without a suffix.
        **values: for the template; text is escaped, and holds no control characters.
    """
    # What the page is made of is advimg's own (Markup); everything else is escaped.
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        finalize=lambda value: printable(value, _LONGEST) if type(value) is str else value,
    )
    environment.filters["percent"] = percent
    script, style = _part(f"{template}.js"), _part("page.css") + _part(f"{template}.css")
    page = environment.get_template(f"{template}.html").render(
        mark=Markup(REPORT_MARK),
        script=Markup(script),
        style=Markup(style),
        # The browser runs this script and no other, whatever a file may be called.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        colours=PAGE_COLOURS,
        version=__version__,
        **values,
    )
    return page.encode()


def _part(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _is_own(page: Place) -> bool:
    try:
        return REPORT_MARK.encode() in read_beginning(page, 512)
    except OSError:
        return False
