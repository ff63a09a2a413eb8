"Samplers and loaders: fair shares, exact resuming, equal numbers of batches, workers that change nothing."
import functools, itertools, os, random, signal

import numpy as np
import pytest
import torch

from learndet.data.base_dataset import DetDataset, sample_seed
from learndet.data.plain_formats import ListDataset
from learndet.data.samplers import (AspectRatioBatchSampler, BatchSampler, ClassAwareSampler, DefaultSampler, InfiniteSampler, build_dataloader,
                                    safe_num_workers)
from learndet.data.transforms.pipeline import BaseTransform, rng_of


class Shapes(DetDataset):
    def __init__(self, shapes): self.shapes = np.asarray(shapes).reshape(-1, 2)
    def __len__(self): return len(self.shapes)


class Dice(BaseTransform):
    def transform(self, results):
        return dict(inputs=torch.tensor([rng_of(results).random(), np.random.rand() * 0, random.random() * 0]), data_samples=results['img_id'])


class Threads(BaseTransform):
    def transform(self, results):
        import cv2
        return dict(inputs=(torch.get_num_threads(), cv2.getNumThreads()), data_samples=results['img_id'])


class Kill(BaseTransform):
    def transform(self, results):
        if results['img_id'] == 'c': os.kill(os.getpid(), signal.SIGKILL)
        return dict(inputs=0, data_samples=results['img_id'])


def pictures(*pipeline, n=7, **kwargs):
    return ListDataset([dict(img_path=f'{c}.jpg', img_id=c, height=5, width=5) for c in 'abcdefghij'[:n]], classes=('x',), pipeline=pipeline, **kwargs)


@pytest.mark.parametrize('world', [1, 2, 3, 7])
@pytest.mark.parametrize('n', [1, 5, 12])
def test_every_rank_gets_its_share(n, world):
    for epoch in range(2):
        samplers = [DefaultSampler(range(n), rank=r, world_size=world) for r in range(world)]
        for s in samplers: s.set_epoch(epoch)
        shares = [[i for i, _ in s] for s in samplers]
        assert [len(s) for s in shares] == [len(s) for s in samplers] == [-(-n // world)] * world
        assert set(sum(shares, [])) == set(range(n))
        exact = [[i for i, _ in DefaultSampler(range(n), round_up=False, rank=r, world_size=world)] for r in range(world)]
        assert sorted(sum(exact, [])) == list(range(n))


def test_a_seed_belongs_to_epoch_and_index_whoever_asks():
    alone, shared = dict(DefaultSampler(range(10), seed=3)), {}
    for r in range(2): shared.update(DefaultSampler(range(10), seed=3, rank=r, world_size=2))
    assert alone == shared == {i: sample_seed(3, 0, i) for i in range(10)}
    assert dict(DefaultSampler(range(10), seed=3, shuffle=False)) == alone


@pytest.mark.parametrize('kind', [BatchSampler, AspectRatioBatchSampler])
@pytest.mark.parametrize('inner', [DefaultSampler, InfiniteSampler])
def test_skip_goes_on_where_it_was(kind, inner):
    shapes = Shapes([(5, 9), (9, 5), (5, 5)] * 7)
    for n in (0, 1, 3, 5):
        whole = list(itertools.islice(kind(inner(shapes, seed=1), 4), 6))
        resumed = kind(inner(shapes, seed=1), 4)
        resumed.skip(n)
        assert list(itertools.islice(resumed, 6 - n)) == whole[n:]
        assert list(itertools.islice(resumed, 6)) == whole


def test_skipping_counts_epochs_of_an_infinite_sampler():
    stream = list(itertools.islice(InfiniteSampler(range(5), seed=2), 15))
    later = InfiniteSampler(range(5), seed=2)
    later.set_epoch(1)
    assert list(itertools.islice(later, 10)) == stream[5:]


def test_class_aware_sampler_flattens_the_histogram():
    class Labels(DetDataset):
        def __len__(self): return 60
        def get_cat_ids(self, i): return [0] if i < 57 else [1] if i < 59 else []
    sampler = ClassAwareSampler(Labels(), num_sample_class=2)
    assert sampler.get_cat2imgs() == {0: list(range(57)), 1: [57, 58]} and len(sampler) == len(list(sampler)) == 60
    picked = [int(i >= 57) for i, _ in sampler]
    assert sum(picked) == 30 and all(a == b for a, b in zip(picked[::2], picked[1::2]))
    parts = [ClassAwareSampler(Labels(), rank=r, world_size=2) for r in range(2)]
    assert [len(list(p)) for p in parts] == [30, 30]


def test_batch_sampler_lengths():
    for n, b, drop in itertools.product((1, 4, 9), (1, 4, 10), (False, True)):
        s = BatchSampler(DefaultSampler(range(n)), b, drop)
        assert len(s) == len(list(s))


def test_workers_change_nothing():
    def epoch(workers, epoch):
        loader = build_dataloader(pictures(Dice()), 2, workers, persistent_workers=False)
        loader.batch_sampler.set_epoch(epoch)
        return [(i.tolist(), s) for b in loader for i, s in zip(b['inputs'], b['data_samples'])]
    assert epoch(0, 0) == epoch(2, 0) != epoch(0, 1)


def test_workers_have_one_thread():
    assert {t for b in build_dataloader(pictures(Threads()), 4, 1) for t in b['inputs']} <= {(1, 1), (1, 0)}


def test_persistent_workers_see_every_epoch():
    loader = build_dataloader(pictures(Dice()), 4, 1)
    epochs = []
    for e in range(2):
        loader.batch_sampler.set_epoch(e)
        epochs.append(sorted((s, *i.tolist()) for b in loader for i, s in zip(b['inputs'], b['data_samples'])))
    assert epochs[0] != epochs[1] and [s for s, *_ in epochs[0]] == [s for s, *_ in epochs[1]]


def test_a_plain_loader_gets_new_augmentations_every_epoch():
    from torch.utils.data import DataLoader
    loader = DataLoader(pictures(Dice()), num_workers=1, collate_fn=lambda x: x[0]['inputs'][0].item())
    assert list(loader) != list(loader)
    assert [x['inputs'][0] for x in (pictures(Dice())[i] for i in range(7))] == [x['inputs'][0] for x in (pictures(Dice())[i] for i in range(7))]


def test_a_killed_worker_names_its_picture():
    with pytest.raises(RuntimeError, match=r'It was reading sample 2, c\.jpg'):
        list(build_dataloader(pictures(Kill()), 1, 1, functools.partial(DefaultSampler, shuffle=False)))


def test_an_error_in_a_worker_names_its_picture():
    with pytest.raises(RuntimeError, match='b.jpg'): list(build_dataloader(pictures(lambda r: {}['x'] if r['img_id'] == 'b' else r), 1, 1))


def test_loaders_that_would_yield_nothing_are_refused():
    with pytest.raises(ValueError, match='7 images make no batch of 8'): build_dataloader(pictures(), 8, drop_last=True)
    with pytest.raises(ValueError, match='no images'): build_dataloader(pictures(n=0))
    assert len(build_dataloader(pictures(), 8)) == 1


def test_objects_and_functions_make_samplers():
    dataset = pictures()
    sampler = DefaultSampler(dataset, shuffle=False)
    for given in (sampler, functools.partial(DefaultSampler, shuffle=False)):
        loader = build_dataloader(dataset, 3, sampler=given, batch_sampler=AspectRatioBatchSampler)
        assert isinstance(loader.batch_sampler, AspectRatioBatchSampler) and [i for b in loader.batch_sampler for i, _ in b] == list(range(7))
    assert [i for b in build_dataloader(pictures(test_mode=True), 3).batch_sampler for i, _ in b] == list(range(7))


def test_what_cannot_be_imported_is_not_sent_to_a_new_process():
    with pytest.warns(UserWarning, match='num_workers=0 instead of 2'): assert safe_num_workers(pictures(lambda r: r), 2, 'spawn') == 0
    assert safe_num_workers(pictures(Dice()), 2, 'spawn') == 2
