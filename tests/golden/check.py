"""Compares our model with recorded numbers of the original and says, tensor group by tensor group, how near it is.

    python tests/golden/check.py DIR [DIR...]

A DIR is one group's folder (A_grounding, ...) or holds several. Exit code 0: everything known passed; 1: something
differs, is missing or is unknown; 2: nothing to check was found.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import group_a
import group_b
import group_c
import group_d
import group_e
import torch
from ledger import Ledger, Line
from tolerances import TOLERANCES

from llava_grounding.errors import LlavaGroundingError

CHECKS: dict[str, Callable[[Path, Ledger], None]] = {
    "A_grounding": group_a.check_group,
    "B_visual_prompt": group_b.check_group,
    "C_inference": group_c.check_group,
    "D_training": group_d.check_group,
    "E_training_language": group_e.check_group,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparisons; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="DIR", help="a group's folder, or one that holds several"
    )
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; default: torch's choice")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)

    ledgers = []
    for folder in options.folders:
        if not folder.is_dir():
            print(f"{folder}: no such folder")
            return 2
        for group in find_groups(folder):
            check = CHECKS.get(kind_of(group) or "")
            if check is None:
                print(f"{group}: skipped, this group is not known yet\n")
            else:
                ledgers.append(check_one(group, check))
    for ledger in ledgers:
        print(summary(ledger))
    if not ledgers:
        print("nothing to check: none of the folders holds a known group")
        return 2
    return 0 if all(ledger.ok for ledger in ledgers) else 1


def find_groups(folder: Path) -> Iterator[Path]:
    """The folder itself if it is a group, else the groups inside of it, at any depth."""
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))
    if kind_of(folder) or not inner:
        yield folder
        return
    for path in inner:
        yield from find_groups(path)


def kind_of(folder: Path) -> str | None:
    """Which group a folder holds, by the beginning of its name: `D_training`, `D_training_seed7`, `D_other`."""
    return next((kind for kind in CHECKS if folder.name.startswith(kind[:2])), None)


def check_one(folder: Path, check: Callable[[Path, Ledger], None]) -> Ledger:
    """Check one group and print its lines."""
    ledger = Ledger(str(folder))
    print(folder)
    try:
        check(folder, ledger)
    except (LlavaGroundingError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        ledger.problems.append(f"stopped by {type(error).__name__}: {error}")
    width = max((len(line.pattern) for line in ledger.lines.values()), default=0)
    for line in ledger.lines.values():
        print(f"  {describe(line, width)}")
    for note in ledger.notes:
        print(f"  note  {note}")
    for problem in ledger.problems:
        print(f"  FAIL  {problem}")
    print()
    return ledger


def describe(line: Line, width: int) -> str:
    """One tensor group: verdict, name, worst error, what is allowed."""
    worst = line.worst
    found = worst.note or f"worst {worst.error:8.2e} ({worst.allowed_share:7.2%} of what is allowed)"
    tolerance = f"{line.tolerance}: {TOLERANCES[line.tolerance]}"
    text = f"{'pass' if line.ok else 'FAIL'}  {line.pattern:{width}}  {line.count:4d} x  {found}  {tolerance}"
    return text if line.ok else f"{text}  at {line.where}"


def summary(ledger: Ledger) -> str:
    """One line for a group."""
    failed = sum(not line.ok for line in ledger.lines.values()) + len(ledger.problems)
    verdict = "pass" if ledger.ok else "FAIL"
    return f"{verdict}  {ledger.name}: {ledger.num_tensors} tensors in {len(ledger.lines)} groups, {failed} failed"


if __name__ == "__main__":
    sys.exit(main())
