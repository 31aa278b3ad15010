"""What every card says of a model of this kind, in one place: use, limits, risks."""

from sa2net.registry.lineage.trace import Lineage

RESEARCH = "Research use only. Not a medical device; not for diagnosis, screening, monitoring or treatment."
ABOUT = f"Segments ribs, thoracic processes and lumbar lumps in ultrasound volume projection images. {RESEARCH}"
INPUT = "one volume projection image of a back, 8-bit grey PNG; pixel spacing in mm where it is known"
OUTPUT = "a mask of the same size: 0 background, 1 rib, 2 thoracic process, 3 lumbar lump"
USERS = ("researchers and engineers who look at the masks",)
USES = (
    "research on the segmentation of spines in ultrasound volume projection images",
    "a starting point for groups that train on scans of their own",
)
NOT_FOR = (
    "any decision about a person: diagnosis, screening, grading, monitoring, treatment",
    "B-mode frames, radiographs, MR, 3-D volumes",
    "measuring a curve: it gives a mask, and no angle",
)
RISKS = (
    (
        "Weights and tables may hold traces of the scans that they come from.",
        "Treat model folder, reports and overlays as data of patients where the scans are of patients.",
    ),
    (
        "Groups that are rare in the data may be segmented worse.",
        "Report scores by device and severity, and look at the worst scans before any use.",
    ),
)

_PHANTOM_LIMITS = (
    "Scored on phantoms (synthetic scans). The numbers show that the pipeline works; they say nothing about patients.",
    "Test phantoms are drawn in the same way as train phantoms: the score says how well the drawing was learnt.",
)
_LIMITS = (
    "Works on scans like those it was trained on. Another scanner, operator or population must be tested first.",
    "No uncertainty on a single scan beyond the softmax.",
    "Without a pixel spacing the scale comes from the width of the sweep, which is a weak ruler.",
    "Outside of the framed sweep it says background without having looked.",
)
_FEW_SUBJECTS = 10


def limits(found: Lineage) -> list[str]:
    """What the model cannot do, or nobody has shown; with what follows from its own scores."""
    own = list(_PHANTOM_LIMITS) if found.phantom else []
    if found.evaluation is None:
        return [*own, "Its scores are lost: nothing is known of how well it does.", *_LIMITS]
    scores = found.evaluation.scores
    if scores.subjects < _FEW_SUBJECTS:
        own.append(f"Scored on {scores.subjects} subjects: the intervals are rough.")
    if scores.unit == "px":
        own.append("Not every scored scan has a pixel spacing: distances are in px and cannot be compared with mm.")
    return [*own, *_LIMITS]
