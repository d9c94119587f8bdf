"""What a picture's licence allows, as far as its words say. Text in, yes or no out; no legal advice."""

import re

# Anything here forbids selling what is made from the picture, changing it, or any use but research. Of what stands
# around "commercial", only the plain permission is believed: every "not" or "requires" beside it is a refusal.
_FORBIDS = re.compile(
    r"\bnc(?![a-z])|\bnon?[ -]?commercial|\b(?:not|no|without|prohibit\w*|forbid\w*)\b[^.;]*\bcommercial|"
    r"\bcommercial[^.;]*\b(?:prohibit|forbid|not\b|requires?\b|permission)|personal use|editorial|"
    r"research|educational|\bnd(?![a-z])|\bno[ -]?deriv|all rights reserved",
    re.IGNORECASE,
)
# And one of these is needed beside that: a licence that is not known allows nothing.
_ALLOWS = re.compile(
    r"\bcc[ -]by\b|licenses/by(-sa)?/|\battribution\b|\bcc[ -]?0\b|public ?domain|no known copyright|"
    r"\bcommercial use\b|\b(apache|mit|bsd)\b|\b(pexels|unsplash|pixabay)\b|united states government",
    re.IGNORECASE,
)


def allows_commercial_use(license: str) -> bool:
    """Whether a picture may be used commercially and changed; one whose licence is not said or not known may not."""
    return bool(_ALLOWS.search(license)) and not _FORBIDS.search(license)
