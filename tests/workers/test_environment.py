"""What a worker inherits."""

from __future__ import annotations

import os

import pytest

from clipper.workers.environment import looks_secret, worker_environment


@pytest.mark.parametrize(
    "name",
    [
        "CLIPPER_TOKEN",
        "CLIPPER_DATA_DIR",
        "GITHUB_TOKEN",
        "token",
        "DB_PASSWORD",
        "PGPASSWORD_FILE_PASSWD",
        "OPENAI_API_KEY",
        "APP_SECRET_VALUE",
        "AWS_SESSION_ID",
        "AZURE_CLIENT_ID",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "SENTRY_DSN",
        "SSH_AUTH_SOCK",
        "DATABASE_URL",
        "PGPASSWORD",
        "MYSQL_PWD",
        "GITHUB_PAT",
        "S3_ACCESSKEY",
        "ENCRYPTIONKEY",
        "PRIVATE_KEYS",
        "SESSION_COOKIE",
        "STORAGE_CONNECTION_STRING",
    ],
)
def test_secrets_stay_behind(name: str) -> None:
    assert looks_secret(name)
    assert name not in worker_environment({}, {name: "x"})


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "HOME",
        "LANG",
        "LC_ALL",
        "VIRTUAL_ENV",
        "LD_LIBRARY_PATH",
        "PWD",
        "CUDA_VISIBLE_DEVICES",
        "HF_HOME",
        "TOKENIZERS_PARALLELISM",
        "KEYBOARD",
        "OLDPWD",
        "XDG_SESSION_ID",
        "PATHEXT",
    ],
)
def test_the_rest_comes_along(name: str) -> None:
    assert worker_environment({}, {name: "x"})[name] == "x"


@pytest.mark.parametrize(
    "value",
    [
        "postgresql://clipper:hunter2@db.example/x",
        "http://me:hunter2@proxy.example:3128",
        "amqp://:hunter2@queue.example",
        "before -----BEGIN RSA PRIVATE KEY-----\nabc",
    ],
)
def test_a_value_can_be_the_secret(value: str) -> None:
    assert "PLAIN" not in worker_environment({}, {"PLAIN": value})


@pytest.mark.parametrize(
    "value",
    ["http://proxy.example:3128", "a:b@c", "https://x.example/a:b@c", "@"],
)
def test_other_values_come_along(value: str) -> None:
    assert worker_environment({}, {"PLAIN": value})["PLAIN"] == value


def test_numeric_libraries_get_one_thread_unless_told() -> None:
    given = worker_environment({"MKL_NUM_THREADS": "8"}, {"OMP_NUM_THREADS": "4"})
    assert given["MKL_NUM_THREADS"] == "8"
    assert given["OMP_NUM_THREADS"] == "4"
    assert given["OPENBLAS_NUM_THREADS"] == "1"


def test_the_deployers_variables_come_over_the_rule() -> None:
    assert worker_environment({"HF_TOKEN": "mine"}, {"HF_TOKEN": "x"})["HF_TOKEN"] == "mine"


def test_the_worker_finds_this_package() -> None:
    paths = worker_environment({}, {"PYTHONPATH": "/first"})["PYTHONPATH"]
    assert paths.split(os.pathsep)[0] == "/first"
