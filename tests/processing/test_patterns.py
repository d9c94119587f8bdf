"""Which regular expressions of tokenizers are read: those of the families, and none that the library gives up on."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llava_grounding.processing.patterns import MAX_PATTERN, is_bounded

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_MARK, _REST = r"[^\r\n\p{L}\p{N}]?", r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
PUBLISHED = {
    "GPT-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "Llama 3": _CONTRACTIONS + "|" + _MARK + r"\p{L}+|\p{N}{1,3}" + _REST,
    "Qwen": _CONTRACTIONS + "|" + _MARK + r"\p{L}+|\p{N}" + _REST,
    "GPT-4o": f"{_MARK}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_MARK}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?{_REST}",
    "GPT-4": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$",
    "BLOOM": r" ?[^(\s|[.,!?…。，、।۔،])]+",
    "CLIP": r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    "DeepSeek": "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| "
    "?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
    "Chinese": "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+",
    "without Chinese": r"[\p{Han}]+|[^\r\n\p{L}]?[\p{Lu}&&[^\p{Han}]]*[\p{Ll}&&[^\p{Han}]]+(?i:'s|'t)?",
    "classes by name": r"[[:alpha:]]+|[^[:^space:]x]|\x{1F600}|(?<digits>\d+)|(?<=a)b{4}",
}
ENDLESS = {
    "alternatives": "(?:a|a|b)" * 100 + "c",
    "of few": "(?:a|a)" * 30 + "c",
    "optional": "a?" * 40 + "c",
    "ranges": "a{0,8}" * 20 + "c",
    "exactly, or not": "a{1}?" * 40 + "c",
    "optional groups": "(?:aa|a)?" * 30 + "c",
    "groups in groups": "(?:" * 30 + "a" + "|aa)" * 30 + "(?:a|aa)" * 20 + "c",
    "shared": "a*a*c",
    "shared, in a group": "(?:a*a*c)?",
    "shared, behind": "(?:a*|b)(?:a*|b)$",
    "shared, by a look": "a*a*(?!a)",
    "shared, by a look of nothing": "a*a*(?!)",
    "many": "a*a{2,9}a*",
    "repeated group": "(?:a|b)+",
    "repeated range": "a{1,3}+",
    "behind a comment": "(?#[)" + "a*" * 9 + "c(?#])",
    "behind a control character": r"\c[" + "a*" * 9 + "c]",
    "behind an empty set": "[]" + "a*" * 9 + "c]",
    "behind a set that is none": "[[:x:]" + "a*" * 9 + "c]",
    "absent": "(?~c)*",
    "option to the end": "a*(?i)b|a*a*c",
    "extended": "(?x)#[\n" + "a*" * 9 + "c#]",
    "called": r"(?<x>a|a\g<x>)",
    "as before": r"(a*)(\1)c",
    "too long": "a" * (MAX_PATTERN + 1),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_those_of_published_families_are_read(name: str) -> None:
    assert is_bounded(PUBLISHED[name])


@pytest.mark.parametrize("name", ENDLESS)
def test_those_that_try_too_much_are_not(name: str) -> None:
    assert not is_bounded(ENDLESS[name])


HARDEST = [  # in one place of the text: all of it takes time as the square of its length
    r"\A(?:a|a)?a?a{1,8}a{0,1}a*c",
    r"\A(?:a|a)(?:a|a)(?:a|a)(?:a|a)(?:a|a)(?:a|a)a*c",
    r"\A(?:a|aa)?(?i:a?)a*a+(?:aac)?",
]
SPLIT = """
from tokenizers import Regex, pre_tokenizers
for pattern in {!r}:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    split.pre_tokenize_str("a" * 50_000 + " c")
"""


def test_the_library_gives_up_on_none_that_is_read() -> None:
    assert all(map(is_bounded, HARDEST))
    done = subprocess.run([sys.executable, "-c", SPLIT.format(HARDEST)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
