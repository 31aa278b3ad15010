"""What a reader says of a measurement: levels moved by hand, the angles that follow, and decisions that are never overwritten."""

from sa2net.review.reading import HandCurve, HandLevel, Reading, read_levels
from sa2net.review.record import Review
from sa2net.review.store import ConflictError, latest_review, review_files, save_review

__all__ = [
    "ConflictError",
    "HandCurve",
    "HandLevel",
    "Reading",
    "Review",
    "latest_review",
    "read_levels",
    "review_files",
    "save_review",
]
