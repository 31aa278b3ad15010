"""The switches that keep dependencies from reporting home: nothing leaves the machine unasked.

Dependencies read these variables when they are imported, so every entry point sets them first: the command line, a
pipeline component, and an image by its environment.
"""

import os

NO_TELEMETRY = {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def switch_off() -> None:
    """Set the switches for this process and those that it starts."""
    os.environ.update(NO_TELEMETRY)
