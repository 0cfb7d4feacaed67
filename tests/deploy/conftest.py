"""The Redis and the upstream of the tests that need them."""

from tests.e2e.conftest import echo as echo
from tests.e2e.conftest import redis as redis
