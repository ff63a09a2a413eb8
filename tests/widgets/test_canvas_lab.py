"The canvas in JupyterLab: both sides of every trait."
CELLS = ('''import numpy as np, ipywidgets
from learndet.visualization.box_canvas import BoxCanvas, control, style
class Cut(BoxCanvas):
    def __init__(self):
        boxes = np.array([[5, 5, 40, 40], [50, 20, 90, 60], [100, 30, 150, 110]])
        super().__init__(np.full((120, 160, 3), 230, np.uint8), boxes, score=[.2, .5, .8], state=[0, 0, 0], gts=[[60, 70, 95, 110]],
                         styles=[style('out', '#777777'), style('in', '#D55E00')], controls=[control('cut', 60., 0, 160, 5), control('again', None)])
    def update(self):
        if self.params['cut'] > 140: raise ValueError('nothing is so far right')
        self.put(state=(self.array('boxes')[:, 0] >= self.params['cut']).astype(int), panels=[dict(title='Cut', text=f"{self.params['cut']:g}, {self.params['again'] or 0}")])
    def selected(self): self.put(panels=[dict(title='Picked', text=f'{self.selected_prior}')])
w, heard = Cut(), []
w.on_select(lambda canvas: heard.append(canvas.selected_prior))
w''', '''slider = ipywidgets.FloatSlider(value=.2, min=0, max=1, step=.1, description='score')
link = ipywidgets.jslink((slider, 'value'), (w, 'threshold'))
slider''')


def test_lab(notebook):
    nb = notebook(*CELLS)
    w = nb.canvas()
    assert w.colors().keys() == {'#777777', '#d55e00'} and w.panel('Cut').text_content() == 'Cut60, 0'
    red = w.colors()['#d55e00']

    seq = nb.python('w.seq')                                            # a slider runs Python, which sends states back
    w.control('cut').focus()
    for _ in range(6): w.page.keyboard.press('ArrowLeft')
    w.wait("w.model.get('panels')[0].text === '30, 0'"); w.settle()
    assert nb.python("w.params['cut']") == 30 and nb.python('w.seq') > seq and nb.python("w.array('state')[0].tolist()") == [0, 1, 1]
    assert w.colors()['#d55e00'] > red

    for n in (1, 2):                                                    # a button counts
        w.control('again').click()
        w.wait(f"w.model.get('panels')[0].text === '30, {n}'")

    w.control('cut').fill('145')                                        # what is refused is said, and the picture stays
    w.page.locator('.ld .alert', has_text='nothing is so far right').wait_for()
    assert nb.python("w.array('state')[0].tolist()") == [0, 1, 1]

    w.click(70, 40); w.panel('Picked').wait_for()                       # selection is read back, and heard
    assert nb.python('[w.selected_prior, heard]') == [1, [1]] and w.panel('Picked').text_content() == 'Picked1'
    nb.python('setattr(w, "selected_prior", 2)')
    w.wait("w.model.get('selected_prior') === 2")

    w.page.locator('.noUi-handle').focus()                              # jslink: no Python in between
    for _ in range(5): w.page.keyboard.press('ArrowRight')
    w.wait('w.stacks()[0].idx.length === 1')

    cells = w.page.locator('.jp-Cell').count()                          # JupyterLab's own keys keep out
    w.root.focus()
    for key in ('a', 'b', 'ArrowRight', 'Enter'): w.page.keyboard.press(key)
    w.settle()
    assert w.page.locator('.jp-Cell').count() == cells
