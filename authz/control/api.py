"""Runs the operations of the API: for calls that arrive over HTTP, and for the pages of this process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, Final

import msgspec
import structlog

from authz.aws.errors import ApiError, bad_request, conflict, not_found
from authz.control.call import Answer, Call, Context, Fields, Operation, Principal, flag
from authz.control.operations import (
    absent,
    account,
    alerting,
    apiextensions,
    apikeys,
    auditing,
    customers,
    deployments,
    domains,
    examplecalls,
    exports,
    extensions,
    gatewayresponses,
    keyextensions,
    keysearch,
    metering,
    models,
    overview,
    planextensions,
    resources,
    restapis,
    stages,
    system,
    tags,
    usage,
    usageplans,
    wholeplans,
)
from authz.control.operations.unsupported import UNSUPPORTED
from authz.store.ports import Contention, InvalidPosition, StoreRefusal
from authz.store.sealing import SealError

log = structlog.get_logger(__name__)

CALL_SECONDS: Final = 60.0
VERSION: Final = "x-authz-version"  # of the store, after a write
WARNING: Final = "x-authz-warning"
VALUES: Final = frozenset({"value", "previousValue", "secret"})  # members that hold a secret
NOTHING: Final[Mapping[str, str]] = {}

MODULES: Final = (
    apikeys,
    usageplans,
    usage,
    account,
    tags,
    restapis,
    resources,
    deployments,
    stages,
    gatewayresponses,
    models,
    domains,
    exports,
    absent,
    extensions,
    planextensions,
    wholeplans,
    apiextensions,
    customers,
    keyextensions,
    metering,
    auditing,
    keysearch,
    examplecalls,
    alerting,
    overview,
    system,
)


def operations() -> tuple[Operation, ...]:
    """All operations that the control plane knows. The last ones are AWS's that it does not support."""
    return (*chain.from_iterable(module.OPERATIONS for module in MODULES), *UNSUPPORTED)


class Api:
    """Calls operations by their name, under the rules that hold over HTTP: roles, audit, warnings, timeouts."""

    def __init__(self, context: Context, table: Iterable[Operation] | None = None) -> None:
        self._context = context
        self._operations = {operation.name: operation for operation in (operations() if table is None else table)}

    def without_operations(self) -> Api:
        """An API of the same context that knows no operation."""
        return Api(self._context, ())

    @property
    def sends_to_the_public_only(self) -> bool:
        """True if webhooks are sent, and to public addresses alone."""
        alerts = self._context.alerts
        return alerts is not None and not alerts.sender.rules.private

    @property
    def now(self) -> int:
        """The time of calls, in seconds of Unix time."""
        return self._context.now()

    async def call(
        self,
        principal: Principal,
        name: str,
        params: Mapping[str, str] = NOTHING,
        query: Mapping[str, str] = NOTHING,
        body: Any = None,
        accept: str = "",
        host: str = "",
    ) -> Answer:
        """Run an operation. `params` are the parts of its path; `body` is a value that becomes JSON.

        Raises ApiError as the operation words it, StoreUnavailable and LimiterUnavailable.
        """
        operation = self._operations[name]
        # The store separates words by NUL, so that no id has one. Over HTTP no call arrives with it.
        if any("\0" in text for text in params.values()):
            raise not_found("Not Found")
        if any("\0" in text for text in query.values()):
            raise bad_request("Invalid query string: expected no NUL")
        fields: Fields = {field: [value] for field, value in query.items()}
        permit(operation, principal, fields)
        encoded = b"" if body is None else msgspec.json.encode(body)
        return await run(operation, Call(self._context, name, params, fields, encoded, principal, accept, host))


async def run(operation: Operation, call: Call) -> Answer:
    try:
        async with asyncio.timeout(CALL_SECONDS):
            answer = await operation.handler(call)
    except TimeoutError:
        raise ApiError("ServiceUnavailableException", "The call took too long", retry_after=1) from None
    except SealError:
        raise ApiError("ServiceUnavailableException", "A value was sealed with a key that is not given here") from None
    except InvalidPosition:
        raise bad_request("Invalid position parameter") from None
    except Contention:
        text = "Unable to complete operation due to concurrent modification. Please try again later."
        raise conflict(text) from None
    except StoreRefusal as refused:
        raise conflict(str(refused)) from None
    if call.principal.read_only:
        answer = Answer(answer.status, _without_values(answer.body), answer.headers)
    if call.versions:
        version = {VERSION: str(call.versions[-1])}
        answer = Answer(answer.status, answer.body, {**answer.headers, **version})
    if warned := call.warned():
        log.warning("accepted and not acted upon", operation=operation.name, who=call.principal.name, warning=warned)
        answer = Answer(answer.status, answer.body, {**answer.headers, WARNING: warned})
    return answer


def permit(operation: Operation, principal: Principal, fields: Fields) -> None:
    """Raise AccessDeniedException before the body is read, so that a refused caller costs little."""
    asks_values = any(flag(fields, name) for name in ("includeValue", "includeValues"))
    if principal.read_only and (operation.writes or asks_values):
        what = f"apigateway:{operation.name}" + ("" if operation.writes else " with values of keys")
        message = f"User: {principal.name} is not authorized to perform: {what}"
        raise ApiError("AccessDeniedException", message)


def _without_values(body: Any) -> Any:
    """A resource, or a list of resources, without secrets. Guards read-only callers if a handler forgets to."""
    match body:
        case {"item": list() as items}:
            return {**body, "item": [_without_values(item) for item in items]}
        case dict():
            return {name: member for name, member in body.items() if name not in VALUES}
    return body
