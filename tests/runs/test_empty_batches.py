"Batches without any object, for every detector: finite loss, gradients everywhere, and two processes that agree."
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from learndet.structures.instance_data import DetDataSample, InstanceData
from learndet.structures.masks import BitmapMasks
from test_overfit import DETECTORS


def batch_of(objects):
    "Two random pictures with the objects given for each, (n, 4) lists."
    generator, samples = torch.Generator().manual_seed(0), []
    for boxes in objects:
        sample = DetDataSample(metainfo=dict(img_shape=(96, 128), ori_shape=(96, 128), scale_factor=(1., 1.), img_path='random'))
        sample.gt_instances = InstanceData(bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), labels=torch.zeros(len(boxes), dtype=torch.long),
                                            masks=BitmapMasks(torch.ones(len(boxes), 96, 128), 96, 128))
        samples.append(sample)
    return dict(inputs=[torch.randint(0, 256, (3, 96, 128), generator=generator, dtype=torch.uint8) for _ in objects], data_samples=samples)


def total_loss(model, batch):
    return sum(v for k, v in model(**model.preprocess(batch, True), mode='loss').items() if 'loss' in k)


@pytest.mark.parametrize('name', DETECTORS)
def test_a_batch_without_objects(name):
    torch.manual_seed(0)
    model = DETECTORS[name]().train()
    model.init_weights()
    loss = total_loss(model, batch_of([[], []]))
    loss.backward()
    assert torch.isfinite(loss)
    without = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not torch.isfinite(p.grad).all())]
    assert not without


def one_of_two(rank, name, port, queue):
    "One process of two: the first has no object in its pictures."
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    torch.manual_seed(0)
    model = DETECTORS[name]().train()
    model.init_weights()

    class Wrapped(torch.nn.Module):
        def __init__(self): super().__init__(); self.model = model
        def forward(self, batch): return total_loss(self.model, batch)
    wrapped = torch.nn.parallel.DistributedDataParallel(Wrapped())
    loss = wrapped(batch_of([[], []] if rank == 0 else [[[10, 10, 60, 60]], []]))
    loss.backward()
    if rank == 0: queue.put(sum(p.grad.abs().sum().item() for p in model.parameters() if p.grad is not None))
    dist.barrier(); dist.destroy_process_group()


@pytest.mark.parametrize('name', DETECTORS)
def test_two_processes_one_without_objects(name, unused_tcp_port):
    context = mp.get_context('spawn')
    queue = context.Queue()
    running = [context.Process(target=one_of_two, args=(rank, name, unused_tcp_port, queue)) for rank in range(2)]
    for p in running: p.start()
    for p in running: p.join(120)
    alive = [p for p in running if p.is_alive()]
    for p in alive: p.kill()
    assert not alive, 'the processes wait for each other'
    assert [p.exitcode for p in running] == [0, 0] and queue.get(timeout=5) > 0
