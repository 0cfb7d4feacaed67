"""Without the console there is no route to a page, and a sidecar never has one."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest

from authz.control.console.app import VIEWS
from authz.control.pages.templates import asset
from tests.e2e.stack import TIMEOUT_SECONDS, ControlServer, Stack, control_plane, stack, write
from tests.support.builders import resources
from tests.support.servers import EchoServer, RedisServer

PATHS = (
    *sorted({f"/console{view.path}" for view in VIEWS}),
    *("/console/sign-in", "/console/link", "/console/", f"/console/{asset('style.css')}"),
    *("/portal", "/portal/sign-in", "/portal/usage", f"/portal/{asset('style.css')}"),
)
NOWHERE = "/no-page-and-no-operation"


@pytest.fixture(scope="module")
def without(redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlServer]:
    """A control plane with --no-console, on the loopback address that would have one."""
    scratch = tmp_path_factory.mktemp("off")
    config, pepper, sealing_key = scratch / "plans.yaml", scratch / "pepper", scratch / "sealing-key"
    write(config, resources())
    pepper.write_text("p" * 64)
    sealing_key.write_text("5" * 64)
    secrets = ("--pepper-file", str(pepper), "--sealing-key-file", str(sealing_key))
    options = ("--redis-url", redis.url, "--account-id", uuid4().hex, *secrets)
    with control_plane(scratch, config, *options, flags=("--no-console",)) as it:
        yield it


@pytest.fixture(scope="module")
def sidecar(redis: RedisServer, echo: EchoServer) -> Iterator[Stack]:
    with stack(resources(), redis.url, echo.address) as it:
        yield it


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_the_console_a_page_is_as_unknown_as_any_path(without: ControlServer, method: str, path: str) -> None:
    def answer(at: str) -> tuple[int, str, str | None]:
        got = httpx.request(method, without.url + at, trust_env=False, timeout=TIMEOUT_SECONDS)
        return got.status_code, got.text.replace(at, "PATH"), got.headers.get("content-security-policy")

    assert answer(path) == answer(NOWHERE)
    assert answer(path)[2] is None


def test_without_the_console_a_credential_finds_no_page_either(without: ControlServer) -> None:
    answers = {path: without.get(path) for path in PATHS if "?" not in path and "{" not in path}
    assert {path: got.status_code for path, got in answers.items() if got.status_code < 400} == {}
    assert [path for path, got in answers.items() if "html" in got.headers.get("content-type", "")] == []


@pytest.mark.parametrize("path", PATHS)
def test_a_sidecar_serves_no_page(sidecar: Stack, path: str) -> None:
    answer = httpx.get(sidecar.sidecar.http + path, trust_env=False, timeout=TIMEOUT_SECONDS)
    assert (answer.status_code, "html" in answer.headers.get("content-type", "")) == (404, False)
