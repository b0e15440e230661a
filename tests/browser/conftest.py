"""A headless Chromium, without a network, and the pages of some results in it."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import sample_results
from playwright.sync_api import Browser, Page, sync_playwright

from dualpath.compare.report import write

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")


@dataclass
class Opened:
    """A page, and what a browser complains about or asks for while it shows it."""

    page: Page
    trouble: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")  # no longer: while Playwright is there, nothing else can run an event loop
def browser() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("needs Chromium: `apt-get install chromium`")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def report(tmp_path_factory) -> Callable[[str], Path]:
    """Write the report of a sample, once; give its page."""
    folder = tmp_path_factory.mktemp("reports")
    return functools.cache(lambda sample: write(getattr(sample_results, sample)(), folder / sample))


@pytest.fixture
def show(browser, report):
    """Open a sample's page as a reader with this colour scheme and width."""
    contexts = []

    def opened(sample: str, scheme: str = "light", width: int = 1280, media: str = "screen") -> Opened:
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True, reduced_motion="reduce"
        )
        contexts.append(context)
        shown = Opened(context.new_page())
        address = report(sample).as_uri()
        for event in ("console", "pageerror", "dialog"):
            shown.page.on(event, lambda found, event=event: shown.trouble.append(f"{event}: {found}"))
        shown.page.on("request", lambda request: request.url == address or shown.trouble.append(request.url))
        shown.page.emulate_media(media=media, color_scheme=scheme)
        shown.page.goto(address)
        return shown

    yield opened
    for context in contexts:
        context.close()
