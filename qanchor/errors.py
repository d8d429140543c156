"""Every error that qanchor raises on purpose.

QAnchorError
├── ConfigError          the YAML: an unknown or missing key, a value out of range
├── DataError            logs, labels, stores
│   ├── RejectRateError  too many refused rows for a day to be published
│   ├── CollisionError   two different texts share one 64-bit id
│   ├── BudgetError      the next request to an LLM could cost more than is left
│   ├── SealError        sealed bytes that are not what was sealed, or not for this place, or not by this key
│   ├── AuditError       an audit log that is not whole, or cannot be written
│   └── IdentificationError  a log that cannot tell what another policy would have earned
├── AccessError          who may do what
│   ├── CredentialError  no API key or token, or one that is not good, or no longer
│   └── ScopeError       a good one that does not reach so far
├── BusyError            the service cannot do it now, but will be able to in `retry_after` seconds
│   └── LimitError       one key asked more than it may
├── ModelError           a checkpoint or model that does not fit what is asked of it
└── TrainingError        a run that cannot go on (NaN, nothing to learn from)

A message says what was got, what was expected, and how to mend it. The command line prints it as one line.
"""


class QAnchorError(Exception):
    """Root of the tree: catch this to catch everything that qanchor refuses."""


class ConfigError(QAnchorError):
    pass


class DataError(QAnchorError):
    pass


class RejectRateError(DataError):
    pass


class CollisionError(DataError):
    pass


class BudgetError(DataError):
    pass


class SealError(DataError):
    pass


class AuditError(DataError):
    pass


class IdentificationError(DataError):
    pass


class AccessError(QAnchorError):
    pass


class CredentialError(AccessError):
    pass


class ScopeError(AccessError):
    pass


class BusyError(QAnchorError):
    def __init__(self, reason: str, retry_after: float) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class LimitError(BusyError):
    pass


class ModelError(QAnchorError):
    pass


class TrainingError(QAnchorError):
    pass
