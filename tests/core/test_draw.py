"Drawing: what is accepted, where boxes land, what is refused."
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from learndet.core.draw import PALETTE, class_colors, corners, show_bboxes, show_grid, show_image, to_picture


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close('all')


@pytest.mark.parametrize('img', [np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6)), torch.zeros(3, 4, 6), torch.zeros(1, 4, 6),
                                 Image.new('RGB', (6, 4)), Image.new('L', (6, 4)), torch.zeros(3, 4, 6, dtype=torch.bfloat16)])
def test_every_costume_of_a_picture(img):
    assert to_picture(img).shape == (4, 6, 3) and to_picture(img).dtype == np.uint8


def test_a_tensor_of_three_by_three_is_channels_first():
    img = torch.zeros(3, 3, 3); img[0] = 1
    assert (to_picture(img) == [255, 0, 0]).all()


def test_a_picture_covers_the_coordinates_of_its_boxes():
    ax = show_image(np.zeros((4, 6, 3), np.uint8))
    assert ax.get_xlim() == (0, 6) and ax.get_ylim() == (4, 0)


def test_boxes_do_not_change_the_view_of_a_picture():
    ax = show_image(np.zeros((40, 60, 3), np.uint8))
    show_bboxes(torch.tensor([[-10., -10, 100, 100]], requires_grad=True), [0], [.5], classes=['cat'], ax=ax)
    assert ax.get_xlim() == (0, 60) and ax.texts[0].get_text() == 'cat 0.50'


def test_labels_choose_colors_and_none_draws_no_text():
    ax = show_bboxes([[0, 0, 1, 1], [2, 2, 3, 3]], labels=[1, 0])
    assert np.allclose(ax.collections[0].get_edgecolors()[0, :3], class_colors(2)[1])
    assert len(show_bboxes(np.zeros((0, 4))).texts) == 0 and len(show_bboxes([[0, 0, 1, 1]]).texts) == 0
    labels = torch.tensor([1, 0])
    assert [t.get_text() for t in show_bboxes([[0, 0, 1, 1], [2, 2, 3, 3]], labels=labels).texts] == ['1', '0']


def test_counts_must_agree():
    with pytest.raises(ValueError, match='1 scores for 2 boxes'): show_bboxes(np.zeros((2, 4)), scores=[1])
    with pytest.raises(ValueError, match='a picture is'): to_picture(np.zeros((4, 6, 5)))


def test_corners_are_clockwise():
    assert corners([[1, 2, 3, 5]])[0].tolist() == [[1, 2], [3, 2], [3, 5], [1, 5]]


def test_grid_and_colors():
    ax = show_grid((2, 3), (8, 4))
    assert ax.get_xlim()[1] > 24 > 8 and len(PALETTE) == 8 and len(set(class_colors(80))) == 80


def test_as_many_colours_as_channels_are_still_one_a_box():
    "Three or four names of colours are not one RGB(A) colour."
    import torch
    from matplotlib.colors import to_rgba
    from learndet.core.draw import PALETTE, show_bboxes
    boxes = torch.tensor([[0., 0, 9, 9]]).repeat(4, 1)
    ax = show_bboxes(boxes, colors=PALETTE[:4])
    assert [tuple(c) for c in ax.collections[0].get_edgecolor()] == [to_rgba(c) for c in PALETTE[:4]]
