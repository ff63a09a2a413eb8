"Two processes with two pictures each train as one process with all four: the same gradient, for every detector."
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from test_empty_batches import batch_of, total_loss
from test_overfit import DETECTORS

OBJECTS = [[[10, 10, 60, 60]], [], [[5, 20, 50, 90], [60, 8, 120, 70], [30, 30, 64, 64]], [[70, 40, 100, 80]]]


def everything_counts(model):
    "The model with batch norms that do not look at the batch, and samplers that leave nothing to chance."
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm): module.eval()
        samplers = getattr(module, 'sampler', None)
        for sampler in samplers if isinstance(samplers, (list, tuple)) else [samplers]:
            if hasattr(sampler, 'num'): sampler.num = 100_000
    return model


def prepared(name):
    torch.manual_seed(0)
    model = DETECTORS[name]()
    model.init_weights()
    return everything_counts(model.train())


def gradient_of(model, batch):
    total_loss(model, batch).backward()
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def half(rank, name, port, queue):
    "One process of two, with its share of the pictures."
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    whole = batch_of(OBJECTS)
    mine = {k: v[2 * rank:2 * rank + 2] for k, v in whole.items()}
    grads = gradient_of(prepared(name), mine)
    for g in grads.values(): dist.all_reduce(g); g /= 2                   # what DDP does
    if rank == 0: queue.put({n: g.numpy() for n, g in grads.items()})
    dist.barrier(); dist.destroy_process_group()


@pytest.mark.parametrize('name', DETECTORS)
def test_same_gradient_as_one_process(name, unused_tcp_port):
    one = gradient_of(prepared(name), batch_of(OBJECTS))
    context = mp.get_context('spawn')
    queue = context.Queue()
    running = [context.Process(target=half, args=(rank, name, unused_tcp_port, queue)) for rank in range(2)]
    for p in running: p.start()
    two = queue.get(timeout=150)
    for p in running: p.join(60)
    assert [p.exitcode for p in running] == [0, 0]
    assert set(one) == set(two)
    for n, g in one.items():
        scale = g.abs().max().clamp(min=1e-8)
        assert ((torch.from_numpy(two[n]) - g).abs().max() / scale) < 2e-3, n
