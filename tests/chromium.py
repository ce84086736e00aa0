"""A page as headless Chromium has it; a test that needs one is skipped where there is none."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")

needs_a_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed: nothing draws the page"
)


def opened(profile: Path, address: str, *options: str) -> tuple[str, list[str]]:
    """Its stdout, and the lines of the page's console."""
    assert CHROMIUM
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
            "--disable-gpu",
            "--no-first-run",
            "--disable-background-networking",
            "--enable-logging=stderr",
            f"--user-data-dir={profile}",
            "--window-size=1280,1600",
            *options,
            address,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"Chromium does not start here: {done.stderr.strip()[-200:]}")
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
