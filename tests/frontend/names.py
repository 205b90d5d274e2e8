"""Names that are none: paths, escapes, controls, look-alikes, and far too long ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

# As they would stand in a JSON body.
HOSTILE = (
    "", ".", "..", "...", "../../etc/passwd", "..\\..\\windows\\win.ini", "/etc/passwd",
    "//etc/passwd", "\\\\evil\\share", "C:\\boot.ini", "file:///etc/passwd",
    "http://evil.example/model", "a/../b", "a/b", "a\\b", "-rf", "_a", "~root", "$HOME",
    "`id`", "$(id)", "a;b", "a|b", "a b", " a", "a ", "a\n", "a\r\nX-Evil: 1", "a\0.json",
    "\0", "a\tb", "\x1b[2J", "a\x7f", "a#b", "a?b", "a:b", "a@b", "a%2fb", "%2e%2e",
    "%2e%2e%2fetc%2fpasswd", "%252e%252e%252fetc", "..%c0%af..", "..%255c",
    "\u202e", "\u2028", "\uff41", "\u0430", "e\u0301", "\u212a", "\u017f", "\ufeff",
    "\U0001f600", "x" * 65,
    "x" * 10_000, "' OR 1=1 --", '"', "'; DROP TABLE model; --", "{{7*7}}", "${jndi:x}",
    "<script>", "\ud7ff\ue000",
)  # fmt: skip

# As they would stand in a request line, beside those above escaped once and twice.
_RAW = (
    "..", ".", "%2e", "%2e%2e", "%2E%2E%2F", "..%2f..%2fetc%2fpasswd", "%252e%252e%252f",
    "%25252e", "..%5c..%5c", "%00", "a%00", "%0d%0aX-Evil:%201", "%0aX-Evil:%201", "%0d",
    "a%0a", "%c0%ae%c0%ae%c0%af", "%ff", "%e2%80%ae", "%ed%a0%80", "..;", "..;/..",
    "%u002e", "%", "%zz", "%2", "a%2fb", "a%5cb", "%2fetc%2fpasswd", "%7e", "a%23b",
    "a%3fb", "x" * 4000,
)  # fmt: skip


def in_paths() -> list[str]:
    """Hostile names as parts of a request line."""
    found = {quote(name, safe="") for name in HOSTILE if len(name) < 2000}
    found |= {quote(name, safe="") for name in found if len(name) < 500}
    return sorted((found | set(_RAW)) - {""})


def slots(content: Any) -> Iterator[tuple[str, ...]]:
    """Where texts stand in what a body says."""
    items = content.items() if isinstance(content, dict) else ()
    for key, value in items:
        if isinstance(value, dict):
            yield from ((key, *rest) for rest in slots(value))
        elif isinstance(value, (str, list)):
            yield (key,)


def with_text(content: Any, slot: tuple[str, ...], text: str) -> Any:
    """The same with another text at one place; a list is of it alone."""
    key, *rest = slot
    if rest:
        return content | {key: with_text(content[key], tuple(rest), text)}
    return content | {key: [text] if isinstance(content[key], list) else text}
