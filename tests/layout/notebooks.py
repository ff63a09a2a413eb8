"""Keep the notebooks in order.

    python tests/layout/notebooks.py check nbs     every notebook is clean, complete and free of machine paths
    python tests/layout/notebooks.py run nbs       execute each from top to bottom and keep its outputs
    python tests/layout/notebooks.py readme        README.md from nbs/index.ipynb
"""
import hashlib
import re
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[2]
SKIPPED = ('gpu', 'slow', 'eval:')              # cells with these flags run on request only
MACHINE_PATH = re.compile(r'(?<![\w.])/(work|tmp|root|home|Users|private)/[\w.-]')


def notebooks(folder='nbs'):
    "Every notebook below a folder, in reading order."
    return sorted(p for p in (ROOT / folder).rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts and not p.name.startswith('.'))


def is_skipped(cell):
    "Whether a cell carries a flag that keeps it from running."
    flags = [line.split()[1:] for line in cell.source.splitlines()[:5] if line.startswith('#|')]
    return any(flag in words for words in flags for flag in SKIPPED)


def joined(outputs):
    "Neighbouring pieces of one stream as one output: how a print is cut up differs from run to run."
    kept = []
    for out in outputs:
        if kept and out.output_type == kept[-1].output_type == 'stream' and out.name == kept[-1].name: kept[-1].text += out.text
        else: kept.append(out)
    return kept


def tidy(nb):
    "The notebook as it is committed: ids from the text, no counters, no metadata."
    seen = {}
    for cell in nb.cells:
        digest = hashlib.sha1(cell.source.encode()).hexdigest()[:8]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id, cell.metadata = digest if seen[digest] == 1 else f'{digest}-{seen[digest]}', {}
        if cell.cell_type != 'code': continue
        cell.execution_count, cell.outputs = None, joined(cell.outputs)
        for out in cell.outputs:
            if 'execution_count' in out: out.execution_count = None
            if 'metadata' in out: out.metadata = {}
            data = out.get('data', {})
            data.pop('application/vnd.jupyter.widget-view+json', None)         # its still picture stays
            if 'image/png' in data and 'Figure' in data.get('text/plain', ''): data['text/plain'] = '<Figure>'
    nb.metadata = {'kernelspec': {'display_name': 'python3', 'language': 'python', 'name': 'python3'}}
    nb.nbformat, nb.nbformat_minor = 4, 5
    return nb


def faults(path):
    "What is wrong with a committed notebook, one sentence each."
    nb = nbformat.read(path, 4)
    found = []
    text = Path(path).read_text(encoding='utf-8')
    if 'application/vnd.jupyter.widget-state' in text: found.append('keeps widget state')
    if nbformat.writes(tidy(nbformat.read(path, 4))).strip() != text.strip(): found.append("is not tidy: run 'make notebooks'")
    if not nb.cells or not nb.cells[0].source.startswith('# '): found.append('does not open with an H1 title')
    for i, cell in enumerate(nb.cells):
        if MACHINE_PATH.search(cell.source): found.append(f'cell {i} holds a path of a machine')
        for out in cell.get('outputs', ()):
            if MACHINE_PATH.search(str({k: v for k, v in out.items() if k != 'data'}) + str({k: v for k, v in out.get('data', {}).items() if 'image' not in k})):
                found.append(f'the output of cell {i} holds a path of a machine')
            if out.output_type == 'error': found.append(f'cell {i} ended in {out.ename}')
            if out.output_type == 'stream' and out.name == 'stderr': found.append(f'cell {i} wrote to stderr: {out.text[:80]!r}')
            if len(out.get('data', {}).get('image/png', '')) > 120_000: found.append(f'the figure of cell {i} is larger than 90 kB')
    if any(c.source.startswith('#| export') for c in nb.cells) and not any(c.get('outputs') for c in nb.cells):
        found.append('has no outputs: it was never run')
    return found


def run(path):
    "Execute a notebook in its own folder and write it back with its outputs."
    from nbclient import NotebookClient
    nb = nbformat.read(path, 4)
    kept = {i: c.source for i, c in enumerate(nb.cells) if c.cell_type == 'code' and is_skipped(c)}
    for i in kept: nb.cells[i].source = ''
    NotebookClient(nb, timeout=600, kernel_name='python3', resources={'metadata': {'path': str(Path(path).parent)}}).execute()
    for i, source in kept.items(): nb.cells[i].source = source
    nbformat.write(tidy(nb), path)


def readme():
    "README.md as Markdown of nbs/index.ipynb: text and code, no code cells that are marked `#| hide`, text outputs kept."
    from nbconvert import MarkdownExporter
    nb = nbformat.read(ROOT / 'nbs/index.ipynb', 4)
    nb.cells = [c for c in nb.cells if not c.source.startswith('#| hide')]
    nb.metadata['language_info'] = {'name': 'python'}
    return MarkdownExporter().from_notebook_node(nb)[0].replace('](images/', '](nbs/images/').strip() + '\n'


def main(command, *args):
    if command == 'readme':
        (ROOT / 'README.md').write_text(readme(), encoding='utf-8')
    elif command == 'run':
        for path in notebooks(*args):
            print(path.relative_to(ROOT), flush=True)
            run(path)
    elif command == 'check':
        bad = [(path, fault) for path in notebooks(*args) for fault in faults(path)]
        for path, fault in bad: print(f'{path.relative_to(ROOT)} {fault}')
        print(f'{len(notebooks(*args))} notebooks, {len(bad)} faults')
        return bool(bad)
    else: sys.exit(__doc__)


if __name__ == '__main__': sys.exit(main(*sys.argv[1:]))
