"""The worker's side of the conversation: receive, call the user's function, answer.

Everything happens on the main thread with blocking calls: handing a batch to another
thread would cost more than many models take.
"""

from __future__ import annotations

import errno
import os
import platform
import socket
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from clipper.inputs import InputType
from clipper.layout import decode_batch
from clipper.version import __version__
from clipper.workers import guard, packaging, wire
from clipper.workers.outputs import WrongCount, convert

_CHUNK = 256 * 1024  # received at once; a unix socket holds about as much
_DETAIL = 60_000  # characters of a traceback that are sent


class Session:
    """One worker's life on its socket. `run` does not return."""

    # State: `_function` and `_kind` are set by the one Load that precedes every Call.

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        sock.set_inheritable(False)
        self._socket = sock
        self._decoder = wire.Decoder(wire.FROM_SERVER)
        self._function: Callable[[Any], Any] | None = None
        self._kind = InputType.JSON
        # A process the model forks must not hold our end open, nor answer in our place.
        os.register_at_fork(after_in_child=sock.close)

    def run(self) -> None:
        """Serve until the server closes the socket, which ends the process."""
        versions = {
            "clipper": __version__,
            "numpy": np.__version__,
            "msgspec": msgspec.__version__,
        }
        try:
            self._send(wire.Hello(os.getpid(), platform.python_version(), versions))
            chunk = memoryview(bytearray(_CHUNK))
            while size := self._socket.recv_into(chunk):
                self._decoder.feed(chunk[:size])
                while received := self._decoder.next():
                    self._handle(*received)
        except OSError as error:  # the server is gone
            if error.errno in (errno.EBADF, errno.ENOTSOCK):  # the model closed our socket
                os._exit(1)
        except BaseException as error:
            os.write(2, f"the worker ends: {_describe(error)}\n".encode())
            os._exit(1)  # the server sees that nobody killed us, and ends our children
        finally:
            guard.end_group()

    def _handle(self, message: wire.Message, body: bytearray) -> None:
        if isinstance(message, wire.Call):
            self._send(*self._call(message, body))
        elif isinstance(message, wire.Load):
            self._send(self._load(message, body))

    def _send(self, message: wire.Message, body: bytes = b"") -> None:
        for part in wire.encode(message, (body,) if body else ()):
            self._socket.sendall(part)

    def _load(self, load: wire.Load, blob: bytearray) -> wire.Loaded | wire.Refused:
        started = time.monotonic()
        try:
            self._kind = InputType(load.input_type)
            self._function = packaging.unpack(blob)
        except packaging.PackagingError as error:
            return wire.Refused(str(error), error.detail[-_DETAIL:])
        except BaseException as error:
            return wire.Refused("the function could not be loaded", _describe(error))
        return wire.Loaded(time.monotonic() - started)

    def _call(
        self, call: wire.Call, body: bytearray
    ) -> tuple[wire.Answer, bytes] | tuple[wire.Failed]:
        """Run the function on one batch. Nothing that the model raises gets out."""
        function = self._function
        if function is None:
            raise wire.WireError("a call came before the function")
        try:
            inputs = decode_batch(self._kind, call.rows, call.layout, body)
            outputs = convert(function(inputs), call.rows)
            answer = wire.encode_outputs(outputs)
        except WrongCount as wrong:
            return (wire.Failed(call.id, "wrong_count", str(wrong), ""),)
        except BaseException as error:
            return (
                wire.Failed(
                    call.id, "raised", "the model raised an exception", _describe(error)
                ),
            )
        if len(answer) > wire.FROM_WORKER[wire.Answer][1]:
            cause = "the model returned more bytes than an answer can hold"
            return (wire.Failed(call.id, "raised", cause, ""),)
        return wire.Answer(call.id, call.rows), answer


def _describe(error: BaseException) -> str:
    """The traceback without our own frame, cut to what is worth sending."""
    try:
        import traceback

        trace = error.__traceback__ and error.__traceback__.tb_next
        text = "".join(traceback.format_exception(type(error), error, trace))
        return text[-_DETAIL:].encode("utf-8", "backslashreplace").decode()
    except BaseException:  # the error's own text raises, or there is no memory left
        return type(error).__name__
