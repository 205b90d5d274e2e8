"""Decisions as they are kept on disk: many in one row, each a few bytes.

A choice that many queries shared is written once for a chunk. Outputs are kept as they
came from the worker: JSON text (bytes), or a string that is JSON text (str).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from clipper.errors import StoreError
from clipper.selection.policy import Arm
from clipper.store.base import Chunk

if TYPE_CHECKING:
    from clipper.choosing import Choice
    from clipper.learning.decisions import Made

# Outputs and contexts past this many bytes are not kept; feedback with a label then brings
# the input.
LARGEST = 4096


class Decision(msgspec.Struct):
    """One decision with what came of it.

    `odds` are the probabilities of `arms` under a single choice, the weights of an
    ensemble's members. `chosen` are the arms whose output was the answer, with that
    answer's `propensity`. `outputs` holds what is known of the arms' outputs; under a
    single choice the chosen arm's is missing where it failed (`failed`), or was too large.
    `context` is what the policy made of the query's, or the query's own where it made
    nothing of it.
    """

    application: int
    generation: int
    arms: tuple[Arm, ...]
    odds: tuple[float, ...]
    ensemble: bool
    chosen: tuple[Arm, ...]
    propensity: float
    uid: str | None
    context: Any
    outputs: dict[Arm, bytes | str]
    answer: bytes | str | None  # the output that was answered; None: the default, or lost
    failed: bool  # no model answered


class _Choice(msgspec.Struct, array_like=True):
    """A choice as written."""

    generation: int
    arms: tuple[Arm, ...]
    odds: tuple[float, ...]
    index: int | None
    propensity: float
    context: Any


class _Panel(msgspec.Struct, array_like=True):
    """What became of a row that an ensemble answered."""

    texts: list[bytes | None]
    agreeing: tuple[int, ...]
    propensity: float
    answer: bytes | None  # where it is no member's own


# An output, None for one that is not kept, False for a failure; or a panel's.
_Result = Any


class _Row(msgspec.Struct, array_like=True):
    offset: int  # of the nonce, from the chunk's first
    application: int
    choice: int
    uid: str | None
    results: list[_Result]  # one for each row of a batch
    context: Any = None  # the query's own


class _Body(msgspec.Struct, array_like=True):
    choices: list[_Choice]
    rows: list[_Row]


_encode = encode_context = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Body).decode


def encode_chunk(decided: Sequence[tuple[int, Made]], at: float) -> Chunk:
    """One chunk of decisions with their nonces, which need not be in order."""
    first = min(nonce for nonce, _ in decided)
    last = max(nonce for nonce, _ in decided)
    choices: list[_Choice] = []
    known: dict[int, int] = {}
    rows = []
    for nonce, made in decided:
        choice = made.choice
        number = known.get(id(choice))
        if number is None:
            number = known[id(choice)] = len(choices)
            choices.append(_written(choice))
        outputs = made.outputs
        several = outputs if type(outputs) is list else (outputs,)
        rows.append(
            _Row(
                nonce - first,
                made.application,
                number,
                made.subject.uid,
                [_result(output) for output in several],
                _context(made),
            )
        )
    return Chunk(first, last, at, _encode(_Body(choices, rows)))


def _context(made: Made) -> Any:
    """The query's context, if it is worth keeping."""
    context = made.subject.context
    if context is None or made.choice.context is not None:
        return None
    return context if len(encode_context(context)) <= LARGEST else None


def _written(choice: Choice) -> _Choice:
    return _Choice(
        choice.generation,
        choice.arms,
        tuple(choice.odds),
        choice.index,
        choice.propensity,
        choice.context,
    )


def _result(output: Any) -> _Result:
    kind = type(output)
    if kind is bytes or kind is str:
        return output if len(output) <= LARGEST else None
    texts = getattr(output, "texts", None)
    if texts is None:
        return False
    kept = [text if text and len(text) <= LARGEST else None for text in texts]
    answer = output.answer
    if output.agreeing and kept[output.agreeing[0]] == answer:
        answer = None
    return _Panel(kept, output.agreeing, output.propensity, answer)


class DecodedChunk:
    """A chunk in memory."""

    def __init__(self, chunk: Chunk) -> None:
        self._first = chunk.first
        try:
            body = _decode(chunk.body)
        except msgspec.DecodeError as error:
            raise StoreError(f"a chunk of decisions makes no sense: {error}") from error
        self._choices = body.choices
        self._rows = {row.offset: row for row in body.rows}

    def __iter__(self) -> Iterator[tuple[int, int, Decision]]:
        """Every decision with its nonce and row."""
        for offset, row in self._rows.items():
            for index in range(len(row.results)):
                decision = self.find(self._first + offset, index)
                assert decision is not None
                yield self._first + offset, index, decision

    def find(self, nonce: int, index: int) -> Decision | None:
        row = self._rows.get(nonce - self._first)
        if row is None or index >= len(row.results):
            return None
        result = row.results[index]
        if type(result) is list:
            result = msgspec.convert(result, _Panel)
        choice = self._choices[row.choice]
        return _decision(row.application, choice, row.uid, row.context, result)


def decode_chunk(chunk: Chunk) -> DecodedChunk:
    """Raises StoreError for a body that makes no sense."""
    return DecodedChunk(chunk)


def to_decision(made: Made, index: int) -> Decision | None:
    """One row of a decision that is in memory."""
    outputs = made.outputs
    if type(outputs) is list:
        if index >= len(outputs):
            return None
        outputs = outputs[index]
    elif index:
        return None
    subject = made.subject
    return _decision(
        made.application, made.choice, subject.uid, subject.context, _result(outputs)
    )


def _decision(
    application: int,
    choice: Choice | _Choice,
    uid: str | None,
    context: Any,
    result: _Result,
) -> Decision:
    arms, ensemble = choice.arms, choice.index is None
    outputs: dict[Arm, bytes | str] = {}
    answer: bytes | str | None = None
    propensity = choice.propensity
    if isinstance(result, _Panel):
        chosen = tuple(arms[i] for i in result.agreeing)
        outputs = {
            arm: text
            for arm, text in zip(arms, result.texts, strict=True)
            if text is not None
        }
        propensity = result.propensity
        failed = not chosen
        answer = result.answer
        if answer is None and chosen:
            answer = outputs.get(chosen[0])
    else:
        chosen = () if choice.index is None else (arms[choice.index],)
        failed = result is False
        if not failed and result is not None:
            answer = result
            for arm in chosen:
                outputs[arm] = result
    return Decision(
        application, choice.generation, arms, tuple(choice.odds), ensemble, chosen,
        propensity, uid, context if choice.context is None else choice.context,
        outputs, answer, failed,
    )  # fmt: skip
