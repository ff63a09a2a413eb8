"A training in a cell of JupyterLab, while the kernel's main thread is busy with it: Pause, Resume, Stop."
CELLS = ('''import time, torch
from torch import nn
from learndet.engine.hooks import Hook
from learndet.engine.optimizers import OptimWrapper
from learndet.engine.runner import IterBasedTrainLoop, Runner
from learndet.visualization.training_monitor import TrainingMonitor
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
    def train_step(self, data, optim_wrapper):
        with optim_wrapper.optim_context(self): loss = self.fc(data).square().mean()
        optim_wrapper.update_params(loss)
        time.sleep(.01)
        return dict(loss=loss.detach())
def make(work_dir, hooks, steps=100_000):
    torch.manual_seed(0)
    net, loader = Net(), torch.utils.data.DataLoader(torch.randn(8, 4), batch_size=2)
    return Runner(net, work_dir, loader, train_cfg=IterBasedTrainLoop(steps), optim_wrapper=OptimWrapper(torch.optim.SGD(net.parameters(), lr=1e-3)),
                  default_hooks=dict(checkpoint=None, progress=None), custom_hooks=hooks, seed=0, log_level='ERROR')
monitor = TrainingMonitor()
monitor''', '''runner = make('work', [monitor])
runner.train()
print('the cell', 'ended')''')


def test_a_busy_kernel_hears(notebook):
    nb = notebook(*CELLS, wait=False)
    nb.page.locator('[data-name=pause]').wait_for(timeout=60_000)
    w = nb.canvas()
    busy = nb.beside()                                              # asks by a subshell: the main thread is in the training
    where = lambda: busy.python('[runner.iter, runner.train_loop.position[1], monitor.paused, monitor.view.paused, runner.in_training]')
    assert nb.running() and where()[2:] == [False, False, True]

    w.control('pause').click()
    w.page.locator('.ld', has_text='paused after iteration').wait_for()
    stood = where()
    assert stood[2:] == [True, True, True] and f'paused after iteration {stood[1]} of 100000' in w.panel('Now').text_content()
    w.page.wait_for_timeout(1000)
    assert where() == stood and nb.running() and w.control('pause').text_content() == 'Resume'

    w.control('pause').click()
    w.wait("w.model.get('panels')[0].text.startsWith('iteration')")
    assert where()[1] > stood[1] and w.control('pause').text_content() == 'Pause'

    w.control('stop').click()
    w.page.locator('.jp-OutputArea-output', has_text='all done').wait_for(state='attached', timeout=30_000)
    assert w.page.locator('.jp-OutputArea-output', has_text='the cell ended').count() == 1
    w.page.locator('.ld', has_text='stopped after iteration').wait_for()
    assert w.page.locator('[data-mime-type="application/vnd.jupyter.stderr"]', has_text='Traceback').count() == 0
    assert w.control('stop').count() == 0
    done, position, training, steps = nb.python("[runner.iter, runner.train_loop.position[1], runner.in_training, [s for s, _ in monitor.history['loss']]]")
    assert stood[1] < done == position < 100_000 and not training and not nb.running() and steps == list(range(done))

    saved = nb.python("(lambda c: [c['meta']['iter'], c['loop']['position'][1]])(torch.load('work/interrupted.pth', weights_only=False))")
    assert saved == [done, done]                                    # and from there it goes on, to the very numbers of a run that nobody stopped
    more = done + 5
    losses = nb.python(f'''(lambda whole, again: [whole.train() and whole.buffer.values('loss'), again.train() and again.buffer.values('loss')])(
        make('whole', [], {more}), (lambda r: (setattr(r, '_resume', True), r)[1])(make('work', [], {more})))''')
    assert losses[0] == losses[1] and len(losses[0]) == more
