from __future__ import annotations

from pathlib import Path

import pytest

from clipper.config import Settings, is_loopback, load_settings, make_settings
from clipper.errors import ConfigError


def test_the_defaults_stay_on_loopback_with_authentication() -> None:
    settings = load_settings(None, {})
    assert settings == Settings()
    assert is_loopback(settings.host) and is_loopback(settings.admin_host)
    assert settings.auth and (settings.port, settings.admin_port) == (1337, 1338)


def test_flags_go_over_the_file_and_unset_ones_do_not(tmp_path: Path) -> None:
    path = tmp_path / "clipper.toml"
    path.write_text('port = 7000\nhost = "0.0.0.0"\n[limits]\nbody = 1024\n')
    settings = load_settings(path, {"port": 8000, "host": None})
    assert (settings.port, settings.host, settings.limits.body) == (8000, "0.0.0.0", 1024)
    assert settings.limits.head == 16 * 1024


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("port = -1", r"\$.port"),
        ("port = 65536", r"\$.port"),
        ('port = "1337"', r"\$.port"),
        ("prot = 1337", "unknown field `prot`"),
        ("[limits]\nbdy = 1", "unknown field `bdy`"),
        ("[limits]\ndeploys = 0", r"\$.limits.deploys"),
        ("[limits]\nrows_per_request = 65536", r"\$.limits.rows_per_request"),
        ("drain_seconds = 0", r"\$.drain_seconds"),
        ('loop = "trio"', r"\$.loop"),
        ('cache_policy = "fifo"', r"\$.cache_policy"),
        ("port = ", "is not valid TOML"),
        ("\x00", "is not valid TOML"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "clipper.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=sentence) as refused:
        load_settings(path, {})
    assert str(path) in refused.value.cause


def test_a_file_that_is_no_text_or_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "clipper.toml"
    with pytest.raises(ConfigError, match=r"cannot read .*: No such file"):
        load_settings(path, {})
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not valid TOML"):
        load_settings(path, {})


@pytest.mark.parametrize("field", ["host", "admin_host"])
@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "example.org", "127.example.org"])
def test_without_authentication_the_server_stays_on_loopback(field: str, host: str) -> None:
    with pytest.raises(ConfigError, match="without authentication"):
        make_settings({"auth": False, field: host})
    make_settings({"auth": True, field: host})
    make_settings({"auth": False, field: "127.0.0.2"})


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("", False),
        ("127.", False),
        ("127.0.0.1.example.org", False),
        ("128.0.0.1", False),
        ("::2", False),
    ],
)
def test_loopback_is_an_address_not_a_prefix(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
