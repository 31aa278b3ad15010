"""The errors a user may meet: each says what is wrong, the evidence, and what to do next.

The exit code of the command line is an attribute of the error, so that a script can tell a broken
configuration from broken data without reading the message.
"""


class Sa2NetError(Exception):
    """Base of every error that is reported without a traceback.

    Args:
        what: What is wrong, as a clause without a final stop.
        evidence: What shows it: names, values, counts. May be empty.
        action: What the user should do next, as a sentence.
    """

    exit_code = 2

    def __init__(self, what: str, *, evidence: str = "", action: str) -> None:
        self.what, self.evidence, self.action = what, evidence, action
        statement = f"{what}: {evidence}" if evidence else what
        super().__init__(f"{statement.rstrip('.')}. {action}")


class NegativeAnswerError(Sa2NetError):
    """The command ran to its end and the answer is no (a gate, an audit, a comparison)."""

    exit_code = 1


class ConfigError(Sa2NetError):
    """A setting or a command line that cannot be used."""

    exit_code = 2


class DataError(Sa2NetError):
    """A data set or a scan that cannot be used."""

    exit_code = 3


class DeviceError(Sa2NetError):
    """A device that was asked for and is not there, or that gave up."""

    exit_code = 4


class StorageError(Sa2NetError):
    """A registry, tracking server, bucket or folder that cannot be read or written."""

    exit_code = 5


class ClusterError(Sa2NetError):
    """A cluster that cannot be reached, or a pipeline run that failed there."""

    exit_code = 6
