"""Names of the tags that runs carry; people filter by them in MLflow's page."""

KEY_TAG = "sa2net.key"
"""Name of a run that is known before the server has given it an id."""
KIND_TAG = "sa2net.kind"
"""`execution` for a parent run, `step` for a run below it."""
EXECUTION_TAG = "sa2net.execution"
"""Of a parent run: which execution it stands for."""
EXECUTION_OF_STEP_TAG = "sa2net.execution_of_step"
"""Of a step: the execution that it is part of."""
STEP_TAG = "sa2net.step"
ALIVE_TAG = "sa2net.alive"
"""The last sign of life, UTC."""
ENDED_TAG = "sa2net.ended"
"""How a run was ended on purpose: no sign of life opens it again."""
ERROR_TAG = "sa2net.error"
PAGE_TAG = "sa2net.page"
"""Artifact that people look at first."""
REGISTERED_TAG = "sa2net.registered"
"""NAME/NUMBER of the version that a run registered."""
VERDICT_TAG = "sa2net.verdict"
DATA_TAG = "data_md5"
PHANTOM_TAG = "phantom"
PARENT_TAGS = (DATA_TAG, PHANTOM_TAG, VERDICT_TAG, REGISTERED_TAG)
"""What a step says of itself that its parent carries too."""

PARENT_TAG = "mlflow.parentRunId"
NOTE_TAG = "mlflow.note.content"
NOTE_SHA_TAG = "sa2net.note_sha256"
"""Of the description as it was written here; another one was edited by a person and stays."""

BOOKKEEPING = (
    KEY_TAG, KIND_TAG, EXECUTION_TAG, EXECUTION_OF_STEP_TAG, STEP_TAG, ALIVE_TAG, ENDED_TAG, ERROR_TAG, PAGE_TAG,
    REGISTERED_TAG, VERDICT_TAG, NOTE_SHA_TAG,
)  # fmt: skip
"""Tags that say where a run belongs and how it stands; the other tags `sa2net.*` say what it was made with."""
