"Two processes train as one, and fail as one."
import os, shlex, subprocess, sys, time
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from learndet.engine import distributed as D
from learndet.structures.instance_data import DetDataSample, InstanceData

HERE = Path(__file__).parent


def launch(work, tmp_path, world=2, timeout=120):
    "Run `work(tmp_path)` of this file in `world` processes, by torchrun."
    script = Path(tmp_path) / 'work.py'
    script.write_text(f'import sys; sys.path.insert(0, {str(HERE)!r})\nimport test_distributed as T\nT.{work}({str(tmp_path)!r})\n'
                      'import os; os._exit(0)\n')         # torch 2.14 now and then aborts while it takes itself down after the work
    command = shlex.split(D.torchrun_command([str(script)], gpus=world, port=D.free_port()))
    start = time.time()
    done = subprocess.run([sys.executable, '-m', 'torch.distributed.run', *command[1:]], capture_output=True, text=True, timeout=timeout,
                          env=os.environ | dict(OMP_NUM_THREADS='1'))
    return done.returncode, done.stderr, time.time() - start


def save(tmp_path, **values): torch.save(values, Path(tmp_path) / f'rank{D.get_rank()}.pt')
def load(tmp_path, rank): return torch.load(Path(tmp_path) / f'rank{rank}.pt', weights_only=False)


# ---- what the processes do

def together(tmp_path):
    "Everything that ends well, in one pair of processes, since starting them costs more than the work."
    torch.set_num_threads(1)
    D.init_dist('pytorch', timeout=100)
    for work in (sums, train, unused, norms):
        (Path(tmp_path) / work.__name__).mkdir(exist_ok=True)
        work(Path(tmp_path) / work.__name__)
    D.close_dist()


def sums(tmp_path):
    r = D.get_rank()
    p = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2, 2)), torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))]
    grads = {}
    for name, kwargs in dict(whole={}, buckets=dict(bucket_size_mb=1e-5), single=dict(coalesce=False)).items():
        for i, q in enumerate(p): q.grad = torch.full_like(q, float(r + i))
        D.allreduce_grads(p, **kwargs)
        grads[name] = [q.grad.clone() for q in p]
    sample = DetDataSample(metainfo=dict(img_path=f'{r}.jpg', ori_shape=(4, 5)), gt_instances=InstanceData(bboxes=torch.full((r, 4), 2.)))
    gathered = D.gather_objects(dict(rank=r, sample=sample, text='x' * (10 + 1000 * r)))
    with D.alone(): alone = D.get_dist_info(), float(D.reduce_mean(torch.tensor(5. + r)))
    save(tmp_path, info=D.get_dist_info(), mean=D.reduce_mean(torch.tensor([r, r + 1])), alone=alone, grads=grads,
         sum=D.all_reduce_dict(dict(b=torch.ones(2) * r, a=torch.tensor(r + 1))), avg=D.all_reduce_dict(dict(a=torch.tensor(1. + r)), 'mean'),
         seed=D.sync_random_seed(), given=D.sync_random_seed(5), told=D.broadcast_object(dict(a=r), 1),
         gathered=[(g['rank'], len(g['text']), g['sample'].img_path, g['sample'].ori_shape, g['sample'].gt_instances.bboxes) for g in gathered])


def small_run(tmp_path, world_batch=8, **kwargs):
    "One epoch over 24 pictures in global batches of `world_batch`; the loss is normalised by a count that differs between processes."
    from toy import MeanError, SpotNet, loader, sgd
    from learndet.engine.runner import EpochBasedTrainLoop, Runner

    class Counted(SpotNet):
        def losses(self, data):
            losses = super().losses(data)
            weight = torch.tensor([float(s.img_id % 3 + 1) for s in data['data_samples']])
            each = (self(data['inputs']) ** 2).mean(1)
            losses['loss_counted'] = (each * weight).sum() / D.reduce_mean(weight.sum()).clamp(min=1)
            return losses

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Counted(dropout=0, norm=False)
    runner = Runner(model, tmp_path, loader(24, world_batch // D.get_world_size()), loader(6, 2, shuffle=False), train_cfg=EpochBasedTrainLoop(2),
                    optim_wrapper=sgd(model, accumulative_counts=kwargs.pop('accumulate', 1)), val_evaluator=MeanError(), seed=1, log_level='ERROR',
                    default_hooks=dict(progress=None), **kwargs)
    runner.train()
    return runner


def train(tmp_path):
    runner = small_run(tmp_path)
    save(tmp_path, weights=D.unwrap_model(runner.model).state_dict(), metrics=runner.metrics, log=runner.buffer.last('loss'))
    runner = small_run(tmp_path, accumulate=2)
    (tmp_path / 'acc').mkdir(exist_ok=True)
    save(tmp_path / 'acc', weights=D.unwrap_model(runner.model).state_dict())


def one_fails(tmp_path):
    D.init_dist('pytorch', timeout=600)
    with D.fail_together():
        if D.get_rank() == 1: raise ZeroDivisionError('bad luck in rank one')
        time.sleep(600)                                    # as if waiting for a gradient that never comes


def unused(tmp_path):
    from toy import SpotNet, loader, sgd
    class Dead(SpotNet):
        def __init__(self): super().__init__(); self.dead_branch = torch.nn.Linear(2, 2)
    model = Dead()
    data = next(iter(loader()))
    try: D.DistributedModel(model).train_step(data, sgd(model))
    except RuntimeError as e: message = str(e)
    wrapped = D.DistributedModel(model, find_unused_parameters=True)
    for _ in range(2): out = wrapped.train_step(data, sgd(model))
    save(tmp_path, message=message, loss=float(out['loss']))


def norms(tmp_path):
    "Each process has seen other pictures; before a validation they agree on their statistics."
    from types import SimpleNamespace
    from learndet.engine.default_hooks import SyncNormHook
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2), torch.nn.BatchNorm2d(2))
    for m in model[1:]: m.running_mean.fill_(1. + D.get_rank()); m.running_var.fill_(2. + 2 * D.get_rank())
    SyncNormHook().before_val_epoch(SimpleNamespace(model=model))
    save(tmp_path, stats={k: v for k, v in model.state_dict().items() if 'running' in k})


# ---- what is expected of them

@pytest.fixture(scope='module')
def two(tmp_path_factory):
    path = tmp_path_factory.mktemp('two')
    code, errors, _ = launch('together', path)
    assert code == 0, errors
    return path


@pytest.mark.parametrize('rank', [0, 1])
def test_sums(two, rank):
    got = load(two / 'sums', rank)
    assert got['info'] == (rank, 2) and got['mean'].tolist() == [.5, 1.5] and got['alone'] == ((0, 1), 5. + rank)
    assert got['sum']['b'].tolist() == [1, 1] and got['sum']['a'] == 3 and got['avg']['a'] == 1.5
    assert got['seed'] == load(two / 'sums', 0)['seed'] and got['given'] == 5 and got['told'] == dict(a=1)
    for grads in got['grads'].values(): assert [g.unique().tolist() for g in grads] == [[.5], [1.5], [2.5]]
    assert [g[:4] for g in got['gathered']] == [(0, 10, '0.jpg', (4, 5)), (1, 1010, '1.jpg', (4, 5))]
    assert [g[4].shape for g in got['gathered']] == [(0, 4), (1, 4)]


def test_two_processes_are_one_with_the_same_global_batch(two, tmp_path):
    alone = small_run(tmp_path / 'alone')
    for rank in (0, 1):
        got = load(two / 'train', rank)
        for k, v in alone.model.state_dict().items(): torch.testing.assert_close(got['weights'][k], v, rtol=1e-5, atol=1e-6)
        assert got['metrics'] == load(two / 'train', 0)['metrics']
        assert abs(got['metrics']['error_px'] - alone.metrics['error_px']) < 1e-4
    alone = small_run(tmp_path / 'alone2', accumulate=2)
    for k, v in alone.model.state_dict().items(): torch.testing.assert_close(load(two / 'train' / 'acc', 1)['weights'][k], v, rtol=1e-5, atol=1e-6)
    assert len(list((two / 'train').glob('epoch_*.pth'))) == 2


def test_unused_parameters_are_named(two):
    got = load(two / 'unused', 0)
    assert '2 parameters get no gradient' in got['message'] and 'dead_branch.weight, dead_branch.bias' in got['message'] and got['loss'] > 0


@pytest.mark.parametrize('rank', [0, 1])
def test_norms_agree_before_a_validation(two, rank):
    stats = load(two / 'norms', rank)['stats']
    assert len(stats) == 4
    for name, value in stats.items(): assert value.tolist() == ([1.5] * 2 if 'mean' in name else [3.] * 2)


def test_one_rank_fails_and_all_end(tmp_path):
    code, errors, seconds = launch('one_fails', tmp_path)
    assert code != 0 and seconds < 60                      # 30 s, and what it takes to import torch three times
    assert 'bad luck in rank one' in errors


# ---- without processes

def test_alone_everything_is_the_identity():
    t = torch.tensor([1, 2])
    assert D.get_dist_info() == (0, 1) and D.reduce_mean(t) is t and D.gather_objects('x') == ['x'] and D.broadcast_object(3) == 3
    assert D.all_reduce_dict(dict(a=t))['a'] is t and D.sync_random_seed(7) == 7 and not D.is_distributed()
    D.barrier()
    with D.fail_together(): pass


@pytest.mark.parametrize('nodes, first', [('node7', 'node7'), ('node[03-05,9]', 'node03'), ('a[1,3]b,c', 'a1b'), ('gpu-2,gpu-3', 'gpu-2')])
def test_slurm_node_lists(nodes, first): assert D.first_slurm_node(nodes) == first


def test_slurm_environment():
    env = dict(SLURM_PROCID='5', SLURM_NTASKS='16', SLURM_LOCALID='1', SLURM_NODELIST='node[03-04]')
    assert D.slurm_env(env) == dict(RANK='5', WORLD_SIZE='16', LOCAL_RANK='1', MASTER_ADDR='node03', MASTER_PORT='29500')
    assert D.slurm_env(env, port=1)['MASTER_PORT'] == '1'
    with pytest.raises(ValueError, match='SLURM_PROCID'): D.slurm_env({})


def test_pack_refuses_code():
    class Evil:
        def __reduce__(self): return (os.system, ('true',))
    with pytest.raises(TypeError, match='Evil'): D.pack(Evil())
    import io
    buffer = io.BytesIO()
    torch.save(Evil.__reduce__, buffer) if False else torch.save(Path('x'), buffer)
    with pytest.raises(Exception): D.unpack(torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8))
    with pytest.raises(ValueError, match='may be rebuilt'): D.from_plain({'__object__': ['os', 'system'], 'state': {}})
