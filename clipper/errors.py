"""Every error a user can meet: one tree, each class with its HTTP status and code.

The code is stable and machine-readable; the cause is one sentence for a person. On the
wire an error is ``{"error": code, "cause": sentence}``; the client turns it back into
the class of that code.
"""

from __future__ import annotations


class ClipperError(Exception):
    """Base of all errors of this package."""

    status = 500
    code = "internal_error"
    retry_after: int | None = None

    def __init__(self, cause: str, *, retry_after: int | None = None) -> None:
        super().__init__(cause)
        self.cause = cause
        if retry_after is not None:
            self.retry_after = retry_after

    def body(self) -> dict[str, str]:
        """The error as it stands in an answer."""
        return {"error": self.code, "cause": self.cause}


# -- the request is wrong --------------------------------------------------------------


class InvalidInput(ClipperError):
    """The body is malformed, or a value has the wrong type or range."""

    status = 400
    code = "invalid_input"


class MalformedRequest(ClipperError):
    """The HTTP request itself is malformed."""

    status = 400
    code = "malformed_request"


class Unauthorized(ClipperError):
    status = 401
    code = "unauthorized"


class Forbidden(ClipperError):
    status = 403
    code = "forbidden"


class NotFound(ClipperError):
    status = 404
    code = "not_found"


class MethodNotAllowed(ClipperError):
    status = 405
    code = "method_not_allowed"


class BodyTimeout(ClipperError):
    status = 408
    code = "request_timeout"


class Conflict(ClipperError):
    status = 409
    code = "conflict"


class ResendInput(Conflict):
    """The decision that feedback refers to is lost; with the input it can be taken."""

    code = "resend_input"


class QueryIdExpired(ClipperError):
    status = 410
    code = "query_id_expired"


class PayloadTooLarge(ClipperError):
    status = 413
    code = "payload_too_large"


class UnsupportedMediaType(ClipperError):
    status = 415
    code = "unsupported_media_type"


class MisdirectedRequest(ClipperError):
    """The Host header names a host we do not answer for."""

    status = 421
    code = "host_not_allowed"


class TooManyRequests(ClipperError):
    status = 429
    code = "too_many"
    retry_after = 1


class HeadersTooLarge(ClipperError):
    status = 431
    code = "headers_too_large"


# -- the server or a model cannot ------------------------------------------------------


class ModelFailed(ClipperError):
    """The model raised, crashed or answered wrongly, and there is no default output."""

    status = 500
    code = "model_failed"


class Overloaded(ClipperError):
    """Too much work is waiting. Nothing of the request was done."""

    status = 503
    code = "overloaded"
    retry_after = 1


class Unavailable(ClipperError):
    """No replica can answer, or the server starts or drains."""

    status = 503
    code = "unavailable"
    retry_after = 1


class DeadlineExceeded(ClipperError):
    status = 504
    code = "deadline_exceeded"


class HTTPVersionNotSupported(ClipperError):
    status = 505
    code = "http_version_not_supported"


class DiskFull(ClipperError):
    status = 507
    code = "disk_full"


# -- deploying -------------------------------------------------------------------------


class DeployFailed(ClipperError):
    """The new version did not load or did not run its example; the old one serves on.

    Only an authenticated deployer sees this; the cause carries the worker's traceback.
    """

    status = 422
    code = "deploy_failed"


# -- life of the process, never on the wire --------------------------------------------


class ConfigError(ClipperError):
    """A setting is wrong: the file, the flag and what was expected are named."""

    code = "config_error"


class StoreError(ClipperError):
    """The data directory is taken, unreadable, corrupt or of another version."""

    status = 503
    code = "store_error"


class ServerUnreachable(ClipperError):
    """No server answers at the given address (client side)."""

    code = "server_unreachable"


def _tree(root: type[ClipperError]) -> dict[str, type[ClipperError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


BY_CODE = _tree(ClipperError)


def from_wire(code: str, cause: str, retry_after: int | None = None) -> ClipperError:
    """The exception for an error body; an unknown code becomes the base class."""
    return BY_CODE.get(code, ClipperError)(cause, retry_after=retry_after)
