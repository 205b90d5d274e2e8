"""Where a server is, and the token that its admin port asks for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from clipper import runtime
from clipper.config import is_loopback
from clipper.errors import InvalidInput, Unauthorized
from clipper.runtime import base_url

_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


class Endpoints(NamedTuple):
    """The two base URLs of a server and its admin token (None: not known)."""

    query: str
    admin: str
    token: str | None


class Address:
    """What the user said about a server, completed by what the server announced.

    A server on this machine leaves a runtime file for each query port. Where there is
    one it is believed before `admin_port`; a token that was given, or set as
    CLIPPER_TOKEN, is believed before the file's.
    """

    def __init__(
        self,
        host: str,
        port: int,
        admin_port: int,
        data_dir: str | Path | None,
        token: str | None,
    ) -> None:
        if not isinstance(host, str) or not host or "/" in host or "@" in host:
            raise InvalidInput(
                f"host must be the name or the address of a machine, got {host!r:.100}"
            )
        self.host = "localhost" if host == "local" else host.strip("[]")
        self.port = _check_port("port", port)
        self.admin_port = _check_port("admin_port", admin_port)
        self.data_dir = (
            Path(data_dir).expanduser().absolute() if data_dir is not None else None
        )
        self.token = token or os.environ.get("CLIPPER_TOKEN") or None

    @property
    def is_local(self) -> bool:
        return is_loopback(self.host)

    def resolve(self) -> Endpoints:
        """The endpoints as they are now; reads the runtime file of a local server."""
        found = runtime.find(self.port) if self.is_local else None
        if found is None:
            return Endpoints(
                base_url(self.host, self.port),
                base_url(self.host, self.admin_port),
                self.token or self._token_on_disk(),
            )
        return Endpoints(
            base_url(_reachable(found.host), found.port),
            base_url(_reachable(found.admin_host), found.admin_port),
            self.token or found.find_token(),
        )

    def _token_on_disk(self) -> str | None:
        """For a local server that left no runtime file, in a container perhaps."""
        if not self.is_local:
            return None
        return runtime.read_token(self.data_dir or runtime.default_data_dir())

    def check_token(self, token: str | None) -> str | None:
        """`token`, unless a server elsewhere is sure to refuse a request without one."""
        if token is None and not self.is_local:
            raise Unauthorized(
                f"the admin port of {self.host} needs its token: pass token=..., or "
                "set CLIPPER_TOKEN; it is in the file admin-token of its data directory"
            )
        return token


def _reachable(host: str) -> str:
    """An address to connect to for one that a server listens at."""
    return _ANY_ADDRESS.get(host, host)


def _check_port(name: str, port: object) -> int:
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
        raise InvalidInput(f"{name} must be an integer from 0 to 65535, got {port!r:.100}")
    return port
