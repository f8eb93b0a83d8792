"""Every error the program raises on purpose. A class earns its place by a different recovery.

EdgeAgentError                    caught once in server (an OpenAI error body) and once in cli (a sentence, exit code)
 +- ConfigError                   the operator mends a file, a flag or a variable
 +- ModelError                    a model file or bundle is not what its card or catalogue says
 |   +- RouterError               keep the old router, or run on the stated default
 |   +- LocalModelError           the local model cannot answer
 |       +- Busy                  too many are waiting: try again in a moment
 +- CloudError                    the cloud model gave no answer
 |   +- CloudUnavailable          before any text: the local model answers instead
 |   +- CloudRejected             it will say no again: do not retry, tell the operator
 +- RequestError                  the client sent something else than the documented format
 +- ThresholdError                no threshold does what was asked: ask for less, or label more
 +- LogError                      the decision log cannot be read or written
 +- BatchError                    a batch of log rows is not what its header or the format says
 +- SyncError                     rows could not be handed over now: keep the position, try again later
 |   +- SyncRefused               the destination will say no again: somebody has to mend something
 +- DaemonError                   no daemon listens, or another one already does
 +- InboxError                    workstation: the inbox cannot be read or written now
 +- DeviceConflict                workstation: two devices upload under one id
 +- ObjectStoreError              workstation: the place with a device's objects cannot be read now
"""


class EdgeAgentError(Exception):
    """An error with a machine-readable `code` and a message that says what to do next."""

    code = "internal_error"
    """OpenAI's `error.code`."""
    status = 500
    """HTTP status, where the error meets a client."""
    exit_code = 1
    """Exit code, where the error ends a command."""

    def __init__(self, message: str, *, code: str | None = None, status: int | None = None, param: str | None = None):
        super().__init__(message)
        self.message = message
        self.code = code or self.code
        self.status = status or self.status
        self.param = param
        """The request field at fault, in OpenAI's notation."""


class ConfigError(EdgeAgentError):
    """A setting is unknown, of the wrong type or out of range: names file, key, expected, found."""

    code = "config_error"
    exit_code = 78


class ModelError(EdgeAgentError):
    """A model file is missing, damaged or not the one its card names."""

    code = "model_error"
    status = 503
    exit_code = 3


class RouterError(ModelError):
    """A router bundle cannot be loaded or cannot score."""

    code = "router_error"


class LocalModelError(ModelError):
    """The local model cannot be loaded or cannot answer."""

    code = "local_model_unavailable"


class Busy(LocalModelError):
    """The bounded queue in front of the local model is full."""

    code = "busy"
    status = 429


class CloudError(EdgeAgentError):
    """The cloud model gave no usable answer."""

    code = "cloud_error"
    status = 502
    detail = ""
    """The cloud's own words, which may repeat the prompt: for the client, never for logs."""


class CloudUnavailable(CloudError):
    """Connection, timeout, 429 or 5xx before any text: the local model may answer instead."""

    code = "cloud_unavailable"


class CloudRejected(CloudError):
    """Another 4xx or a malformed body. `upstream_status` is the cloud's own HTTP status, None for a malformed body."""

    code = "cloud_rejected"

    def __init__(self, message: str, *, upstream_status: int | None = None, **kwargs: object):
        super().__init__(message, **kwargs)  # type: ignore[arg-type]
        self.upstream_status = upstream_status


class RequestError(EdgeAgentError):
    """The request is not in the documented format: names the field, what was expected and what was found."""

    code = "invalid_request"
    status = 400


class ThresholdError(EdgeAgentError):
    """No threshold does what was asked, or there is nothing to choose one by."""

    code = "no_threshold"

    def __init__(self, message: str, *, labels_missing: int | None = None):
        super().__init__(message)
        self.labels_missing = labels_missing
        """About how many labels more are needed; None when labels are not what is missing."""


class LogError(EdgeAgentError):
    """The decision log cannot be opened, read or written."""

    code = "log_error"


class BatchError(EdgeAgentError):
    """A batch of log rows is truncated, damaged, or of another format."""

    code = "bad_batch"
    status = 400


class SyncError(EdgeAgentError):
    """The destination could not take the rows now; the position stays and the next run tries again."""

    code = "sync_unavailable"
    exit_code = 75
    retry_after_s = 0.0
    """How long the destination wants to be left alone."""


class SyncRefused(SyncError):
    """The destination refuses for good (token, size, conflict): trying again changes nothing."""

    code = "sync_refused"
    exit_code = 1


class DaemonError(EdgeAgentError):
    """The daemon is not there when a client needs it, or is there when a second one starts."""

    code = "daemon_error"
    exit_code = 4


class InboxError(EdgeAgentError):
    """The inbox cannot be read or written now; nothing was half-written, the same request may work later."""

    code = "inbox_unavailable"
    status = 503


class DeviceConflict(EdgeAgentError):
    """Two devices upload under one id: the refused one keeps its rows until a person renames it."""

    code = "device_conflict"
    status = 409


class ObjectStoreError(EdgeAgentError):
    """The place cannot be listed or read now."""

    code = "object_store_unavailable"
    exit_code = 75
