"""Tests of the stores: one contract, and what each promises beside it."""

import pytest

pytest.register_assert_rewrite(f"{__name__}.contract", f"{__name__}.log_contract")
