"""The cost of a call from Envoy's metadata, with the filters of the page `charge-by-cost` and a real Envoy."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import yaml
from msgspec.structs import replace

from authz.config.file import parse
from authz.core.resources import Resources
from tests.e2e.stack import TIMEOUT_SECONDS, Patch, Stack, http_manager, stack
from tests.e2e.test_docs import blocks
from tests.site import ROOT
from tests.support.servers import EchoServer, RedisServer, until

PAGE = ROOT / "docs/how-to/charge-by-cost.md"
FILES = {block.title: block.text for block in blocks(PAGE.read_text("utf-8")) if block.title}
KEY = "acme-0123456789-0123456789"
JSON = {"content-type": "application/json"}
METHODS_OWN, MAX, MISSING, ERROR = 4096, 4096, 1024, 4096


def plans() -> Resources:
    """The page's plans, without limits: the tables of the page need many calls."""
    found = parse(FILES["plans.yaml"], "plans.yaml").resources
    return replace(found, usage_plans=tuple(replace(plan, throttle=None, quota=None) for plan in found.usage_plans))


def with_filters(name: str) -> Patch:
    """As `authz envoy-config --filters` puts them: before the check."""

    def patch(envoy_config: Any) -> None:
        http_manager(envoy_config)["http_filters"][1:1] = yaml.safe_load(FILES[name])["http_filters"]

    return patch


@dataclass
class Shop:
    """The page's API, and the cost of each call to it."""

    stack: Stack
    calls: int = 0

    def send(self, headers: dict[str, str], body: Any = b"", source: str = "127.0.0.1") -> int:
        """Call the API, and return the status."""
        sent = {"host": "chat.example.org", "x-api-key": KEY, **headers}
        transport = httpx.HTTPTransport(local_address=source)
        with httpx.Client(timeout=TIMEOUT_SECONDS, trust_env=False, transport=transport) as client:
            answer = client.post(f"{self.stack.envoy.url}/v1/chat", headers=sent, content=body)
        self.calls += 1
        until(lambda: len(self.stack.access_log()) == self.calls, "no line in the access log", self.stack.envoy)
        return answer.status_code

    def cost(self, headers: dict[str, str], body: Any = b"", source: str = "127.0.0.1") -> float:
        """What an admitted call costs, by Envoy's access log."""
        assert self.send(headers, body, source) == 200
        return float(self.stack.access_log()[-1]["authz"].get("cost", 1))


@contextmanager
def shop(filters: str, redis: RedisServer, echo: EchoServer) -> Iterator[Shop]:
    with stack(plans(), redis.url, echo.address, patch=with_filters(filters)) as it:
        yield Shop(it)


@pytest.fixture(scope="module")
def tokens(redis: RedisServer, echo: EchoServer) -> Iterator[Shop]:
    with shop("filters.yaml", redis, echo) as it:
        yield it


@pytest.fixture(scope="module")
def computed(redis: RedisServer, echo: EchoServer) -> Iterator[Shop]:
    with shop("computed.yaml", redis, echo) as it:
        yield it


@pytest.fixture(scope="module")
def gateway(redis: RedisServer, echo: EchoServer) -> Iterator[Shop]:
    with shop("gateway.yaml", redis, echo) as it:
        yield it


BODIES: list[tuple[str, dict[str, str], Any, int]] = [
    ("a number", JSON, b'{"max_tokens": 300}', 300),
    ("a charset", {"content-type": "application/json; charset=utf-8"}, b'{"max_tokens": 300}', 300),
    ("called text", {"content-type": "text/plain"}, b'{"max_tokens": 300}', 300),
    ("called nothing", {}, b'{"max_tokens": 300}', 300),
    ("in pieces", JSON, iter([b'{"max_to', b'kens": 300}']), 300),
    ("digits", JSON, b'{"max_tokens": "300"}', 300),
    ("zero", JSON, b'{"max_tokens": 0}', 0),
    ("true", JSON, b'{"max_tokens": true}', 1),
    ("too great", JSON, b'{"max_tokens": 9000}', MAX),
    ("an exponent", JSON, b'{"max_tokens": 1e9}', MAX),
    ("30 digits", JSON, b'{"max_tokens": 123456789012345678901234567890}', MAX),
    ("negative", JSON, b'{"max_tokens": -5}', METHODS_OWN),
    ("a fraction", JSON, b'{"max_tokens": 1.5}', METHODS_OWN),
    ("no field", JSON, b"{}", MISSING),
    ("a list", JSON, b"[1]", MISSING),
    ("words", JSON, b'{"max_tokens": "many"}', MISSING),
    ("an object", JSON, b'{"max_tokens": {}}', MISSING),
    ("null", JSON, b'{"max_tokens": null}', MISSING),
    ("no body", JSON, b"", MISSING),
    ("no JSON", JSON, b'{"max_tokens":', ERROR),
    ("no UTF-8", JSON, b'{"max_tokens": 1, "a": "\xff"}', ERROR),
    ("compressed", {**JSON, "content-encoding": "gzip"}, gzip.compress(b'{"max_tokens": 1}'), ERROR),
    ("NaN", JSON, b'{"max_tokens": NaN}', ERROR),
    ("infinite", JSON, b'{"max_tokens": 1e400}', ERROR),
    ("19 digits", JSON, b'{"max_tokens": 9223372036854775808}', ERROR),
    ("nested lists", JSON, b'{"a": ' + b"[" * 20_000 + b"]" * 20_000 + b', "max_tokens": 1}', ERROR),
    ("twice", JSON, b'{"max_tokens": 4000, "max_tokens": 7}', 7),
]


@pytest.mark.parametrize(("headers", "body", "cost"), [row[1:] for row in BODIES], ids=[row[0] for row in BODIES])
def test_a_body_costs_what_the_page_says(headers: dict[str, str], body: Any, cost: int, tokens: Shop) -> None:
    assert tokens.cost(headers, body) == cost


def test_a_body_beyond_envoys_buffer_is_refused_unchecked(tokens: Shop) -> None:
    assert tokens.send(JSON, b'{"max_tokens": 1, "a": "' + b"x" * 1_200_000 + b'"}') == 413
    assert tokens.stack.access_log()[-1]["authz"] is None


def test_a_route_may_leave_the_filter_out(redis: RedisServer, echo: EchoServer) -> None:
    """Then Envoy checks the key before it has the body, and the call costs what its method costs."""
    texts = [block.text for block in blocks(PAGE.read_text("utf-8")) if "route.v3.FilterConfig" in block.text]

    def patch(envoy_config: Any) -> None:
        with_filters("filters.yaml")(envoy_config)
        for host in http_manager(envoy_config)["route_config"]["virtual_hosts"]:
            host["routes"][-1].update(yaml.safe_load(texts[0]))

    with stack(plans(), redis.url, echo.address, patch=patch) as it:
        large = b'{"max_tokens": 1, "a": "' + b"x" * 1_200_000 + b'"}'
        assert Shop(it).cost(JSON, large) == METHODS_OWN


def test_the_units_and_the_fallbacks_are_counted(tokens: Shop) -> None:

    def counted(name: str, **labels: str) -> float:
        text = httpx.get(f"{tokens.stack.sidecar.http}/metrics", trust_env=False).text
        named = [line for line in text.splitlines() if line.startswith(f"{name}{{")]
        told = [line for line in named if all(f'{label}="{value}"' in line for label, value in labels.items())]
        return sum(float(line.rpartition(" ")[2]) for line in told)

    units, odd = counted("authz_admitted_units_total"), counted("authz_cost_fallbacks_total", cause="not_whole")
    for body in (b'{"max_tokens": 300}', b'{"max_tokens": -5}'):
        assert tokens.send(JSON, body) == 200
    assert counted("authz_admitted_units_total", plan="starter") == units + 300 + METHODS_OWN
    assert counted("authz_cost_fallbacks_total", cause="not_whole", api="chat") == odd + 1
    assert counted("authz_cost_fallbacks_total", cause="absent") == 0


@pytest.mark.parametrize(
    ("body", "cost"),
    [
        (b'{"max_tokens": 300}', 305),
        (b'{"max_tokens": 0}', MAX),
        (b'{"max_tokens": -5}', MAX),
        (b"{}", 1025),
        (b"no JSON at all", MAX),
        (b'{"max_tokens": 300, "a": "' + b"x" * 4_000 + b'"}', 1307),
    ],
)
def test_a_script_computes_the_cost(body: bytes, cost: int, computed: Shop) -> None:
    assert computed.cost(JSON, body) == cost


@pytest.mark.parametrize(
    ("header", "cost"),
    [
        *(("7", 7), ("0", 0), ("1e9", MAX), ("0x10", 16), ("-3", METHODS_OWN), ("1.5", METHODS_OWN)),
        *(("nan", METHODS_OWN), ("inf", METHODS_OWN), ("many", METHODS_OWN), ("7,8", METHODS_OWN), ("", METHODS_OWN)),
    ],
)
def test_a_gateways_header_is_the_cost(header: str, cost: int, gateway: Shop) -> None:
    assert gateway.cost({"x-request-cost": header}, source="127.0.0.2") == cost


def test_no_other_client_may_send_the_gateways_header(gateway: Shop) -> None:
    assert gateway.send({"x-request-cost": "0"}) == 403
    assert gateway.cost({}) == METHODS_OWN


def test_the_page_runs_the_filters_of_these_tests() -> None:
    assert {name for name in FILES if name != "plans.yaml"} == {"filters.yaml", "computed.yaml", "gateway.yaml"}
    assert "--filters filters.yaml" in PAGE.read_text("utf-8")
    assert "--filters gateway.yaml" in PAGE.read_text("utf-8")
