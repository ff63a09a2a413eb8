"The canvas without a browser: what it holds, refuses, draws and gives back."
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from learndet.visualization.box_canvas import HIDDEN, BoxCanvas, control, style

IMG = np.full((60, 80, 3), 200, np.uint8)
BOXES = torch.tensor([[2., 3, 30, 40], [10, 10, 50, 50], [60, 20, 78, 58]])


class Cut(BoxCanvas):
    "A slider over scores, done in Python."
    def __init__(self): super().__init__(IMG, BOXES, state=[0, 0, 0], styles=[style('out', '#777777', kind='dot'), style('in', '#0072B2')],
                                         controls=[control('cut', 15., 0, 60)], scenes=[('all', dict(params=dict(cut=0.))), ('none', dict(params=dict(cut=60.)))])
    def update(self):
        if self.params['cut'] == 13: raise ValueError('13 is refused')
        self.put(state=(self.array('boxes')[:, 0] >= self.params['cut']).astype(int))


def test_arrays_go_and_come_back():
    w = BoxCanvas(IMG, BOXES, score=[.1, .5, .9], level=[0, 1, 1], state=[[0, 0, HIDDEN], [0, 0, 0]], label=[-1, 0, 7], gts=BOXES[:1], panes=['a', 'b'], names=['cat'])
    assert w.array('boxes').tolist() == BOXES.tolist() and w.array('state').shape == (2, 3) and w.array('label').tolist() == [[-1, 0, 7]]
    assert len(w.boxes) == 48 and len(w.state) == 6 and w.level_names == ['level 0', 'level 1'] and w.threshold == pytest.approx(.1)
    assert w.visible(0).tolist() == [True, True, False] and w.visible(1).tolist() == [True, True, True]
    w.put(classes=[], levels=[1])
    assert w.visible(1).tolist() == [False, False, True]            # a label without a name cannot be switched off
    table = w.to_dataframe(visible=True)
    assert list(table.index) == [] and list(w.to_dataframe()['state a']) == ['box', 'box', 'hidden'] and list(w.to_dataframe()['class a']) == [-1, 'cat', 7]


def test_arguments_run_update_and_a_refused_one_leaves_the_picture():
    w = Cut()
    assert w.array('state')[0].tolist() == [0, 0, 1]
    seq = w.seq
    w.change(cut=5.)
    assert w.array('state')[0].tolist() == [0, 1, 1] and w.seq > seq
    w.change(cut=13)
    assert w.message == '13 is refused' and w.array('state')[0].tolist() == [0, 1, 1]
    w.change(cut=2.)
    assert w.message == '' and w.array('state')[0].tolist() == [1, 1, 1]


def test_scenes_are_baked_with_what_update_made_of_them_and_nothing_else_changes():
    w = Cut()
    baked = w.bake()
    states = [list(changes['state']) for _, changes in baked['scenes']]
    assert states == [[1, 1, 1], [0, 0, 1]] and w.array('state')[0].tolist() == [0, 0, 1] and w.params == {'cut': 15.}
    assert baked['frozen'] and not w.frozen


def test_view_is_kept_and_put_back():
    a, b = Cut(), Cut()
    a.change(cut=5.); a.put(show=[1]); a.selected_prior = 2
    kept = json.loads(json.dumps(a.state_dict()))
    b.load_state_dict(kept)
    assert b.state_dict() == kept and b.array('state').tolist() == a.array('state').tolist()


@pytest.mark.parametrize('many', [0, 3, 9000])
def test_still_picture(many):
    boxes = np.random.RandomState(0).rand(many, 4) * [40, 30, 40, 30]
    boxes[:, 2:] += boxes[:, :2]
    w = BoxCanvas(IMG, boxes, gts=BOXES, gt_alerts=[0, 1, 0], label=np.arange(many) % 5, panels=[dict(title='n', text=str(many)), dict(title='p', series=[dict(kind='line', x=[0, 1], y=[1, 0])])])
    w.selected_prior = many - 1
    picture = Image.open(io.BytesIO(w.to_png()))
    assert picture.width > 500 and len(picture.convert('RGB').getcolors(100_000)) > 5


def test_mime_bundle_and_static_pages(monkeypatch):
    data, _ = Cut()._repr_mimebundle_()
    assert {'image/png', 'text/plain', 'application/vnd.jupyter.widget-view+json'} <= set(data)
    monkeypatch.setenv('LEARNDET_WIDGETS', 'static')
    data = Cut()._repr_mimebundle_()
    assert set(data) == {'text/html', 'text/plain'} and 'srcdoc=' in data['text/html']


def test_page_is_complete():
    page = Cut().to_html()
    assert '<html lang="en">' in page and '<h1>' in page and 'http://' not in page.replace('http://www.w3.org', '') and 'https://' not in page


@pytest.mark.parametrize('arguments, message', [
    (dict(boxes=torch.rand(3, 5)), r'boxes are \(N, 4\) xyxy, got \(3, 5\)'), (dict(gts=torch.rand(4)), r'gts are \(N, 4\)'),
    (dict(boxes=BOXES, state=[0]), '1 values of state for 3 boxes'), (dict(boxes=BOXES * float('nan')), 'boxes holds 12 numbers that are not finite')])
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message): BoxCanvas(IMG, **arguments)


def test_without_anywidget_everything_imports_and_a_widget_says_what_is_missing():
    code = ('import sys\nfor name in ("anywidget", "ipywidgets", "traitlets", "pandas"): sys.modules[name] = None\n'
            'from learndet.visualization.box_canvas import BoxCanvas\n'
            'try: BoxCanvas()\nexcept ModuleNotFoundError as error: print(error)')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=120)
    assert "BoxCanvas is a widget" in done.stdout and "pip install 'learndet[lab]'" in done.stdout, done.stderr[-500:]
