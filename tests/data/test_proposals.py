"Proposals from a file to a second stage, in pixels of the network's input."
import torch

from learndet.core.samples import samples_dir
from learndet.data.coco import CocoDataset
from learndet.data.samplers import pseudo_collate
from learndet.data.transforms.formatting import PackDetInputs
from learndet.data.transforms.geometric import RandomFlip, Resize
from learndet.data.transforms.loading import LoadAnnotations, LoadImageFromFile
from learndet.data.transforms.proposals import LoadProposals, ProposalBroadcaster, save_proposals
from learndet.zoo.by_heart import sample_preprocessor, slim_resnet
from learndet.zoo.fast_rcnn import fast_rcnn


def dataset(tmp_path=None):
    where = dict(ann_file='train.json', data_root=str(samples_dir()), data_prefix=dict(img='JPEGImages/'))
    if tmp_path is None: return CocoDataset(**where)
    move = ProposalBroadcaster([Resize(scale=(128, 128), keep_ratio=True), RandomFlip(prob=.5)])
    pipeline = [LoadImageFromFile(), LoadProposals(50), LoadAnnotations(with_bbox=True), move, PackDetInputs()]
    return CocoDataset(**where, proposal_file=str(tmp_path / 'proposals.npz'), pipeline=pipeline)


def test_the_objects_as_proposals_come_out_as_the_objects(tmp_path):
    plain, found = dataset(), []
    for i in range(len(plain)):
        info = plain.get_data_info(i)
        boxes = torch.tensor([o['bbox'] for o in info['instances'] if not o['ignore_flag']]).reshape(-1, 4)
        found.append(dict(img_id=info['img_id'], pred_instances=dict(bboxes=boxes, scores=torch.linspace(1, .5, len(boxes)))))
    save_proposals(tmp_path / 'proposals.npz', found)
    batch = pseudo_collate([dataset(tmp_path)[i] for i in range(len(plain))])
    for sample in batch['data_samples']: assert torch.allclose(sample.proposals.bboxes, sample.gt_instances.bboxes, atol=1e-4)
    model = fast_rcnn(3, slim_resnet(), channels=16, fc_out_channels=16, num_regions=16, data_preprocessor=sample_preprocessor())
    model.init_weights()
    losses = model(**model.preprocess(batch, True), mode='loss')
    assert torch.isfinite(losses['loss_cls']) and set(losses) == {'loss_cls', 'loss_bbox', 'acc'}
