"""Chromium, for tests of pages."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

_QUIET = [
    *("--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"),
    "--disable-sync",
]


@contextmanager
def launched(flags: list[str] | None = None) -> Iterator[Any]:
    """A browser: its headless shell, or all of it where `flags` ask for `--headless=new`."""
    from playwright.sync_api import sync_playwright

    flags = flags or []
    with sync_playwright() as driver:
        path = shutil.which("chromium") or driver.chromium.executable_path
        if not Path(path).exists():
            pytest.fail("no Chromium: `apt-get install chromium`, or `playwright install chromium`", pytrace=False)
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        shell = "--headless=new" not in flags
        found = driver.chromium.launch(executable_path=path, headless=shell, args=[*_QUIET, *root, *flags])
        yield found
        found.close()
