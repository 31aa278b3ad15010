"""What the overlay pictures show, pixel by pixel."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from sa2net.anatomy import FOREGROUND, IGNORE_INDEX
from sa2net.evaluation.overlay import (
    CONFUSED,
    FALSE,
    GAINED,
    IGNORED,
    LOST,
    MISSED,
    STILL_WRONG,
    draw_change,
    draw_mask,
    draw_overlay,
    jpeg_uri,
)

HEIGHT, WIDTH = 300, 260


def masks():
    truth = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    truth[20:80, 20:80] = 1
    truth[120:180, 20:80] = 3
    prediction = np.zeros_like(truth)
    prediction[20:80, 40:100] = 1
    prediction[120:180, 20:80] = 2
    return truth, prediction


def panels(picture, count=3):
    """The panels without titles and legends: their own pixels only."""
    body = picture[-HEIGHT:]
    column = (body.shape[1] + 8) // count
    left = (column - 8 - WIDTH) // 2
    return [body[:, index * column + left :][:, :WIDTH] for index in range(count)]


def reddish(pixel, colour):
    """Whether a pixel is a colour mixed over dark grey: 85 % of the colour."""
    return np.allclose(pixel, np.array(colour) * 0.85, atol=20)


def test_errors_panel_tells_missed_false_and_wrong_class_apart():
    truth, prediction = masks()
    scan = np.full((HEIGHT, WIDTH), 100, dtype=np.uint8)
    errors = panels(draw_overlay(scan, truth, prediction))[2]
    assert reddish(errors[50, 30], MISSED)
    assert reddish(errors[50, 90], FALSE)
    assert reddish(errors[150, 50], CONFUSED)
    assert errors[50, 60].tolist() == [50, 50, 50]  # right: the scan, dimmed
    assert errors[250, 200].tolist() == [50, 50, 50]


def test_truth_is_outlined_and_prediction_tinted_in_the_colours_of_the_classes():
    truth, prediction = masks()
    scan = np.full((HEIGHT, WIDTH), 100, dtype=np.uint8)
    shown, predicted, _ = panels(draw_overlay(scan, truth, prediction))
    rib, process = FOREGROUND[0].colour, FOREGROUND[1].colour
    assert shown[20, 50].tolist() == list(rib)
    assert shown[21, 50].tolist() == list(rib)
    assert shown[50, 50].tolist() == [100, 100, 100]  # inside the outline the scan is untouched
    assert predicted[20, 50].tolist() == list(rib)  # outline of the truth on top
    np.testing.assert_allclose(predicted[50, 60], np.array(rib) * 0.42 + 58, atol=1)
    np.testing.assert_allclose(predicted[150, 50], np.array(process) * 0.42 + 58, atol=1)


def test_perfect_prediction_has_no_error_colours():
    truth, _ = masks()
    errors = panels(draw_overlay(np.full((HEIGHT, WIDTH), 80, dtype=np.uint8), truth, truth))[2]
    assert (errors == 40).all()


def test_ignored_pixels_are_hatched_and_no_error():
    truth, prediction = masks()
    truth[:] = IGNORE_INDEX
    errors = panels(draw_overlay(np.full((HEIGHT, WIDTH), 100, dtype=np.uint8), truth, prediction))[2]
    assert set(map(tuple, errors.reshape(-1, 3).tolist())) == {(50, 50, 50), IGNORED}


def test_tall_scans_are_drawn_smaller_and_keep_their_shape():
    scan = np.random.default_rng(0).integers(0, 255, size=(2574, 640), dtype=np.uint8)
    mask = np.zeros_like(scan)
    mask[400:900, 100:300] = 2
    picture = draw_overlay(scan, mask, mask, panel_height=643)
    assert picture.dtype == np.uint8
    assert 643 < picture.shape[0] < 643 + 120
    assert 3 * 160 <= picture.shape[1] < 3 * 260
    assert draw_mask(scan, mask, panel_height=643).shape == (643, 160, 3)


def test_narrow_scans_leave_room_for_the_words():
    scan = np.zeros((200, 20), dtype=np.uint8)
    assert draw_overlay(scan, scan, scan).shape[1] > 3 * 100


def test_equal_input_gives_equal_pictures_and_leaves_the_input_alone():
    truth, prediction = masks()
    scan = np.full((HEIGHT, WIDTH), 100, dtype=np.uint8)
    first = draw_overlay(scan, truth, prediction)
    np.testing.assert_array_equal(first, draw_overlay(scan, truth, prediction))
    assert (scan == 100).all()
    np.testing.assert_array_equal(prediction, masks()[1])


def test_sizes_must_agree():
    scan = np.zeros((30, 20), dtype=np.uint8)
    with pytest.raises(ValueError, match="differ in size"):
        draw_overlay(scan, scan, scan.T.copy())
    with pytest.raises(ValueError):
        draw_mask(scan, scan.T.copy())


def test_changes_tell_who_was_right():
    truth, _ = masks()
    truth[250:260, :] = IGNORE_INDEX
    first, second = truth.copy(), truth.copy()
    first[truth == IGNORE_INDEX] = second[truth == IGNORE_INDEX] = 0
    first[20:40, 20:80] = 0  # A misses, B finds
    second[60:80, 20:80] = 2  # B takes it for another class, A is right
    first[130:150, 20:80], second[130:150, 20:80] = 1, 2  # neither, in two ways
    first[160:170, 20:80] = second[160:170, 20:80] = 1  # neither, in the same way
    first[250:260, 20:80] = 1  # nobody knows
    scan = np.full((HEIGHT, WIDTH), 100, dtype=np.uint8)
    shown, one, two, changes = panels(draw_change(scan, truth, first, second, names=("A", "B")), count=4)
    assert reddish(changes[30, 50], GAINED)
    assert reddish(changes[70, 50], LOST)
    assert reddish(changes[140, 50], STILL_WRONG)
    assert changes[165, 50].tolist() == [50, 50, 50]
    assert changes[200, 200].tolist() == [50, 50, 50]
    assert {tuple(pixel) for pixel in changes[255, 20:80]} == {IGNORED, (50, 50, 50)}
    assert shown[50, 50].tolist() == [100, 100, 100]
    assert one[30, 50].tolist() == [100, 100, 100] != two[30, 50].tolist()  # tinted where it is predicted
    with pytest.raises(ValueError, match="differ in size"):
        draw_change(scan, truth, first, second[:-1], names=("A", "B"))


def test_a_picture_for_a_page_is_nearly_the_same():
    picture = np.zeros((40, 30, 3), dtype=np.uint8)
    picture[10:20, 5:25] = FOREGROUND[0].colour
    kind, _, text = jpeg_uri(picture).partition(",")
    assert kind == "data:image/jpeg;base64"
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
    assert read.shape == picture.shape
    assert np.abs(read.astype(int) - picture).mean() < 3
