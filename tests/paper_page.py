"""The ledger `docs/paper.md`, made of the table in `benchmark/published.py`; run as a script it is written."""

from __future__ import annotations

from house import ROOT
from llava_grounding.benchmark.published import LEDGER, PUBLISHED

PAGE = ROOT / "docs" / "paper.md"
_HEAD = """# The paper, line by line

Every table and claim of LLaVA-Grounding (arXiv:2312.02949) that can be measured: our command, what it needs, our number
where the data was at hand, and what differs. Where `ours` is empty only the command exists: neither COCO, RefCOCO,
Flickr30K nor a released checkpoint was at hand. Files are called as in the releases. A command that ends in `--out` and
a `.jsonl` makes the set of a table, and what follows is the same for all: `run --set SET --images PLACE --model MODEL
--out RESULTS`, then `score --set SET --out RESULTS`, with `--judge` and `--judge-url` for chats. Made by `make docs`
from `benchmark/published.py`; not edited by hand.

"""


def paper_page() -> str:
    """The page."""
    lines = [_HEAD + "| what | command | needs | ours | known differences |", "|---|---|---|---|---|"]
    for one in LEDGER:
        command = f"`{one.command}`" if one.command else ""
        lines.append(f"| {one.what} | {command} | {one.needs} | {one.ours} | {one.difference} |")
    lines += ["", "## The published numbers", "", "In percent. Reports show those of their task beside ours.", ""]
    lines += ["| table | task | system | numbers |", "|---|---|---|---|"]
    for row in PUBLISHED:
        numbers = ", ".join(f"{name} {value:g}" for name, value in row.values.items())
        system = row.system.replace("*", "\\*")
        lines.append(f"| {row.table} | {row.task} | {system} | {numbers} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(paper_page(), encoding="utf-8")
