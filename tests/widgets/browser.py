"""A browser, a page that may not leave this machine, a JupyterLab of our own, and a widget on a page.

Debian's chromium does the browsing, driven by playwright; nothing is downloaded. Tests (conftest.py) and benchmarks use this.
"""
import ast
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat

NAMES = ('chromium', 'chromium-headless-shell', 'chromium-browser', 'google-chrome')
ARGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
        '--disable-component-update', '--disable-sync']
NEAR = re.compile(r'^(file|data|blob|about):|^(https?|wss?)://(127\.0\.0\.1|localhost)[:/]')
HARMLESS = re.compile(r'favicon|ResizeObserver loop|Download the React DevTools')


def find_browser():
    "The path of a browser, or None."
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def running_browser():
    "One browser."
    from playwright.sync_api import sync_playwright
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), headless=True, args=ARGS)
        try: yield browser
        finally: browser.close()


@contextmanager
def fresh_page(browser):
    "A page; at the end, nothing may have been asked of the network or written to the console as an error."
    context = browser.new_context(viewport=dict(width=1100, height=900))
    context.set_default_timeout(15_000)
    page, left, errors = context.new_page(), [], []
    def decide(route):
        if NEAR.match(route.request.url): return route.continue_()
        left.append(route.request.url)
        route.abort()
    context.route('**/*', decide)
    page.on('pageerror', lambda error: errors.append(str(error)))
    page.on('console', lambda m: errors.append(m.text) if m.type == 'error' and not HARMLESS.search(m.text + str(m.location)) else None)
    yield page
    context.close()
    assert not left, f'requests that leave this machine: {left}'
    assert not errors, f'errors in the console: {errors}'


class Canvas:
    "A widget on a page: where it is, what it holds, what it shows. `pane` is one of the pictures side by side."
    def __init__(self, page, number=0):
        self.page, self.root = page, page.locator('.ld').nth(number)
        self.root.and_(page.locator('[data-draws]')).wait_for()

    def js(self, code):
        "A JavaScript expression over `w` (model, data(), stacks(), at(x, y, pane))."
        return self.root.evaluate(f'async root => {{ const w = root.boxcanvas; return {code}; }}')

    def get(self, trait): return self.js(f'w.model.get({trait!r})')
    def visible(self, pane=0): return int(self.root.get_attribute('data-visible').split(',')[pane])
    def settle(self): self.page.evaluate('() => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))')
    def place(self, x, y, pane=0): return self.js(f'w.at({x}, {y}, {pane})')
    def control(self, name): return self.root.locator(f'[data-name="{name}"]')
    def filter(self, name): return self.root.locator(f'[data-filter="{name}"]')
    def panel(self, title): return self.root.locator(f'[data-panel="{title}"]')

    def click(self, x, y, pane=0):
        "Click a point of the picture."
        self.page.mouse.click(*self.place(x, y, pane))
        self.settle()

    def hover(self, x, y, pane=0):
        self.page.mouse.move(*self.place(x, y, pane))
        self.settle()

    def colors(self, pane=0):
        "Colour → number of pixels of the boxes' own layer."
        return self.js(f'''(() => {{ const s = w.stacks()[{pane}], n = {{}};
            for (const p of s.px) if (p) {{ const k = '#' + [p & 255, (p >> 8) & 255, (p >> 16) & 255].map(v => v.toString(16).padStart(2, '0')).join(''); n[k] = (n[k] || 0) + 1; }}
            return n; }})()''')

    def wait(self, code, timeout=10_000):
        "Until a JavaScript expression over `w` is true."
        until = time.monotonic() + timeout / 1000
        while not self.js(code):
            if time.monotonic() > until: raise AssertionError(f'never true: {code}')
            self.page.wait_for_timeout(20)


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def die_with_parent():
    "The server ends when the tests do, however they end (Linux)."
    try:
        import ctypes
        ctypes.CDLL('libc.so.6').prctl(1, signal.SIGTERM)
    except OSError: pass


@contextmanager
def running_lab(folder):
    "A JupyterLab of our own on this machine: (address, folder of its notebooks)."
    home, root, port = Path(folder) / 'home', Path(folder) / 'notebooks', free_port()
    root.mkdir()
    settings = home / 'settings/@jupyterlab/apputils-extension'
    settings.mkdir(parents=True)
    (settings / 'notification.jupyterlab-settings').write_text(json.dumps(dict(fetchNews='false', checkForUpdates=False)))
    names = dict(JUPYTER_CONFIG_DIR='config', JUPYTER_RUNTIME_DIR='runtime', JUPYTER_DATA_DIR='data', IPYTHONDIR='ipython',
                 JUPYTERLAB_SETTINGS_DIR='settings', JUPYTERLAB_WORKSPACES_DIR='workspaces')
    env = {**os.environ, 'HOME': str(home), 'PYTHONPATH': str(Path(__file__).parents[2]), **{k: str(home / v) for k, v in names.items()}}
    server = subprocess.Popen(
        [sys.executable, '-m', 'jupyter', 'lab', '--no-browser', '--allow-root', '--ip=127.0.0.1', f'--port={port}', '--ServerApp.port_retries=0',
         '--IdentityProvider.token=', '--ServerApp.password=', '--ServerApp.disable_check_xsrf=True', f'--ServerApp.root_dir={root}',
         '--expose-app-in-browser', '--LabApp.news_url=None', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate',
         '--LabApp.extension_manager=readonly'], env=env, preexec_fn=die_with_parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f'http://127.0.0.1:{port}'
    for _ in range(300):
        try: urllib.request.urlopen(f'{address}/api', timeout=2); break
        except OSError: time.sleep(.1)
    try: yield address, root
    finally:
        server.terminate()
        server.wait(20)


class Notebook:
    "A notebook that was run in JupyterLab: its widgets, and its kernel."
    kernel = 'window.jupyterapp.shell.currentWidget.sessionContext.session.kernel'
    def __init__(self, page): self.page = page

    def canvas(self, number=0): return Canvas(self.page, number)
    def running(self): return self.page.locator('.jp-InputPrompt', has_text='[*]').count() > 0

    def beside(self):
        "The same kernel by a thread of its own, so that it answers while a cell runs."
        self.page.evaluate(f'''async () => {{
            window.beside = {self.kernel}.clone();
            window.beside.subshellId = (await {self.kernel}.requestCreateSubshell({{}}).done).content.subshell_id; }}''')
        other = Notebook(self.page)
        other.kernel = 'window.beside'
        return other

    def python(self, expression):
        "The value of a Python expression in the kernel."
        code = json.dumps(f'__import__("json").dumps({expression})')
        said = self.page.evaluate(f'''async () => {{
            const kernel = {self.kernel};
            const reply = await kernel.requestExecute({{code: '', silent: true, user_expressions: {{value: {code}}}}}).done;
            return reply.content.user_expressions.value; }}''')
        assert said['status'] == 'ok', said
        return json.loads(ast.literal_eval(said['data']['text/plain']))


def end_sessions(address):
    "Shut every kernel of a JupyterLab down."
    sessions = json.load(urllib.request.urlopen(f'{address}/api/sessions', timeout=10))
    for session in sessions: urllib.request.urlopen(urllib.request.Request(f'{address}/api/sessions/{session["id"]}', method='DELETE'), timeout=20)


def run_notebook(page, lab, cells, wait=True):
    "Cells as a new notebook, alone in a workspace of its own, run from top to bottom in JupyterLab; to its end, or only begun."
    address, root = lab
    end_sessions(address)
    name = f'widgets{len(list(root.iterdir()))}'
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in [*cells, 'print("all " + "done")']])
    nb.metadata['kernelspec'] = dict(name='python3', display_name='python3', language='python')
    nbformat.write(nb, root / f'{name}.ipynb')
    page.goto(f'{address}/lab/workspaces/{name}/tree/{name}.ipynb')
    page.wait_for_function('window.jupyterapp && window.jupyterapp.restored', timeout=60_000)
    page.evaluate('window.jupyterapp.restored')
    page.wait_for_function('''() => { const c = window.jupyterapp.shell.currentWidget?.sessionContext;
        return c?.isReady && c.session?.kernel?.status === 'idle'; }''', timeout=60_000)
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    if wait: page.locator('.jp-OutputArea-output', has_text='all done').wait_for(state='attached', timeout=60_000)       # perhaps off the screen
    return Notebook(page)
