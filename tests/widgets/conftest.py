"""Widgets in a real browser. Three layers: Python alone; the JavaScript from a page (`open_widget`); JupyterLab (`notebook`).

Where no browser or no playwright is installed, these tests are skipped and say so. `make test` installs both where it can.
"""
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from browser import Canvas, find_browser, fresh_page, run_notebook, running_browser, running_lab


@pytest.fixture(scope='session')
def browser():
    "One browser for all tests."
    if find_browser() is None: pytest.skip('no browser here: apt-get install chromium')
    pytest.importorskip('playwright.sync_api', reason='playwright is not installed: pip install playwright')
    with running_browser() as one: yield one


@pytest.fixture
def page(browser):
    "A fresh page; at the end, nothing may have been asked of the network or written to the console as an error."
    with fresh_page(browser) as one: yield one


@pytest.fixture
def open_widget(page, tmp_path):
    "A function: widget → its exported page in the browser, as a Canvas."
    def opened(widget):
        widget.to_html(tmp_path / 'widget.html')
        page.goto((tmp_path / 'widget.html').as_uri())
        return Canvas(page)
    return opened


@pytest.fixture(scope='session')
def lab(browser, tmp_path_factory):
    "A JupyterLab of our own on this machine: (address, folder)."
    pytest.importorskip('jupyterlab', reason="JupyterLab is not installed: pip install 'learndet[lab]'")
    with running_lab(tmp_path_factory.mktemp('lab')) as one: yield one


@pytest.fixture
def notebook(lab, page):
    "A function: cells → the notebook, run from top to bottom in JupyterLab."
    return lambda *cells, **more: run_notebook(page, lab, cells, **more)
