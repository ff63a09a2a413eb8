"A model, a dataset and a metric of a few lines that speak the runner's protocol."
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from learndet.data.base_dataset import split_index
from learndet.data.samplers import BatchSampler, DefaultSampler, build_dataloader
from learndet.engine.optimizers import OptimWrapper
from learndet.structures.instance_data import DetDataSample, InstanceData


class Spots(Dataset):
    "16 × 16 pictures of noise with one bright 4 × 4 square; the noise is drawn anew in every epoch."
    metainfo, seed = dict(classes=("spot",)), 0

    def __init__(self, n=24): self.n = n
    def __len__(self): return self.n

    def __getitem__(self, index):
        i, seed = split_index(index)
        img = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(seed)) * .3
        x, y = i * 5 % 12, i * 7 % 12
        img[0, y:y + 4, x:x + 4] += 1
        gt = InstanceData(bboxes=torch.tensor([[x, y, x + 4, y + 4]]).float(), labels=torch.zeros(1, dtype=torch.long))
        sample = DetDataSample(metainfo=dict(img_id=i, img_path=f'spot_{i}.png', img_shape=(16, 16), ori_shape=(16, 16)), gt_instances=gt)
        return dict(inputs=img, data_samples=sample)


class SpotNet(nn.Module):
    "Predicts the square's box. Dropout and batch norm are there to make resuming hard."
    num_classes = 1

    def __init__(self, dropout=.2, norm=True):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, 2, 1)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.drop, self.fc = nn.Dropout(dropout), nn.Linear(4 * 64, 4)
        self.dataset_meta = None

    def forward(self, inputs): return self.fc(self.drop(self.norm(self.conv(torch.stack(list(inputs)))).relu().flatten(1)))

    def losses(self, data):
        pred = self(data['inputs'])
        gt = torch.stack([s.gt_instances.bboxes[0] for s in data['data_samples']]).to(pred) / 16
        return dict(loss_xy=F.mse_loss(pred[:, :2], gt[:, :2]), loss_wh=F.mse_loss(pred[:, 2:], gt[:, 2:]))

    def train_step(self, data, optim_wrapper):
        with optim_wrapper.optim_context(self): losses = self.losses(data)
        total = sum(losses.values())
        optim_wrapper.update_params(total)
        return {k: v.detach() for k, v in losses.items()} | dict(loss=total.detach())

    def val_step(self, data):
        for sample, box in zip(data['data_samples'], self(data['inputs'])):
            sample.pred_instances = InstanceData(bboxes=box[None] * 16, scores=torch.ones(1), labels=torch.zeros(1, dtype=torch.long))
        return data['data_samples']


class MeanError:
    "Mean distance between predicted and true corners, in pixels."
    def __init__(self): self.errors = []

    def process(self, samples, batch=None):
        self.errors += [float((s.pred_instances.bboxes - s.gt_instances.bboxes).abs().mean()) for s in samples]

    def evaluate(self, size=None):
        errors, self.errors = self.errors, []
        return dict(error_px=sum(errors) / len(errors), map=1 / (1 + sum(errors) / len(errors)))


def loader(n=24, batch_size=4, shuffle=True, seed=0, **kwargs):
    return build_dataloader(Spots(n), batch_size=batch_size, sampler=lambda d: DefaultSampler(d, shuffle=shuffle, seed=seed), **kwargs)


def sgd(model, lr=.05, **kwargs): return OptimWrapper(torch.optim.SGD(model.parameters(), lr, momentum=.9), **kwargs)
