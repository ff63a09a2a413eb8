"Samplers: fairness, faults, everything the laws do not say."
import pytest
import torch

from learndet.task_modules.assigners.assign_result import AssignResult
from learndet.task_modules.samplers.sampling import BaseSampler, PseudoSampler, RandomSampler, SamplingResult, pick


def assigned(gt_inds): return AssignResult(torch.as_tensor(gt_inds), torch.zeros(torch.as_tensor(gt_inds).shape))


def test_rpn_and_rcnn_settings():
    torch.manual_seed(0)
    many = assigned(torch.randint(-1, 3, (2, 3000)))
    for num, fraction in ((256, .5), (512, .25)):
        result = RandomSampler(num, fraction).sample(many)
        assert result.num_pos.tolist() == [128, 128] and (result.num_pos + result.num_neg).tolist() == [num, num]
        assert result.avg_factor == 2 * num
        assert result.label_weights().sum() == 2 * num and result.label_weights(2.).sum() == 2 * num + 256


def test_all_when_asked_for_more():
    result = RandomSampler(1_000_000, .5).sample(assigned([[1, 0, -1, 0], [0, 0, 0, 0]]))
    assert result.pos.tolist() == [[True, False, False, False], [False] * 4]
    assert result.neg.tolist() == [[False, True, False, True], [True] * 4]
    assert result.avg_factor == 1 + 2 + 1 + 4                                    # an image without positives counts one


def test_one_image_without_a_batch():
    result = RandomSampler(4, .5).sample(assigned([1, 2, 3, 0, 0, 0, 0]))
    assert (result.num_pos, result.num_neg, result.avg_factor) == (2, 2, 4)
    assert [t.shape for t in result.select(9)] == [(9,)] * 3


def test_nothing_at_all():
    for sampler in (RandomSampler(8, .5), PseudoSampler()):
        result = sampler.sample(assigned(torch.zeros(2, 0).long()))
        assert result.pos.shape == (2, 0) and result.avg_factor.isfinite() and result.select(3)[2].sum() == 0
    result = RandomSampler(8, .5).sample(assigned([[-1, -1, -1]]))
    assert result.num_pos + result.num_neg == 0 and result.avg_factor == 2


def test_fair():
    "Each of 20 candidates is drawn 5 of 20 times; chi-square over 8,000 draws stays below its 99.99 % quantile."
    gt_inds = torch.tensor([1] * 20 + [-1] * 5 + [0] * 20).expand(8000, 45)
    result = RandomSampler(10, .5).sample(assigned(gt_inds), torch.Generator().manual_seed(0))
    for mask in (result.pos[:, :20], result.neg[:, 25:]):
        counts = mask.sum(0).double()
        assert counts.sum() == 5 * 8000
        assert ((counts - 2000) ** 2 / (2000 * .75)).sum() < 52                  # 19 degrees of freedom
    pairs = (result.pos[:, 0] & result.pos[:, 1]).double().mean()
    assert abs(pairs - 5 * 4 / (20 * 19)) < .01                                  # and neighbours are not drawn together


def test_generators():
    gt_inds = torch.randint(-1, 3, (3, 200))
    draw = lambda seed: RandomSampler(20, .5).sample(assigned(gt_inds), torch.Generator().manual_seed(seed))
    assert torch.equal(draw(0).neg, draw(0).neg) and not torch.equal(draw(0).neg, draw(1).neg)
    torch.manual_seed(5); a = RandomSampler(20, .5).sample(assigned(gt_inds)).neg
    torch.manual_seed(5); b = RandomSampler(20, .5).sample(assigned(gt_inds)).neg
    assert torch.equal(a, b)


def test_negatives_for_each_positive():
    assert RandomSampler(64, .5, neg_pos_ub=3).sample(assigned([1, 2] + [0] * 60)).num_neg == 6
    assert RandomSampler(64, .5, neg_pos_ub=3).sample(assigned([0] * 60)).num_neg == 3
    assert RandomSampler(64, .5, neg_pos_ub=0).sample(assigned([1] + [0] * 60)).num_neg == 0
    assert RandomSampler(64, .5, neg_pos_ub=2.5).sample(assigned([1] + [0] * 60)).num_neg == 2


def test_select_order():
    pos, neg = torch.tensor([[False, True, False, True, False]]), torch.tensor([[True, False, False, False, True]])
    inds, positive, valid = SamplingResult(pos, neg, torch.zeros(1, 5).long(), torch.tensor(4.)).select(7)
    assert inds[0, :4].tolist() == [1, 3, 0, 4] and positive.sum() == 2 and valid.tolist() == [[True] * 4 + [False] * 3]


def test_a_sampler_says_both():
    class Half(BaseSampler):
        def _sample_neg(self, assign_result, candidates, num, lots): return pick(lots, candidates, num, self.num)
    with pytest.raises(TypeError, match='abstract'): Half(8, .5)
    with pytest.raises(NotImplementedError): PseudoSampler()._sample_pos()
    assert PseudoSampler(pos_fraction=.5).add_gt_as_proposals is False


@pytest.mark.parametrize('wrong', [dict(num=0, pos_fraction=.5), dict(num=8, pos_fraction=1.5), dict(num=8, pos_fraction=-.1)])
def test_faults(wrong):
    with pytest.raises(ValueError, match='num is at least 1'): RandomSampler(**wrong)
