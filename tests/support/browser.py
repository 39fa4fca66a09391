"""Open a page in headless Chromium."""

import shutil
import subprocess
from pathlib import Path

import pytest


def browse(page: Path, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Open a page in headless Chromium with its own profile and without network; skip the test if there is no Chromium.
    """
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("no chromium on PATH")
    basis = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    quiet = ["--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr"]  # no network
    command = [chromium, *basis, *quiet, f"--user-data-dir={folder / 'profile'}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def complaints(page: Path, folder: Path) -> list[str]:
    """Return what the browser writes to its console about a page."""
    lines = browse(page, folder, "--dump-dom").stderr.splitlines()
    return [line for line in lines if "CONSOLE" in line]
