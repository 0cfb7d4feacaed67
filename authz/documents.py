"""Documents that a client sends, in JSON or YAML and in any Unicode encoding, read within bounds."""

from __future__ import annotations

import json


def text_of(body: bytes) -> str:
    """The text of a body in UTF-8, UTF-16 or UTF-32, with or without a byte order mark. Raises UnicodeError."""
    return body.decode(json.detect_encoding(body)).removeprefix("\ufeff")
