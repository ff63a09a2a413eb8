"The canvas's JavaScript in a browser, from the exported page."
import numpy as np
import torch

from learndet.visualization.box_canvas import BoxCanvas, control, style

IMG = np.full((120, 160, 3), 230, np.uint8)
BOXES = np.array([[10, 10, 50, 60], [60, 20, 110, 50], [100, 70, 150, 110], [20, 80, 40, 100]], np.float32)
STYLES = [style('negative', '#777777', kind='dot', shape='x'), style('positive', kind='outline'), style('forced', '#CC79A7', kind='outline', dash=(4, 3))]


def canvas(**more):
    return BoxCanvas(IMG, BOXES, score=[.1, .4, .6, .9], state=[0, 1, 2, 1], level=[0, 0, 1, 1], label=[-1, 0, 1, 2], gts=[[5, 70, 45, 110], [90, 60, 158, 118]],
                     gt_names=['cup', 'spoon'], names=['a', 'b', 'c'], styles=STYLES, title='Test', noun='prior', **more)


def test_pixels_are_those_of_the_palette(open_widget):
    w = open_widget(canvas())
    colors = w.colors()
    assert set(colors) == {'#777777', '#0072b2', '#cc79a7', '#009e73'}              # grey cross, label 0, forced, label 2
    solid, dashed = colors['#0072b2'], colors['#cc79a7']
    s = w.js('w.stacks()[0].t.s')
    assert abs(solid - 2 * (50 + 30) * s) < 8 and .4 < dashed / (2 * (50 + 40) * s) < .75


def test_filters_hide_boxes(open_widget):
    w = open_widget(canvas())
    assert w.visible() == 4
    w.filter('show.0').uncheck(); w.settle()
    assert w.visible() == 3 and '#777777' not in w.colors()
    w.filter('levels.1').uncheck(); w.settle()
    assert w.visible() == 1
    w.filter('levels.1').check(); w.filter('classes.2').uncheck(); w.settle()
    assert w.visible() == 2
    w.filter('threshold').fill('0.5'); w.settle()
    assert w.visible() == 1 and w.get('threshold') == .5
    assert '1 of 4 boxes visible' in w.root.locator('[aria-live=polite].sr').text_content()


def test_a_slider_under_the_mouse_survives_the_redraw_it_causes(open_widget):
    w = open_widget(canvas())
    box = w.filter('threshold').bounding_box()
    w.page.mouse.move(box['x'] + 3, box['y'] + box['height'] / 2); w.page.mouse.down()
    for share in (.2, .4, .6, .8): w.page.mouse.move(box['x'] + share * box['width'], box['y'] + 5); w.settle()
    w.page.mouse.up()
    assert .65 < w.get('threshold') < .85 and w.visible() == 1


def test_hover_click_and_cycle(open_widget):
    twins = np.concatenate([BOXES, [[55, 15, 115, 55]]])                            # shares its centre with box 1
    w = open_widget(BoxCanvas(IMG, twins, gts=[[5, 70, 45, 110]], noun='prior', unit=[0, 1, 2, 3, 1]))
    w.hover(85, 35)
    assert 'prior 1: 50 x 30' in w.root.locator('.card').text_content() and '2 boxes here' in w.root.locator('.card').text_content()
    w.click(85, 35); assert w.get('selected_prior') == 1                            # the smaller one first
    w.click(85, 35); assert w.get('selected_prior') == 4
    w.click(85, 35); assert w.get('selected_prior') == 1
    w.click(5, 95); assert w.get('selected_gt') == 0                                # its edge
    w.click(157, 5); assert (w.get('selected_prior'), w.get('selected_gt')) == (-1, -1)


def test_keyboard(open_widget):
    w = open_widget(canvas())
    w.root.focus()
    assert w.root.get_attribute('data-lm-suppress-shortcuts') == 'true' and 'arrow keys' in w.root.get_attribute('aria-label')
    press = lambda *keys: ([w.page.keyboard.press(k) for k in keys], w.settle())
    press('ArrowRight', 'ArrowRight', 'Enter'); assert w.get('selected_prior') == 1
    assert 'prior 1: 50 x 30, level 0, positive, class a, score 0.400 selected' in w.root.locator('.sr').text_content()
    press(']'); assert w.get('selected_gt') == 0
    press('['); assert w.get('selected_gt') == 1
    press('2'); assert w.get('levels') == [0] and w.visible() == 2
    press('+'); assert w.get('view')[2] > 1
    press('Shift+ArrowRight'); assert w.get('view')[0] > 80
    press('0'); assert w.get('view') == []
    press('Escape'); assert w.get('selected_prior') == -1


def test_drag_pans_wheel_zooms_and_the_point_under_the_mouse_stays(open_widget):
    w = open_widget(canvas())
    x, y = w.place(100, 60)
    w.page.mouse.move(x, y); w.page.mouse.down(); w.page.mouse.move(x - 40, y, steps=3); w.page.mouse.up(); w.settle()
    assert abs(w.place(100, 60)[0] - (x - 40)) < 2
    x, y = w.place(100, 60)
    w.page.mouse.move(x, y); w.page.mouse.wheel(0, -200); w.settle(); w.settle()
    w.wait('w.model.get("view")[2] > 1.1')
    w.settle()
    assert abs(w.place(100, 60)[0] - x) < 2 and abs(w.place(100, 60)[1] - y) < 2


def test_objects_can_be_dragged_and_resized(open_widget):
    w = open_widget(canvas(drag=[0]))
    def pull(a, b):
        w.page.mouse.move(*w.place(*a)); w.page.mouse.down(); w.page.mouse.move(*w.place(*b), steps=4); w.page.mouse.up(); w.settle()
    pull((25, 75), (35, 85))                                                        # inside: moves
    assert np.allclose(w.js('[...w.data().gts].slice(0, 4)'), [15, 80, 55, 120], atol=1)
    pull((55, 120), (65, 115))                                                      # a corner: resizes
    assert np.allclose(w.js('[...w.data().gts].slice(0, 4)'), [15, 80, 65, 115], atol=1)
    assert np.allclose(w.js('[...w.data().gts].slice(4)'), [90, 60, 158, 118])


def test_many_boxes_are_dots_until_told_otherwise(open_widget):
    n = 5000
    boxes = np.random.RandomState(0).rand(n, 4) * [120, 80, 40, 40]
    boxes[:, 2:] += boxes[:, :2] + 5
    w = open_widget(BoxCanvas(IMG, boxes))
    assert w.js('w.stacks()[0].outlines') is False and w.visible() == n
    dots = sum(w.colors().values())
    w.js("(w.model.set('renderer', 'raster'), 1)"); w.settle()
    assert w.js('w.stacks()[0].outlines') is True and sum(w.colors().values()) > 2 * dots


def test_side_by_side_pictures_share_view_and_selection(open_widget):
    w = open_widget(BoxCanvas(IMG, BOXES, state=[[0, 1, 1, 255], [1, 255, 0, 0]], styles=STYLES[:2], label=[[0, 0, 0, 0], [1, 1, 1, 1]], panes=['A', 'B']))
    assert (w.visible(0), w.visible(1)) == (3, 3) and '#0072b2' in w.colors(0) and '#e69f00' in w.colors(1)
    w.page.mouse.move(*w.place(80, 60, 1)); w.root.focus(); w.page.keyboard.press('+'); w.settle()
    assert w.js('w.stacks()[0].t.s') == w.js('w.stacks()[1].t.s') > 0
    assert 'negative (1 | 2)' in w.root.text_content()


def test_scenes_step_through_kept_results(open_widget):
    w = open_widget(canvas(scenes=[('first', dict(levels=[0])), ('second', dict(levels=[1], selected_gt=1))]))
    caption = w.root.locator('.caption')
    assert caption.text_content() == '1/2 first' and w.get('levels') == [0]
    w.root.locator('[data-scene=next]').click(); w.settle()
    assert caption.text_content() == '2/2 second' and w.get('levels') == [1] and w.get('selected_gt') == 1
    w.root.focus(); w.page.keyboard.press('PageUp'); w.settle()
    assert w.get('levels') == [0] and w.get('selected_gt') == -1


def test_panels_tables_and_locked_controls(open_widget):
    w = open_widget(canvas(controls=[control('iou', .5), control('which', 'b', options=['a', 'b']), control('scales', [4., 8.], .5, 64), control('fit', None)],
                           panels=[dict(title='Say', text='one\ntwo'), dict(title='Careful', alert='an orphan'), dict(title='Objects', columns=['object', 'n'], rows=[[0, 3], [1, .25]], select='gt'),
                                   dict(title='Hist', series=[dict(kind='bar', x=[0, 1, 2], y=[3, 2, 1])]), dict(title='Curve', series=[dict(kind='line', x=[0, 1], y=[1, 0], name='PR'), dict(kind='points', x=[.5], y=[.5])])]))
    assert w.control('iou').is_disabled() and 'need a running kernel' in w.root.text_content()
    assert w.panel('Say').text_content() == 'Sayone\ntwo' and w.panel('Careful').locator('[role=alert]').count() == 1
    w.panel('Objects').locator('tbody tr').nth(1).click(); w.settle()
    assert w.get('selected_gt') == 1 and '0.250' in w.panel('Objects').text_content()
    w.panel('Objects').locator('tbody tr').nth(0).focus(); w.page.keyboard.press('Enter'); w.settle()
    assert w.get('selected_gt') == 0
    assert w.panel('Hist').locator('rect').count() == 3 and w.panel('Curve').locator('polyline').count() == 1
    w.filter('table').click(); w.settle()
    assert w.root.locator('.table tbody tr').count() == 4


def test_empty_and_odd_canvases_open(open_widget):
    for widget in (BoxCanvas(), BoxCanvas(IMG), BoxCanvas(boxes=BOXES), BoxCanvas(IMG, BOXES[:0], gts=BOXES), BoxCanvas(title='</script><b>x')):
        assert open_widget(widget).js('w.data().n') in (0, 4)


def test_static_frame_needs_no_kernel(page, tmp_path, monkeypatch):
    monkeypatch.setenv('LEARNDET_WIDGETS', 'static')
    (tmp_path / 'docs.html').write_text(f"<!doctype html><body>{canvas()._repr_mimebundle_()['text/html']}</body>")
    page.goto((tmp_path / 'docs.html').as_uri())
    frame = page.frame_locator('iframe')
    frame.locator('.ld[data-draws]').wait_for()
    assert frame.locator('.ld').get_attribute('data-visible') == '4'


def test_a_number_near_a_limit_has_enough_digits(open_widget):
    "A prior below a threshold of 0.4 must not be said to have 0.400; others need three digits."
    boxes = np.float32([[10, 10, 20, 20], [40, 10, 50, 20], [70, 10, 80, 20], [100, 10, 110, 20]])
    w = open_widget(BoxCanvas(boxes=boxes, score=[.39996, .4, .7, 1e-9], size=[60, 120], controls=[control('thr', .4)], score_range=[0., 1.], threshold=0.))
    said = []
    for x in (15, 45, 75, 105):
        w.hover(x, 15)
        said.append(w.root.locator('.card').text_content().split('score ')[1])
    assert said == ['0.39996', '0.400', '0.700', '1.00e-9']
