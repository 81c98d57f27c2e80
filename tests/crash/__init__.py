import pytest

# What became of a run is asserted there, and a failure should show it.
pytest.register_assert_rewrite("tests.crash.world")
