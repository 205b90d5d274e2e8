"""Settled queries as JSON text. Outputs come from the workers as JSON text already and
are spliced in; nothing is parsed on the way out."""

from __future__ import annotations

import msgspec

from clipper.application import Application
from clipper.errors import ClipperError
from clipper.query import BatchQuery, Query
from clipper.values import Output, RowError

_encode = msgspec.json.encode


def prediction_answer(query: Query) -> tuple[int, bytes]:
    """Status and body of the answer to one query."""
    output = query.output
    if type(output) is bytes:
        return 200, b'{"query_id":"%b","output":%b,"default":false}' % (
            query.stamp.issue(query.arrived),
            output,
        )
    application = query.application
    if isinstance(output, RowError) and application.default_tail(output) is None:
        error = application.error_for(output)
        return error.status, _encode(error.body())
    return 200, _row(application, query.issue_id(), output)


def batch_answer(batch: BatchQuery) -> bytes:
    """The body of the answer to an input_batch; each row succeeds or fails by itself."""
    rows = []
    shared, application = batch.issue_id(), batch.application
    for index, output in enumerate(batch.outputs):
        if type(output) is bytes:
            rows.append(
                b'{"query_id":"%b.%d","output":%b,"default":false}'
                % (shared, index, output)
            )
        else:
            assert output is not None
            rows.append(_row(application, b"%b.%d" % (shared, index), output))
    return b'{"batch_predictions":[%b]}' % b",".join(rows)


def _row(application: Application, query_id: bytes, output: Output) -> bytes:
    if not isinstance(output, RowError):
        return b'{"query_id":"%b","output":%b,"default":false}' % (
            query_id,
            application.text(output),
        )
    tail = application.default_tail(output)
    if tail is not None:
        return b'{"query_id":"' + query_id + tail
    error = application.error_for(output)
    return b'{"query_id":"%b","error":%b,"cause":%b}' % (
        query_id,
        _encode(error.code),
        _encode(error.cause),
    )


def error_answer(error: ClipperError) -> bytes:
    return _encode(error.body())


def answer_headers(status: int) -> dict[str, str]:
    """Headers that go with the answer to a query beside the usual ones."""
    return {"Retry-After": "1"} if status == 503 else {}
