"""The system whose pages the browser opens: a Redis, a control plane, sidecars and an Envoy."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from playwright.sync_api import Browser

from authz.core.resources import Resources
from tests.e2e.stack import Stack, managed
from tests.e2e.test_tour import Tour
from tests.support.browser import LOOKS, Look, Tab, tab
from tests.support.servers import RedisServer, echo_server, redis_server

SIDECARS: Final = 3


@dataclass
class World:
    """The running system, and a browser that is signed in to it."""

    stack: Stack
    redis: RedisServer
    browser: Browser
    tour: Tour
    upstream: str
    states: dict[bool, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Of the control plane."""
        return self.tour.control.url

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Call an operation of ours. Returns its document."""
        answer = self.tour.control.call(method, path, b"" if body is None else json.dumps(body).encode())
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def link(self, *flags: str) -> str:
        """A link that signs in to the console once, as `authz console link` prints it."""
        return self._authz("console", "link", "--url", self.url, *flags).splitlines()[0]

    def token(self, *flags: str) -> str:
        """A credential's bearer token, as `authz credentials create --token` prints it."""
        printed = self._authz("credentials", "create", "browser", "--token", *flags)
        found = re.search(r"Bearer (\S+)", printed)
        assert found, printed
        return self.keep_secret(found[1])

    def keep_secret(self, value: str) -> str:
        """Fail at the end if this value stands in a log, an answer, or Redis. Returns it."""
        self.stack.secrets |= {value}
        return value

    def _authz(self, *words: str) -> str:
        place = ("--redis-url", self.redis.url, "--account-id", self.stack.account)
        made = subprocess.run([sys.executable, "-m", "authz", *words, *place], capture_output=True, text=True)
        assert made.returncode == 0, made.stderr
        return made.stdout

    @contextmanager
    def owner(
        self, *, scripts: bool = True, look: Look = LOOKS[0], read_only: bool = False, zone: str = "UTC"
    ) -> Iterator[Tab]:
        """A tab of an owner who has signed in by a link. All owners share one session, and all readers another."""
        if read_only not in self.states:
            with tab(self.browser, self.url) as it:
                it.open(self.link(*(["--read-only"] if read_only else []))).press("Sign in")
                self.states[read_only] = it.page.context.storage_state()
        with tab(self.browser, self.url, scripts=scripts, look=look, state=self.states[read_only], zone=zone) as it:
            yield it

    def portal_link(self, customer: str, **changes: Any) -> str:
        """A link that signs a customer in to the portal once."""
        return str(self.ask("POST", "/portal/sessions", {"customerId": customer, **changes})["url"])

    @contextmanager
    def customer(
        self, id_: str, *, scripts: bool = True, look: Look = LOOKS[0], state: Any = None, **changes: Any
    ) -> Iterator[Tab]:
        """A tab of a customer: of the session in `state`, or of one that a new link begins."""
        with tab(self.browser, self.url, scripts=scripts, look=look, state=state) as it:
            if state is None:
                it.open(self.portal_link(id_, **changes)).press("Continue")
            yield it

    @contextmanager
    def stranger(self, *, scripts: bool = True, look: Look = LOOKS[0]) -> Iterator[Tab]:
        """A tab without a session."""
        with tab(self.browser, self.url, scripts=scripts, look=look) as it:
            yield it

    def call(self, api_id: str, value: str, times: int = 1) -> list[int]:
        """Call GET /prod/pets of an API through Envoy. Returns the statuses."""
        return [self.tour.call(api_id, value).status for _ in range(times)]


@contextmanager
def world(browser: Browser, *, sidecars: int = SIDECARS) -> Iterator[World]:
    """The system without resources. When it ends, no secret may stand in a log, an answer, or Redis."""
    with (
        redis_server(unix=True) as redis,
        echo_server() as echo,
        managed(Resources(), redis, echo.address, sidecars, flags=_flags) as stack,
    ):
        yield World(stack, redis, browser, Tour(stack), echo.url)


def _flags(stack: Stack) -> tuple[str, ...]:
    return "--public-url", stack.envoy.url, "--allow-private-targets"
