"""The files in the folders that cross steps, by name: no step spells a file name of another."""

MODEL_JSON = "model.json"
WEIGHTS = "weights.safetensors"
REFERENCE = "reference.json"
MODEL_FILES = (MODEL_JSON, WEIGHTS, REFERENCE)
"""Everything that a model folder holds; older ones have no `reference.json`."""
OUT_OF_FOLD = "out_of_fold.csv"
VALIDATION_REPORT = "report.json"
VALIDATION_PAGE = "report.html"
MANIFEST = "manifest.csv"
SCORES = "scores.json"
PER_SCAN = "per_scan.csv"
EVALUATION_REPORT = "report.html"
CONFUSION = "confusion.csv"
DICE_PER_CLASS = "dice_per_class.csv"
RELIABILITY = "reliability.csv"
SUBGROUPS = "subgroups.csv"
ANGLES = "angles.csv"
OVERLAYS = "overlays"
HISTORY = "history.csv"
VALIDATION_HISTORY = "validation.csv"
DECISION = "decision.json"
RUN_JSON = "run.json"
TIMING_JSON = "timing.json"
EVALUATION_FILES = frozenset(
    (
        SCORES,
        PER_SCAN,
        EVALUATION_REPORT,
        CONFUSION,
        DICE_PER_CLASS,
        RELIABILITY,
        SUBGROUPS,
        ANGLES,
        OVERLAYS,
        RUN_JSON,
        TIMING_JSON,
    )
)
"""Everything that an evaluation folder holds."""
