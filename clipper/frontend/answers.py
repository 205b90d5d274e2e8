"""Settled queries as JSON text. Outputs come from the workers as JSON text already and
are spliced in; nothing is parsed on the way out."""

from __future__ import annotations

import msgspec

from clipper.choosing import Choice
from clipper.errors import ClipperError
from clipper.panel import Panel
from clipper.query import BatchQuery, Query
from clipper.rendering import Rendering
from clipper.values import Output, RowError

_encode = msgspec.json.encode


def prediction_answer(query: Query) -> tuple[int, bytes]:
    """Status and body of the answer to one query."""
    output = query.output
    rendering = query.application.rendering
    if isinstance(output, RowError) and rendering.default_tail(output) is None:
        error = rendering.error_for(output)
        return error.status, _encode(error.body())
    return 200, _row(rendering, query.issue_id(), output, query.choice, query.panel)


def batch_answer(batch: BatchQuery) -> bytes:
    """The body of the answer to an input_batch; each row succeeds or fails by itself."""
    rows = []
    shared, rendering, panels = batch.issue_id(), batch.application.rendering, batch.panels
    choice = batch.choice
    for index, output in enumerate(batch.outputs):
        if type(output) is bytes and not panels:
            rows.append(
                b'{"query_id":"%b.%d","output":%b,"default":false%b}'
                % (shared, index, output, choice.told)
            )
        else:
            assert output is not None
            panel = panels[index] if panels else None
            query_id = b"%b.%d" % (shared, index)
            rows.append(_row(rendering, query_id, output, choice, panel))
    return b'{"batch_predictions":[%b]}' % b",".join(rows)


def _row(
    rendering: Rendering,
    query_id: bytes,
    output: Output,
    choice: Choice,
    panel: Panel | None,
) -> bytes:
    if not isinstance(output, RowError):
        return b'{"query_id":"%b","output":%b,"default":false%b}' % (
            query_id,
            rendering.text(output),
            choice.told if panel is None else _of_ensemble(panel),
        )
    tail = rendering.default_tail(output)
    if tail is not None:
        return b'{"query_id":"' + query_id + tail
    error = rendering.error_for(output)
    return b'{"query_id":"%b","error":%b,"cause":%b}' % (
        query_id,
        _encode(error.code),
        _encode(error.cause),
    )


def _of_ensemble(panel: Panel) -> bytes:
    """What an answer says of the members that made it."""
    text = b',"confidence":%.4g' % panel.confidence
    return text + b',"missing":' + _encode(panel.missing) if panel.missing else text


def error_answer(error: ClipperError) -> bytes:
    return _encode(error.body())


def answer_headers(status: int) -> dict[str, str]:
    """Headers that go with the answer to a query beside the usual ones."""
    return {"Retry-After": "1"} if status == 503 else {}
