"The first loss that is not finite stops the run, changes nothing, and leaves a file that repeats it."
import copy, sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from toy import SpotNet, Spots, sgd

from learndet.data.samplers import DefaultSampler, build_dataloader
from learndet.engine.black_box import NonFiniteLoss, replay
from learndet.engine.default_hooks import EMAHook
from learndet.engine.hooks import Hook
from learndet.engine.optimizers import OptimWrapper
from learndet.engine.runner import EpochBasedTrainLoop, Runner


class Poisoned(Spots):
    "Picture 9 is bad, in one of several ways."
    def __init__(self, n, how): self.n, self.how = n, how

    def __getitem__(self, index):
        item = super().__getitem__(index)
        if item['data_samples'].img_id != 9: return item
        if self.how == 'box': item['data_samples'].gt_instances.bboxes[0, 2] = float('inf')
        if self.how == 'pixel': item['inputs'][0, 3, 3] = float('nan')
        if self.how == 'flag': item['inputs'][0, 0, 0] = 1e30
        return item


class Fragile(SpotNet):
    "Its convolution overflows on a huge pixel."
    def __init__(self):
        super().__init__()
        with torch.no_grad(): self.conv.weight.add_(1e9)


class RootLoss(SpotNet):
    "A finite loss whose gradient is not: the root at zero."
    def losses(self, data):
        losses = super().losses(data)
        if any(s.img_id == 9 for s in data['data_samples']): losses['loss_root'] = (self.fc.weight.sum() * 0).sqrt()
        return losses


class Before(Hook):
    "Keeps a copy of everything before each step."
    priority = 'HIGHEST'
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        ema = runner.find_hook(EMAHook).ema_model
        self.kept = copy.deepcopy([runner.model.state_dict(), ema.state_dict(), runner.optim_wrapper.state_dict()])


def run(tmp_path, how, model=None, workers=0):
    torch.manual_seed(0)
    model, before = model or SpotNet(), Before()
    data = build_dataloader(Poisoned(24, how), batch_size=4, sampler=lambda d: DefaultSampler(d, seed=2))
    runner = Runner(model, tmp_path, data, train_cfg=EpochBasedTrainLoop(2), optim_wrapper=sgd(model), seed=0, log_level='CRITICAL',
                    default_hooks=dict(progress=None), custom_hooks=[before, EMAHook(momentum=.1)])
    with pytest.raises(NonFiniteLoss) as error: runner.train()
    after = [model.state_dict(), runner.find_hook(EMAHook).ema_model.state_dict(), runner.optim_wrapper.state_dict()]
    return runner, error.value, before.kept, after


def flat(obj):
    if isinstance(obj, torch.Tensor): return [obj]
    items = obj.values() if isinstance(obj, dict) else obj if isinstance(obj, (list, tuple)) else []
    return [t for v in items for t in flat(v)]


@pytest.mark.parametrize('how, term, first', [('box', 'loss_wh', 'the boxes of spot_9.png'), ('pixel', 'loss_xy', 'the picture spot_9.png'), ('flag', 'loss', 'conv')])
def test_stops_at_once_and_names_everything(tmp_path, how, term, first):
    runner, error, before, after = run(tmp_path, how, Fragile() if how == 'flag' else None)
    text = str(error)
    assert 'spot_9.png' in text and term in text and first in text and runner.iter < 6
    assert ('spot_9.png, annotation 0' in text) == (how == 'box')
    a, b = flat(before), flat(after)
    assert len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b))          # weights, average and momentum are untouched


@pytest.mark.parametrize('how', ['box', 'pixel'])
def test_replay_repeats_it(tmp_path, how):
    _, error, _, _ = run(tmp_path, how)
    torch.manual_seed(77)
    model = SpotNet()
    found = replay(error.path, model)
    assert found['terms'] == error.report['terms']
    assert found['first'] == error.report['first'] and 'spot_9.png' in str(found['report']['images'])
    kept = torch.load(error.path, weights_only=True)                                   # plain data
    assert set(kept) == {'meta', 'state_dict', 'data', 'rng', 'report', 'model_cfg'} and kept['model_cfg'] is None


def test_a_gradient_that_is_not_finite(tmp_path):
    _, error, before, after = run(tmp_path, 'none', RootLoss())
    assert 'gradient of fc.weight' in str(error)
    assert all(torch.equal(before[0][k], after[0][k]) for k in before[0] if 'running' not in k and 'tracked' not in k)


def test_examine_changes_nothing(tmp_path):
    _, error, _, _ = run(tmp_path, 'box')
    model = SpotNet()
    replay(error.path, model)
    kept = torch.load(error.path, weights_only=True)
    assert all(torch.equal(v, kept['state_dict'][k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


class LateDevice:
    "Stands in for a GPU that answers a question only after three more have been asked."
    def __init__(self): self.asked = 0

    def ask(self, flag):
        self.asked += 1
        return flag.clone(), LateAnswer(self, self.asked)

class LateAnswer:
    def __init__(self, device, number): self.device, self.number = device, number
    def query(self): return self.device.asked >= self.number + 3
    def synchronize(self): pass


def test_a_late_answer_names_the_right_batch_and_the_weights_have_waited(tmp_path, monkeypatch):
    from learndet.engine import black_box
    monkeypatch.setattr(black_box, 'ask', LateDevice().ask)
    _, error, _, after = run(tmp_path / 'late', 'box')
    monkeypatch.undo()
    _, prompt, _, expected = run(tmp_path / 'prompt', 'box')
    assert error.report == prompt.report                                                # the same step, batch and annotation
    assert all(torch.equal(a, b) for a, b in zip(flat(after), flat(expected)))          # three steps later, nothing has moved


def test_no_step_waits_for_the_device(tmp_path, monkeypatch):
    from learndet.engine import black_box
    from test_runner import NoReads
    monkeypatch.setattr(black_box, 'ask', LateDevice().ask)
    monkeypatch.setattr(LateAnswer, 'query', lambda self: False)
    torch.manual_seed(0)
    model, counts = SpotNet(norm=False), []
    optim = OptimWrapper(torch.optim.SGD(model.parameters(), .05, fused=True))          # whose kernels look at the flag themselves
    class Watch(Hook):
        priority = 'HIGHEST'
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            self.mode = NoReads()
            self.mode.__enter__()
    class Count(Hook):
        priority = 'LOWEST'
        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            watch.mode.__exit__(None, None, None)
            counts.append(watch.mode.reads)
    watch = Watch()
    Runner(model, tmp_path, build_dataloader(Spots(24), batch_size=4), train_cfg=EpochBasedTrainLoop(2), optim_wrapper=optim, seed=0,
           log_level='CRITICAL', default_hooks=dict(progress=None, checkpoint=None), custom_hooks=[watch, Count()]).train()
    assert len(counts) == 12 and sum(counts) == counts[5] + counts[11], counts          # only where the log is read
