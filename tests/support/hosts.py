"""The hosts that tests run on: grpcio everywhere, and pyvoy where it can run."""

from __future__ import annotations

import os
from typing import Final

import pytest

from authz.hosts.pyvoy_launch import obstacle

NO_PYVOY: Final = obstacle()
assert not (NO_PYVOY and os.environ.get("AUTHZ_TEST_PYVOY") == "required"), f"pyvoy {NO_PYVOY}"

needs_pyvoy: Final = pytest.mark.skipif(NO_PYVOY is not None, reason=f"pyvoy {NO_PYVOY}")
HOSTS: Final = ("grpcio", pytest.param("pyvoy", marks=needs_pyvoy))
"""For `parametrize`, and for the parameters of a fixture."""
