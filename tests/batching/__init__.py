"""Tests of batching: the queue, the dispatcher, and one contract for controllers."""

import pytest

pytest.register_assert_rewrite(f"{__name__}.contract")
