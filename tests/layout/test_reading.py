"A reader's path: every chapter leads to the next one, and what a chapter of the task modules exports runs beside its definition."
import ast
import re

import nbformat
import pytest

from notebooks import ROOT, notebooks

NBS = ROOT / 'nbs'
IN_MOTION = ()                                             # rooms whose chapters are being renumbered
CHAPTERS = [p for p in notebooks() if p.parent != NBS]
NEXT = re.compile(r'Next: \[[^]]+\]\(([^)]+\.ipynb)\)')


def room(path): return path.relative_to(NBS).parts[0]


def closing_link(path):
    "Where the last text of a chapter sends its reader, or None."
    texts = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == 'markdown']
    found = NEXT.search(texts[-1]) if texts else None
    return found and (path.parent / found[1]).resolve()


def astray(path):
    "What is wrong with a chapter's closing link, in words."
    link = closing_link(path)
    if link is None: return ''
    if not link.exists(): return f'leads to {link.name}, which is not there'
    following = next(iter(CHAPTERS[CHAPTERS.index(path) + 1:]), None)
    if following in (None, link) or room(following) in IN_MOTION: return ''
    return f'leads to {link.relative_to(NBS)}, but {following.relative_to(NBS)} comes next'


@pytest.mark.parametrize('path', [p for p in CHAPTERS if room(p) not in IN_MOTION], ids=lambda p: str(p.relative_to(NBS)))
def test_closing_link_leads_to_the_next_chapter(path):
    assert not astray(path)


def test_chapters_of_task_modules_close_with_a_link():
    assert not [p for p in notebooks('nbs/03_task_modules') if closing_link(p) is None]


# What runs a method that nobody calls by its name: the class itself, or the method of the base class that asks for it.
CALLED_BY = {'match': r'\.(assign|trace)\(', 'explain': r'\.trace\(', 'assign_batch': r'\.assign\(', 'forward': r'\bloss\('}
NEAR = 2                                                     # code cells in which a definition must be seen at work


def source_of(cell):
    "A cell as Python: magics and nbdev's flags blanked, so that line numbers stay."
    return '\n'.join('' if line.startswith(('#|', '%', '!')) else line for line in cell.source.splitlines())


def exported(cell):
    "(name, pattern of a use, the cell without the definition) of every public function, class and patched method of a cell."
    if not re.search(r'^#\| *export', cell.source, re.M): return
    lines = source_of(cell).splitlines()
    for node in ast.parse('\n'.join(lines)).body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith('_'): continue
        patched = any(getattr(d, 'id', '') == 'patch' for d in node.decorator_list)
        pattern = '|'.join([rf'\.{node.name}\b', *filter(None, [CALLED_BY.get(node.name)])]) if patched else rf'\b{node.name}\b'
        yield node.name, pattern, '\n'.join(line for n, line in enumerate(lines, 1) if not node.lineno <= n <= node.end_lineno)


def unseen(cells):
    "Names that are exported by one of the cells and used neither there nor in the next two."
    for i, cell in enumerate(cells):
        for name, pattern, rest in exported(cell):
            if not any(re.search(pattern, text) for text in (rest, *(source_of(c) for c in cells[i + 1:i + 1 + NEAR]))): yield name


@pytest.mark.parametrize('path', notebooks('nbs/03_task_modules'), ids=lambda p: str(p.relative_to(NBS / '03_task_modules')))
def test_what_is_exported_runs_beside_its_definition(path):
    assert not list(unseen([c for c in nbformat.read(path, 4).cells if c.cell_type == 'code']))


def test_a_function_that_never_runs_is_seen():
    cell = lambda text: nbformat.v4.new_code_cell(text)
    define, use, other = cell('#| export\ndef f(x): return x\n\n@patch\ndef g(self: C): return 1'), cell('f(1), C().g()'), cell('1')
    assert list(unseen([define, use])) == list(unseen([define, other, use])) == []
    assert list(unseen([define, other, other, use])) == list(unseen([define])) == ['f', 'g']
    assert list(unseen([cell('#| export\n@patch\ndef match(self: C): return 1'), cell('C().assign(p)')])) == []
