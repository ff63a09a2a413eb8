"Laws of data: nothing is lost unseen, labels mean names, shares are equal."
import numpy as np
from hypothesis import given, settings, strategies as st

from learndet.data.annotations import AnnotationTable, Report, check_boxes
from learndet.data.base_dataset import DetDataset
from learndet.data.classes import match_classes
from learndet.data.samplers import AspectRatioBatchSampler, DefaultSampler

coordinates = st.sampled_from([-20., -1., 0., .25, 1., 30., 59.5, 60., 90., 100., 130.])
boxes = st.lists(st.tuples(coordinates, coordinates, coordinates, coordinates), max_size=12)


def table(bboxes, img_index=None):
    N = len(bboxes)
    return AnnotationTable(np.array(['a', 'b']), np.array([1, 2]), np.array([(60, 100), (0, 0)]), np.zeros(N, int) if img_index is None else img_index,
                           np.array(bboxes, float).reshape(-1, 4), np.zeros(N, int), np.full(N, np.nan), np.zeros(N, bool), np.arange(N))


@given(boxes, st.data())
def test_in_is_kept_and_fixed_and_dropped(bboxes, data):
    images = np.array(data.draw(st.lists(st.sampled_from([-1, 0, 1]), min_size=len(bboxes), max_size=len(bboxes))), dtype=int)
    report = Report('x'); report.start(2, len(bboxes))
    kept = check_boxes(table(bboxes, images), report)
    c = report.counts()
    assert c['into'] == c['kept'] + c['fixed'] + c['dropped'] == len(bboxes)
    assert len(kept) == c['kept'] + c['fixed'] and (report.status[kept.rows] < 2).all()


@given(boxes)
def test_what_is_kept_is_a_box_on_its_image(bboxes):
    report = Report('x'); report.start(2, len(bboxes))
    kept = check_boxes(table(bboxes), report)
    x1, y1, x2, y2 = kept.bboxes.T
    assert ((0 <= x1) & (x1 < x2) & (x2 <= 100) & (0 <= y1) & (y1 < y2) & (y2 <= 60)).all() and (kept.area > 0).all()


@given(boxes)
def test_checking_twice_finds_nothing_new(bboxes):
    first = Report('x'); first.start(2, len(bboxes))
    kept = check_boxes(table(bboxes), first)
    again = Report('x'); again.start(2, len(bboxes))
    twice = check_boxes(kept, again)
    assert (twice.bboxes == kept.bboxes).all() and not again.reasons('FDE')


@given(st.permutations(['cat', 'dog', 'bird', 'cow']), st.permutations(['cat', 'dog', 'bird', 'cow']), st.integers(1, 4))
def test_a_label_means_its_name_in_any_order(file_names, wanted, n):
    match = match_classes(file_names, wanted[:n])
    for name, label in zip(file_names, match.labels.tolist()): assert label == -1 and name not in wanted[:n] or match.names[label] == name


class Shapes(DetDataset):
    def __init__(self, shapes): self.shapes = np.asarray(shapes)
    def __len__(self): return len(self.shapes)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([(5, 9), (9, 5), (5, 5)]), min_size=1, max_size=40), st.integers(1, 5), st.integers(1, 4), st.booleans(), st.integers(0, 3))
def test_all_ranks_have_as_many_batches_and_no_batch_is_mixed(shapes, batch_size, world, drop_last, epoch):
    samplers = [AspectRatioBatchSampler(DefaultSampler(Shapes(shapes), rank=r, world_size=world), batch_size, drop_last) for r in range(world)]
    for s in samplers: s.set_epoch(epoch)
    batches = [list(s) for s in samplers]
    assert len({len(b) for b in batches}) == 1 and [len(b) for b in batches] == [len(s) for s in samplers]
    for batch in (b for rank in batches for b in rank):
        assert 1 <= len(batch) <= batch_size and len({shapes[i][1] < shapes[i][0] for i, _ in batch}) == 1
    for step in zip(*batches): assert len({len(b) for b in step}) == 1
    if not drop_last: assert {i for rank in batches for b in rank for i, _ in b} == set(range(len(shapes)))
