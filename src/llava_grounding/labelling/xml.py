"""Text for XML, which has no way to say some characters."""

from __future__ import annotations

import re

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_text(text: str) -> str:
    """The text with a stand-in for every character that XML cannot hold, escaped or not."""
    return _NOT_XML.sub("\ufffd", text)
