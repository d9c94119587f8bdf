"""The ledger of the paper: current, with commands that exist and every published number of our notes."""

from __future__ import annotations

import shlex
from typing import Any

from typer.main import get_command

from llava_grounding.benchmark.published import LEDGER, PUBLISHED, published_for
from llava_grounding.benchmark.tasks import TASKS, find_task
from llava_grounding.cli.main import app
from paper_page import PAGE, paper_page


def test_the_page_is_made_of_the_table() -> None:
    assert PAGE.read_text(encoding="utf-8") == paper_page(), "bring it up to date with `make docs`"


def test_published_numbers_belong_to_tasks_and_tables_that_the_ledger_has() -> None:
    assert {one.task for one in PUBLISHED} <= TASKS.keys()
    said = " ".join(one.what for one in LEDGER)
    assert all(one.table in said for one in PUBLISHED)
    assert len({(one.table, one.system, one.task) for one in PUBLISHED}) == len(PUBLISHED)
    (ours,) = [one for one in published_for("grounding-bench") if one.system == "LLaVA-G"]
    p, r, f1 = (ours.values[f"{name} (1000 images)"] for name in ("precision", "recall", "F1"))
    assert abs(2 * p * r / (p + r) - f1) < 0.1
    assert all(0 < value < 110 for one in PUBLISHED for value in one.values.values())


def test_every_command_of_the_ledger_is_one_and_every_task_is_said_in_a_line() -> None:
    for entry in LEDGER:
        program, *words = shlex.split(entry.command)
        command: Any = get_command(app)
        context = command.make_context(program, words)
        while hasattr(command, "commands"):  # of the last all words must be known and none missing
            words = [*context._protected_args, *context.args]
            name, command, words = command.resolve_command(context, words)
            context = command.make_context(name, words, parent=context)
    assert all(task.in_a_line for task in TASKS.values())
    assert {find_task(name).table for name in TASKS} >= {"4", "5", "6", "7", "12"}
