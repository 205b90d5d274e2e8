from clipper.engine import Engine


class Exposition:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def render(self, accept: str) -> tuple[str, bytes]:
        return "text/plain", b""
