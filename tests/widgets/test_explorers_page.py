"The explorers' exported pages in a browser."
import torch

from learndet.core.samples import make_scene
from learndet.task_modules.assigners.max_iou_assigner import MaxIoUAssigner
from learndet.task_modules.prior_generators.anchor_generator import AnchorGenerator
from learndet.visualization.anchor_explorer import explore_priors
from learndet.visualization.assignment_inspector import explore_assignment

SCENE = make_scene(5)
GTS = torch.tensor(SCENE.bboxes).float()
GENERATOR = AnchorGenerator([8, 16, 32], [.5, 1., 2.], [4.])
LEVELS = GENERATOR.grid_priors([(24, 32), (12, 16), (6, 8)])
PRIORS, PARTS = torch.cat(LEVELS), [len(level) for level in LEVELS]


def test_a_cell_shows_its_anchors(open_widget):
    w = open_widget(explore_priors(GENERATOR, SCENE.img, GTS))
    assert w.visible() == len(PRIORS) and w.js('w.stacks()[0].outlines') is True and set(w.colors()) == {'#000000'}
    w.hover(96, 112)
    first = w.get('hovered') // 3
    assert w.js(f'w.data().unit[{first * 3}]') == first and '3 boxes here' in w.root.locator('.card').text_content()
    w.filter('levels.0').uncheck(); w.settle()
    assert w.visible() == PARTS[1] + PARTS[2]
    w.filter('threshold').fill('0.6'); w.settle()
    assert 0 < w.visible() < 60
    for n, name in enumerate(['anchors of one cell', 'level 0 (stride 8)', 'level 1 (stride 16)'], 1):
        assert name in w.root.locator('.caption').text_content() and f'{n}/4' in w.root.locator('.caption').text_content()
        w.root.locator('[data-scene=next]').click(); w.settle()


def test_click_a_prior_and_read_why_click_an_object_and_read_its_row(open_widget):
    widget = explore_assignment(SCENE.img, PRIORS, GTS, MaxIoUAssigner(.5, .4, min_pos_iou=.4), PARTS)
    trace, w = widget.traces[0], open_widget(widget)
    p = int((trace.gt_inds == 3).nonzero()[0])
    x, y = ((PRIORS[p, :2] + PRIORS[p, 2:]) / 2).tolist()
    w.filter('show.0').uncheck(); w.filter('show.1').uncheck(); w.settle()
    w.click(x, y)
    picked = w.get('selected_prior')
    assert trace.gt_inds[picked] == 3 and w.panel('Why').first.text_content() == 'Why' + trace.why(picked)
    w.panel('Objects').locator('tbody tr').nth(5).click(); w.settle()
    assert w.get('selected_gt') == 5 and trace.why_object(5) in w.panel('Why').last.text_content()
    assert '5!' not in w.root.text_content() and trace.why_object(5) in w.panel('Careful').text_content()


def test_rules_replay_without_a_kernel(open_widget):
    widget = explore_assignment(SCENE.img, PRIORS, GTS, MaxIoUAssigner(.5, .4, min_pos_iou=.4), PARTS)
    w, steps = open_widget(widget), widget.traces[0].steps
    for rule, codes in steps.items():
        w.root.locator('[data-scene=next]').click(); w.settle()
        assert w.root.locator('.caption').text_content().endswith(rule)
        state = w.js('[...w.data().state]')
        assert [state.count(0), state.count(1)] == [int((codes == 0).sum()), int((codes == -1).sum())]
        assert w.panel('Rules').locator('tr.mark').text_content().startswith(rule)


def test_two_assigners_and_their_difference(open_widget):
    widget = explore_assignment(SCENE.img, PRIORS, GTS, [MaxIoUAssigner(.5, .4), MaxIoUAssigner(.7, .3)], PARTS)
    w = open_widget(widget)
    assert len(w.js('w.stacks()')) == 2 and 'positive (35 | 1)' in w.root.text_content()
    w.root.locator('[data-scene=next]').click(); w.settle()
    a, b = (t.gt_inds for t in widget.traces)
    assert len(w.js('w.stacks()')) == 1 and f'both ({int(((a == b) & (a > 0)).sum())})' in w.root.text_content()
    assert {'#000000', '#0072b2'} <= set(w.colors()) and 'Jaccard' in w.root.text_content()
    w.root.locator('[data-scene=prev]').click(); w.settle()
    assert len(w.js('w.stacks()')) == 2
