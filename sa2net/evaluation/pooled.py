"""The scores that the released code prints: all pixels of all scans in one confusion matrix, background included.

They say little about a scan (a large scan weighs more, a missed structure drowns in background), so they never choose a
model here; they are kept so that a result can be set beside one made with the published code.
"""

import numpy as np
from numpy.typing import NDArray

from sa2net.anatomy import IGNORE_INDEX

Counts = NDArray[np.int64]
Labels = NDArray[np.integer]

SMALLEST = float(np.finfo(np.float32).eps)
"""What the released accuracy adds to both sides of its fraction, so that an empty set counts as fully right."""


def confusion_matrix(prediction: Labels, truth: Labels, num_classes: int, ignore_index: int = IGNORE_INDEX) -> Counts:
    """Count pixels by true and predicted class.

    Args:
        prediction: Class ids, any shape.
        truth: Class ids of the same shape; pixels of `ignore_index` are left out.
        num_classes: Classes K.
        ignore_index: Value of `truth` that does not count.

    Returns:
        (K, K), rows true, columns predicted. Matrices of several scans may be added.

    Raises:
        ValueError: Shapes differ, or a counted pixel has an id outside 0..K-1.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in shape")
    valid = truth != ignore_index
    rows, columns = truth[valid].astype(np.int64), prediction[valid].astype(np.int64)
    for name, ids in (("truth", rows), ("prediction", columns)):
        if ids.size and not 0 <= ids.min() <= ids.max() < num_classes:
            raise ValueError(f"{name} holds ids {ids.min()}..{ids.max()}, allowed are 0..{num_classes - 1}")
    counts = np.bincount(rows * num_classes + columns, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


def pooled_scores(confusion: Counts) -> dict[str, NDArray[np.float64]]:
    """Scores of one confusion matrix over all pixels.

    Args:
        confusion: (K, K), rows true, columns predicted.

    Returns:
        `aAcc` (scalar array, share of right pixels) and, one entry a class, `IoU`, `Acc`, `Dice`, `Fscore`,
        `Precision`, `Recall`. 0/0 is NaN: a class that is neither labelled nor predicted has no score.
    """
    confusion = np.asarray(confusion, dtype=np.float64)
    right, labelled, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = right / predicted, right / labelled
        return {
            "aAcc": np.asarray(right.sum() / labelled.sum()),
            "IoU": right / (labelled + predicted - right),
            "Acc": recall,
            "Dice": 2 * right / (labelled + predicted),
            "Fscore": 2 * precision * recall / (precision + recall),
            "Precision": precision,
            "Recall": recall,
        }


def released_pixel_accuracy(
    prediction: Labels, truth: Labels, *, ignored_are_wrong: bool, ignore_index: int = IGNORE_INDEX
) -> float:
    """The accuracy in percent that the released code logs while training.

    Args:
        prediction: Class ids, any shape.
        truth: Class ids of the same shape.
        ignored_are_wrong: Divide by all pixels, as for the final logits; else by the valid ones, as for the
            auxiliary head.
        ignore_index: Value of `truth` that is never right.

    Returns:
        Percent; 100 where nothing is counted.
    """
    valid = truth != ignore_index
    right = int(((prediction == truth) & valid).sum())
    counted = truth.size if ignored_are_wrong else int(valid.sum())
    return 100 * (right + SMALLEST) / (counted + SMALLEST)
