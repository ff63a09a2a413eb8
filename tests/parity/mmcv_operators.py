"""The compiled operators of mmcv 2.1, on a CPU, out of torch and torchvision: with them `mmcv.ops` itself can be imported.

mmcv-lite ships the Python half of `mmcv.ops`, which calls into a module `mmcv._ext` that it does not ship. `install` puts one there.
Forward passes only. Facts kept: greedy suppression drops at IoU > threshold, soft suppression lowers at >= and never drops the best box.
"""
import sys
import types

import torch
import torch.nn.functional as F
import torchvision


def box_ious(box, boxes, offset):
    "IoU of one box (4,) with boxes (N, 4); `offset` pixels are added to every width and height."
    sides = (torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2]) + offset).clamp(min=0)
    areas = lambda b: (b[..., 2] - b[..., 0] + offset) * (b[..., 3] - b[..., 1] + offset)
    inter = sides.prod(1)
    return inter / (areas(box) + areas(boxes) - inter)


def nms(boxes, scores, iou_threshold, offset):
    if not offset: return torchvision.ops.nms(boxes, scores, iou_threshold)
    order, keep = scores.argsort(descending=True, stable=True), []
    while len(order):
        keep.append(order[0])
        order = order[1:][box_ious(boxes[order[0]], boxes[order[1:]], offset) <= iou_threshold]
    return torch.stack(keep) if keep else order


def softnms(boxes, scores, dets, iou_threshold, sigma, min_score, method, offset):
    "Fills `dets` (N, 5) from the top and returns the positions of its rows; method 0 naive, 1 linear, 2 gaussian."
    left, scores, keep = torch.arange(len(boxes)), scores.clone(), []
    while len(left):
        best = left[scores[left].argmax()]
        dets[len(keep)] = torch.cat([boxes[best], scores[best, None]])
        keep.append(best)
        left = left[left != best]
        ious = box_ious(boxes[best], boxes[left], offset)
        if method == 2: scores[left] *= torch.exp(-ious ** 2 / sigma)
        else: scores[left] *= torch.where(ious >= iou_threshold, 1 - ious if method else torch.zeros_like(ious), torch.ones_like(ious))
        left = left[scores[left] >= min_score]
    return torch.stack(keep) if keep else left


def nms_match(dets, iou_threshold):
    "Groups of positions, each led by the box that removed the others."
    order, groups = dets[:, 4].argsort(descending=True, stable=True), []
    while len(order):
        near = box_ious(dets[order[0], :4], dets[order[1:], :4], 0) >= iou_threshold
        groups.append([int(order[0]), *order[1:][near].tolist()])
        order = order[1:][~near]
    return groups


def roi_align_forward(input, rois, output, argmax_y, argmax_x, aligned_height, aligned_width, spatial_scale, sampling_ratio, pool_mode, aligned):
    if not pool_mode: raise NotImplementedError('RoIAlign by maximum')
    output.copy_(torchvision.ops.roi_align(input, rois, (aligned_height, aligned_width), spatial_scale, sampling_ratio, bool(aligned)))


def deform_conv_forward(input, weight, offset, output, columns, ones, kW, kH, dW, dH, padW, padH, dilationW, dilationH, group, deformable_group, im2col_step):
    output.copy_(torchvision.ops.deform_conv2d(input, offset, weight, None, (dH, dW), (padH, padW), (dilationH, dilationW)))


def modulated_deform_conv_forward(input, weight, bias, ones, offset, mask, output, columns, kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w,
                                  dilation_h, dilation_w, group, deformable_group, with_bias):
    strides = (stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w)
    output.copy_(torchvision.ops.deform_conv2d(input, offset, weight, bias if with_bias else None, *strides, mask))


def carafe_forward(features, masks, rfeatures, routput, rmasks, output, kernel_size, group_size, scale_factor):
    "Every output pixel is a weighted sum of the k x k neighbourhood of the pixel it came from (arXiv:1905.02188, eq. 4)."
    B, C, H, W = features.shape
    near = F.unfold(features, kernel_size, padding=kernel_size // 2).view(B, group_size, C // group_size, kernel_size ** 2, H, W)
    near = near.repeat_interleave(scale_factor, dim=4).repeat_interleave(scale_factor, dim=5)
    output.copy_((near * masks.view(B, group_size, 1, kernel_size ** 2, *masks.shape[2:])).sum(3).flatten(1, 2))


def carafe_naive_forward(features, masks, output, **kwargs): carafe_forward(features, masks, None, None, None, output, **kwargs)


class Operators(types.ModuleType):
    "The operators above by their names; any other name refuses to be called."
    def __getattr__(self, name):
        if name.startswith('__'): raise AttributeError(name)
        def refuse(*args, **kwargs): raise NotImplementedError(f'mmcv._ext.{name} has no stand-in')
        return refuse


def install():
    "Make `mmcv.ops` importable where mmcv-lite is on the path."
    module = Operators('mmcv._ext')
    for operator in (nms, softnms, nms_match, roi_align_forward, deform_conv_forward, modulated_deform_conv_forward, carafe_forward, carafe_naive_forward):
        setattr(module, operator.__name__, operator)
    sys.modules['mmcv._ext'] = module
