# Fast R-CNN (arXiv:1504.08083): the second stage of Faster R-CNN; proposals come with the samples.
_base_ = ['faster-rcnn_r50_fpn.py']
model = dict(_delete_=True, type='FastRCNN', data_preprocessor={{_base_.model.data_preprocessor}}, backbone={{_base_.model.backbone}},
             neck={{_base_.model.neck}}, roi_head={{_base_.model.roi_head}})
