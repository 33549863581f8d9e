"""Write the JSON Schema of records into the package: ``python -m tests.record_schema``."""

import json
from pathlib import Path

import advimg
from advimg.record_schema import SCHEMA_NAME, json_schema

PATH = Path(advimg.__file__).with_name(SCHEMA_NAME)


def text() -> str:
    """Return the schema as the file has it."""
    return json.dumps(json_schema(), indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="ascii")
