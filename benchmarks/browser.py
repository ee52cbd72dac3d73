"""The demo's page driven in headless Chromium with Playwright, as a user would."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Without them Chromium keeps looking for its own servers.
_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync")
_LOAD_MS, _ANSWER_MS = 120_000, 60_000


def chromium() -> str | None:
    """The browser's program, where there is one."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def demo(file: Path, *arguments: str | Path) -> Iterator[str]:
    """`edgekit demo` in a process of its own; gives the page's address."""
    command = [sys.executable, "-m", "edgekit", "demo", str(file), *(str(argument) for argument in arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        assert process.stdout is not None  # noqa: S101
        if not (url := process.stdout.readline().strip()):
            raise SystemExit(process.wait())
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def ask_page(url: str, texts: Sequence[str], picture: Path | None = None, width: int = 1000) -> list[dict[str, Any]]:
    """Type each text, press Run, and read both cards: label and milliseconds of `browser` and of `predict`, and the `state`.

    The page after the last text is kept as `picture`. A request to anywhere but `url` fails the whole run.
    """
    from playwright.sync_api import sync_playwright

    found = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=list(_FLAGS))
        page = browser.new_page(viewport={"width": width, "height": 800})
        strays: list[str] = []
        page.on("request", lambda request: None if request.url.startswith((url, "blob:", "data:")) else strays.append(request.url))
        page.goto(url)
        page.wait_for_selector("#run:not([disabled])", timeout=_LOAD_MS)
        for text in texts:
            page.fill("#text", text)
            page.click("#run")
            page.wait_for_selector("#run:not([disabled])", timeout=_ANSWER_MS)
            row: dict[str, Any] = {"state": page.inner_text("#state")}
            for card in ("browser", "predict"):
                row[card] = page.inner_text(f"#{card} .label")
                row[f"{card}_ms"] = float(page.inner_text(f"#{card} .time").split()[0])
            found.append(row)
        if picture:
            page.screenshot(path=str(picture), full_page=True)
        browser.close()
    if strays:
        raise SystemExit(f"the page asked for {strays[0]}")
    return found
