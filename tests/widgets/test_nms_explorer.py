"The explorer of suppression: its steps and its result are the library's, in Python and on its page."
import pytest
import torch

from learndet.core.samples import CLASSES, make_scene
from learndet.structures.nms import NMS, MatrixNMS, SoftNMS
from learndet.visualization.nms_explorer import LOW, LOWERED, REMOVED, RULES, STAYS, TAKEN, WAITING, explore_nms, nms_trace

SCENE = make_scene(5)


def detections(n=24):
    truth, rng, which = torch.tensor(SCENE.bboxes).float(), torch.Generator().manual_seed(1), torch.arange(n) % len(SCENE.bboxes)
    sizes = (truth[:, 2:] - truth[:, :2])[which].repeat(1, 2)
    boxes = truth[which] + .13 * sizes * torch.randn(n, 4, generator=rng)
    return boxes, torch.rand(n, generator=rng) * .9 + .05, torch.tensor(SCENE.labels)[which]


def explorer(**more): return explore_nms(SCENE.img, *detections(), classes=CLASSES, **more)


@pytest.mark.parametrize('rule', [NMS(.5), NMS(.3, True), SoftNMS(), SoftNMS(method='gaussian'), SoftNMS(.5, method='naive'), MatrixNMS(), MatrixNMS('linear')])
def test_steps_lead_to_the_rules_own_result(rule):
    boxes, scores, labels = detections()
    trace = nms_trace(boxes, scores, labels, rule)
    keep, lowered = rule(boxes, scores, labels)
    assert torch.equal(trace.keep, keep) and torch.allclose(trace.scores[-1][keep], lowered)
    assert (trace.scores[1:] <= trace.scores[:-1]).all() and ((trace.by >= 0) == (trace.scores[1:] < trace.scores[:-1])).all()
    for s, k in enumerate(trace.taken):
        if k >= 0: assert set(trace.by[s].tolist()) <= {-1, k}


def test_sliders_run_the_rule_and_the_states_follow():
    (boxes, scores, labels), w = detections(), explorer()
    for params in (dict(), dict(iou_threshold=.3), dict(score_thr=.4), dict(rule='soft, linear'), dict(rule='matrix, gaussian', min_score=.2)):
        w.change(**params)
        rows = (scores > w.params['score_thr']).nonzero()[:, 0]
        keep = rows[RULES[w.params['rule']](w.params)(boxes[rows], scores[rows], labels[rows])[0]].tolist()
        state = w.array('state')[0]
        assert sorted(w.keep) == sorted(keep) == [i for i, s in enumerate(state) if s in (STAYS, LOWERED)]
        assert (state == LOW).sum() == len(scores) - len(rows)
    w.change(rule='greedy', iou_threshold=.5, score_thr=0., step=0)
    assert set(w.array('state')[0]) == {WAITING} and len(w.array('arrows')) == 0
    w.change(step=1)
    assert (w.array('state')[0] == TAKEN).nonzero()[0].tolist() == [w.taken[0]] and len(w.array('arrows')) == (w.array('state')[0] == REMOVED).sum() > 0


def test_why_a_box_is_gone_and_clicks_on_steps():
    w = explorer()
    gone = int((w.by[0] >= 0).nonzero()[0])
    w.selected_prior = gone
    assert w.panels[0]['text'].startswith(f'box {gone} (') and f'step 1, box {w.taken[0]}: IoU' in w.panels[0]['text'] and len(w.array('arrows')) == 1
    w.selected_prior = -1
    w.clicked = [w.panels[-1]['title'], 1, 0, 1]
    assert w.params['step'] == 1 and w.panels[-1]['mark'] == 1
    table = w.to_dataframe()
    assert table['stays'].sum() == len(w.keep) and table['first_hit_by'][gone] == w.taken[0]


@pytest.mark.parametrize('n', [0, 1])
def test_nobody_and_somebody_alone(n):
    boxes, scores, labels = detections()
    w = explore_nms(None, boxes[:n], scores[:n], labels[:n])
    for rule in RULES:
        w.change(rule=rule)
        assert len(w.keep) == n and not w.message
    w.to_png(), w.to_html()


def test_page_replays_the_steps(open_widget):
    widget = explorer()
    w, trace = open_widget(widget), widget.trace
    assert 'result: ' in w.root.locator('.caption').text_content() and w.js("w.data().state.filter(s => s == 1).length") == len(widget.keep)
    for step in range(3):
        w.root.locator('[data-scene=next]').click(); w.settle()
        gone = int((trace.scores[step] == 0).sum())
        assert w.js('w.data().state.filter(s => s == 4).length') == gone and ('#d55e00' in w.colors()) == (gone > 0)
    w.root.focus(); w.page.keyboard.press('ArrowRight'); w.page.keyboard.press('Enter'); w.settle()
    picked = w.get('selected_prior')
    assert picked >= 0 and w.panel('Why').text_content() == 'Why' + widget.why(picked)
