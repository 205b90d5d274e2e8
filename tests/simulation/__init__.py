"""Queues, controllers, dispatcher, cache and applications in virtual time, by seed."""

import pytest

pytest.register_assert_rewrite(f"{__name__}.invariants", f"{__name__}.world")
