"""The demo's page in a real browser, where Chromium, Playwright and LiteRT.js are installed."""

import pytest

from benchmarks.browser import ask_page, chromium, demo
from edgekit.deploy.browser.demo import find_runtime
from edgekit.errors import InputError
from tests.unit.workflows.test_predict import packed


def test_the_browser_says_what_predict_says(tiny_bert, tmp_path):
    pytest.importorskip("playwright", reason="needs Playwright: pip install playwright")
    if chromium() is None:
        pytest.skip("needs Chromium")
    try:
        find_runtime(None)
    except InputError as error:
        pytest.skip(error.message)
    file = packed(tiny_bert, tmp_path / "demo")
    with demo(file) as url:
        for row in ask_page(url, ("good film", "", "<b>bad</b> 🙂 film")):
            assert row["browser"] == row["predict"]
            assert row["state"] == "Both say the same."
