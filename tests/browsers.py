"""A browser for tests of pages: Chromium as the system has it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, expect, sync_playwright


@contextmanager
def chromium() -> Iterator[Browser]:
    """Started here and ended at the end; where there is none, the test is skipped."""
    path = os.environ.get("LLAVA_GROUNDING_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no browser: install chromium, or set LLAVA_GROUNDING_CHROMIUM to its path")
    expect.set_options(timeout=60_000)  # with a loaded machine in mind
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
