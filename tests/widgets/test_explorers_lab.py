"The explorers in JupyterLab: a slider runs the assigner, and what is picked is read back."
CELLS = ('''import torch
from learndet.core.samples import make_scene
from learndet.task_modules.assigners.max_iou_assigner import MaxIoUAssigner
from learndet.task_modules.prior_generators.anchor_generator import AnchorGenerator
from learndet.visualization.anchor_explorer import explore_priors
from learndet.visualization.assignment_inspector import explore_assignment
scene = make_scene(5)
gts = torch.tensor(scene.bboxes).float()
generator = AnchorGenerator([8, 16, 32], [.5, 1., 2.], [4.])
levels = generator.grid_priors([(24, 32), (12, 16), (6, 8)])
priors, parts = torch.cat(levels), [len(level) for level in levels]
w = explore_assignment(scene.img, priors, gts, MaxIoUAssigner(.5, .4, min_pos_iou=.4), parts)
w''', '''many = torch.cat([torch.tensor(make_scene(seed).bboxes) for seed in range(8)]).float()
anchors = explore_priors(generator, scene.img, gts, many)
anchors''')


def test_inspector_and_explorer(notebook):
    nb = notebook(*CELLS)
    w = nb.canvas()
    before = w.js('w.data().state.filter(s => s == 2).length')
    w.control('pos_iou_thr').focus()
    for _ in range(10): w.page.keyboard.press('ArrowRight')
    w.wait("Math.abs(w.model.get('params').pos_iou_thr - .6) < 1e-6 && w.model.get('panels').find(p => p.title === 'Rules').rows[2][3] < 35")
    w.settle()
    expected = nb.python("(MaxIoUAssigner(.6, .4, min_pos_iou=.4).assign(priors, gts).gt_inds + 1).tolist()")
    assert nb.python("(w.traces[0].gt_inds + 1).tolist()") == expected and w.js('w.data().state.filter(s => s == 2).length') < before

    w.control('neg_iou_thr').fill('0.9')
    w.page.locator('.ld .alert', has_text='0 <= neg_iou_thr <= pos_iou_thr does not hold').first.wait_for()
    w.control('neg_iou_thr').fill('0.4')
    w.page.locator('.ld .alert', has_text='does not hold').first.wait_for(state='hidden')

    p = nb.python('int((w.traces[0].gt_inds == -1).nonzero()[-1])')
    w.filter('show.0').uncheck(); w.filter('show.2').uncheck(); w.filter('show.3').uncheck(); w.settle()
    w.click(*nb.python(f'((priors[{p}, :2] + priors[{p}, 2:]) / 2).tolist()'))
    w.panel('Why').wait_for()
    assert nb.python('w.traces[0].why(w.selected_prior)') in w.panel('Why').text_content()
    w.panel('Rules').locator('tbody tr').nth(1).click()
    w.wait("w.model.get('params').step === 1")
    w.root.focus(); w.page.keyboard.press(']')
    w.wait("w.model.get('panels').some(p => p.title === 'Object 0')")
    assert nb.python('w.selected_gt') == 0

    a = nb.canvas(1)
    a.root.scroll_into_view_if_needed()
    a.control('scales').fill('2, 4'); a.control('scales').press('Enter')
    a.wait('w.data().n === 6048')
    assert nb.python("[anchors.params['scales'], len(anchors.array('boxes'))]") == [[2, 4], 6048]
    a.control('strides.0').focus(); a.page.keyboard.press('ArrowRight'); a.page.keyboard.press('ArrowRight')
    a.wait('w.model.get("params").strides[0] > 8')
    a.control('anchors').select_option('k-means')
    a.panel('Fitted shapes').wait_for()
    assert nb.python('float(anchors.best.mean())') > .5
