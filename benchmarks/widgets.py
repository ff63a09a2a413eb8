"""A widget with many priors in JupyterLab, in a headless browser: first draw, and slider → assigner → canvas.

    python benchmarks/widgets.py [--priors 5000 20000 100000] [--repeat 15]

Prints medians in ms: the first draw from the call of `render` to the picture on the canvas (promised: under 500 at 100,000 priors), and from the
slider's `input` event over the kernel's assigner to the next finished draw (promised: under 250). Arrays must have come as binary buffers. The same slider with a matplotlib figure redrawn by the kernel stands beside it. Times are those of a browser
without a GPU, and mean little on a shared machine; the ratio of one run can be compared.
"""
import argparse
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / 'tests/widgets'))
from browser import find_browser, fresh_page, run_notebook, running_browser, running_lab

CELL = '''import time, statistics, numpy as np, torch
from learndet.task_modules.assigners.max_iou_assigner import MaxIoUAssigner
from learndet.task_modules.prior_generators.anchor_generator import AnchorGenerator
from learndet.visualization.assignment_inspector import explore_assignment
torch.set_num_threads(1)
side = 32 * round(({n} / 9 * 64 * 3 / 4) ** .5 / 32)
grid = [(-(-side // s), -(-side // s)) for s in (8, 16, 32, 64, 128)]
levels = AnchorGenerator([8, 16, 32, 64, 128], [.5, 1., 2.], octave_base_scale=4, scales_per_octave=3).grid_priors(grid)
rng = np.random.RandomState(0)
xy = rng.rand(12, 2) * side * .7
gts = torch.tensor(np.concatenate([xy, xy + np.exp(rng.uniform(3, 5, (12, 2)))], 1)).float()
img = rng.randint(0, 255, (side, side, 3), np.uint8)
w = explore_assignment(img, torch.cat(levels), gts, MaxIoUAssigner(.5, .4), [len(l) for l in levels])
w.put(show=[0, 1, 2, 3])
w'''
STILL = '''def still(thr):
    w.change(pos_iou_thr=thr)
    start = time.perf_counter(); w.to_png(); return time.perf_counter() - start'''
SLIDE = '''new Promise(done => {{
    const old = w.model.get('state'), start = performance.now(), slider = root.querySelector('[data-name=pos_iou_thr]');
    slider.value = {value}; slider.dispatchEvent(new Event('input'));
    let changed = 0;
    const look = () => {{
        if (!changed && w.model.get('state') !== old) changed = performance.now();
        if (changed && w.lastDraw().at > changed) done(w.lastDraw().at - start); else requestAnimationFrame(look);
    }};
    look(); }})'''


def main(priors, repeat):
    if find_browser() is None: sys.exit('no browser here: apt-get install chromium')
    print(f'{"priors":>8}{"first draw":>12}{"draw":>8}{"slider to canvas":>18}{"assigner":>10}{"matplotlib":>12}{"bytes sent":>12}')
    with tempfile.TemporaryDirectory() as folder, running_browser() as browser, running_lab(folder) as lab:
        for n in priors:
            with fresh_page(browser) as page:
                nb = run_notebook(page, lab, [CELL.format(n=n), STILL])
                w = nb.canvas()
                page.wait_for_timeout(500)
                if not w.js("['boxes', 'state', 'label', 'level', 'score'].every(k => w.model.get(k) instanceof DataView)"): sys.exit('arrays did not come as bytes')
                if w.visible() != nb.python('len(w.priors)'): sys.exit('not every prior was drawn')
                first, slide = w.js('w.lastDraw().first'), []
                for k in range(repeat):
                    slide.append(w.js(SLIDE.format(value=.5 + .01 * (k % 40 + 1))))
                draws = [w.js("(w.model.set('fade', .4 + .001 * %d), new Promise(r => requestAnimationFrame(() => requestAnimationFrame(() => r(w.lastDraw().ms)))))" % k) for k in range(repeat)]
                assign = nb.python('(lambda t: [w.assigners[0].assign(w.priors, w.objects) for _ in range(5)] and (time.perf_counter() - t) / 5)(time.perf_counter())')
                figure = nb.python('statistics.median(still(.5 + .01 * k) for k in range(1, 4))')
                sent = nb.python('len(w.state) + len(w.label)')
                count = nb.python('len(w.priors)')
                print(f'{count:8,}{first:12.0f}{statistics.median(draws):8.1f}{statistics.median(slide):18.0f}{assign * 1e3:10.1f}{figure * 1e3:12.0f}{sent:12,}')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--priors', type=int, nargs='+', default=[5000, 20000, 100000])
    parser.add_argument('--repeat', type=int, default=15)
    main(**vars(parser.parse_args()))
