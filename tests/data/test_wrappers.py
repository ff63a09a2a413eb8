"Datasets around datasets, and around those."
import numpy as np
import pytest

from learndet.data.annotations import DatasetError
from learndet.data.classes import Classes
from learndet.data.plain_formats import ListDataset
from learndet.data.transforms.pipeline import BaseTransform, rng_of
from learndet.data.wrappers import ClassBalancedDataset, ConcatDataset, MultiImageMixDataset, RepeatDataset, agree_on_classes


def pets(ids, classes=('cat', 'dog'), **kwargs):
    return ListDataset([dict(img_path=f'{i}.jpg', img_id=i, height=10 + i, width=20, bboxes=[[1, 1, 5, 5]], labels=['cat' if i % 2 == 0 else 'dog'])
                        for i in ids], classes=classes, **kwargs)


def test_wrappers_of_wrappers_keep_every_view_in_step():
    dataset = RepeatDataset(ConcatDataset([pets(range(3)), ClassBalancedDataset(pets([4, 5, 7]), 1.)]), 2)
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    assert [d['height'] for d in infos] == dataset.shapes[:, 0].tolist()
    assert [dataset[i]['img_id'] for i in range(len(dataset))] == [d['img_id'] for d in infos]
    assert [dataset.get_cat_ids(i) for i in range(len(dataset))] == [[d['img_id'] % 2] for d in infos]
    assert dataset.classes.names == ('cat', 'dog') and len(dataset.report.line().splitlines()) == 2


def test_concatenation_is_by_name():
    both = ConcatDataset([pets(range(3)), pets(range(3, 6), ('dog', 'cat'))])
    gt = both.ground_truth()
    assert gt.labels.tolist() == [i % 2 for i in gt.img_ids] and gt.img_index.tolist() == list(range(6))
    assert gt.image_shapes == [(10 + i, 20) for i in range(6)]
    with pytest.raises(DatasetError, match='cow'): ConcatDataset([pets([0]), pets([2], ('cat', 'dog', 'cow'))])
    with pytest.raises(DatasetError, match='image id 0'): ConcatDataset([pets([0]), pets([0])]).ground_truth()
    with pytest.raises(ValueError, match='at least one'): ConcatDataset([])


def test_agreeing_speaks_of_classes_that_only_one_has():
    train, val = pets([0, 2]), pets([1, 2], ('dog', 'cat'))
    assert agree_on_classes(train, RepeatDataset(val, 2)) == ["class 'dog' has 0 boxes in train and 1 in val"]
    assert val.table.labels.tolist() == [1, 0]


def test_using_a_smaller_class_list_counts_what_it_drops():
    val = pets([0, 1, 2])
    val.use_classes(Classes(('dog',)))
    assert val.report.counts() == dict(into=3, kept=1, fixed=0, dropped=2) and val.report.images_empty == 2


class Pair(BaseTransform):
    def get_indexes(self, dataset, rng): return int(rng.integers(len(dataset)))
    def transform(self, results):
        return {**results, 'pair': (results['img_id'], results['mix_results'][0]['img_id'], round(rng_of(results).random(), 6))}


def test_a_mix_is_decided_by_its_seed():
    mix = MultiImageMixDataset(pets(range(6)), [Pair()])
    assert mix[2, 5]['pair'] == mix[2, 5]['pair'] and len({mix[2, s]['pair'] for s in range(20)}) == 20
    assert 'mix_results' not in mix[0] and len(mix) == 6
    assert 'pair' not in MultiImageMixDataset(pets(range(6)), [Pair()], skip_type_keys=['Pair'])[0]
    with pytest.raises(ValueError, match="'Mosaik'"): MultiImageMixDataset(pets([0]), [Pair()], skip_type_keys=['Mosaik'])


def test_an_error_inside_a_mix_names_the_picture():
    with pytest.raises(RuntimeError, match='4.jpg'): MultiImageMixDataset(pets(range(6)), [lambda r: 1 / 0])[4]


def test_balance_follows_lvis():
    images = pets([0] + list(range(1, 31, 2)))                          # one cat, fifteen dogs
    for thr in (1e-3, .25, 1.):
        balanced = ClassBalancedDataset(images, thr)
        cat, dog = (max(1, np.ceil(np.sqrt(thr / f))) for f in (1 / 16, 15 / 16))
        assert len(balanced) == cat + 15 * dog
