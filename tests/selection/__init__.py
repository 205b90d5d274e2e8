"""Tests of selection policies: one contract, and what each promises beside it."""

import pytest

pytest.register_assert_rewrite(f"{__name__}.contract")
