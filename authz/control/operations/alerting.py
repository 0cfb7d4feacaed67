"""Where alerts are sent: targets, their secrets, and what became of each delivery."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
import structlog
from msgspec import Meta
from msgspec.structs import replace

from authz.aws.errors import ApiError, bad_request, conflict, not_found
from authz.aws.patch import Document
from authz.aws.plans import refuse_any, refused
from authz.control.alerts.addresses import PUBLIC, NotAllowed
from authz.control.alerts.dispatcher import DISABLED, secrets_of
from authz.control.alerts.matching import test_body_of
from authz.control.alerts.sending import Message, new_secret
from authz.control.call import PAGING, Alerts, Answer, Call, Operation
from authz.control.operations.ids import new_id, unused_id
from authz.control.operations.restapis import listed
from authz.core.bounds import MAX_NAME
from authz.core.problem import Problem
from authz.core.resources import Resource
from authz.core.stored import AlertTarget, alert_targets, good_until
from authz.core.zones import iso_time
from authz.store.ports import DeliveryState, Draft, ItemSource, ListedDelivery

log = structlog.get_logger(__name__)

ID_LENGTH: Final = 10
MAX_TARGETS: Final = 10  # of the account, and of each customer
MAX_DESCRIPTION: Final = 1_000
OVERLAP_SECONDS: Final = 86_400
MAX_OVERLAP_SECONDS: Final = 30 * 86_400
STATES: Final[tuple[DeliveryState, ...]] = ("pending", "failed", "delivered")
NO_SEALING_KEY: Final = (
    "The secret of an alert target is kept sealed, and this control plane has no sealing key: start it with "
    "--sealing-key-file or AUTHZ_SEALING_KEY"
)

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]


class TargetDocument(Resource, frozen=True):
    """An alert target as the API takes it. Without `customer_id` it is the account's."""

    name: Name
    url: str
    enabled: bool = True
    customer_id: Name | None = None
    usage_plan_id: Name | None = None
    description: Annotated[str, Meta(max_length=MAX_DESCRIPTION)] | None = None


class RotateSecret(Resource, frozen=True):
    """The body of `POST /alerts/targets/{targetId}/rotate`. Both secrets sign for `overlap_seconds`."""

    overlap_seconds: Annotated[int, Meta(ge=0, le=MAX_OVERLAP_SECONDS)] = OVERLAP_SECONDS


# --- targets ------------------------------------------------------------------------------------------------------


async def get_targets(call: Call) -> Answer:
    """Answer with a page of targets, the newest first; with `customerId` only that customer's."""
    call.refuse_others("customerId", *PAGING)
    customer_id = call.one("customerId")
    list_ = "alerttarget" if customer_id is None else alert_targets(customer_id)
    page = await call.context.store.page("alerttarget", list_, *call.paging())
    return listed(await _shown(call, page.items), page.position)


async def get_target(call: Call) -> Answer:
    return Answer(body=await _document(call, await _stored(call.context.store, call)))


async def create_target(call: Call) -> Answer:
    """Answer with the target and its secret, which is shown here only."""
    given = _checked(call)
    secret, sealer, now = new_secret(), call.context.sealer, call.context.now()
    if not sealer.can_seal:
        raise bad_request(NO_SEALING_KEY)

    async def create(edit: Draft) -> AlertTarget:
        target_id = await unused_id(edit, "alerttarget", ID_LENGTH)
        await _check_room(edit, given.customer_id)
        await _check_plan(edit, given)
        target = AlertTarget(
            target_id,
            given.name,
            given.url,
            now,
            now,
            sealer.seal(secret, target_id),
            given.enabled,
            given.customer_id,
            given.usage_plan_id,
            given.description,
        )
        edit.put(target)
        return target

    return Answer(201, await _document(call, await call.write(create)) | {"secret": secret})


async def put_target(call: Call) -> Answer:
    """Replace all of a target but its secret: a member that is absent is removed or gets its default."""
    given = _checked(call)

    async def change(edit: Draft) -> AlertTarget:
        stored = await _stored(edit, call)
        if given.customer_id != stored.customer_id:
            await _check_room(edit, given.customer_id)
        if given.usage_plan_id != stored.usage_plan_id:
            await _check_plan(edit, given)
        changed = replace(
            stored,
            name=given.name,
            url=given.url,
            enabled=given.enabled,
            customer_id=given.customer_id,
            usage_plan_id=given.usage_plan_id,
            description=given.description,
        )
        if changed != stored:
            changed = _updated(changed, call.context.now())
        edit.put(changed)
        return changed

    target = await call.write(change)
    if not target.enabled:
        await _alerts(call).outbox.end(target.id, DISABLED)
    return Answer(body=await _document(call, target))


async def delete_target(call: Call) -> Answer:
    async def delete(edit: Draft) -> str:
        target = await _stored(edit, call)
        edit.delete("alerttarget", target.id)
        return target.id

    await _alerts(call).outbox.forget(await call.write(delete))
    return Answer(202)


async def rotate_secret(call: Call) -> Answer:
    """Answer with the target and its new secret, which is shown here only. The one before the old one ends at once."""
    overlap = call.read_strictly(RotateSecret).overlap_seconds
    secret, sealer, now = new_secret(), call.context.sealer, call.context.now()
    if not sealer.can_seal:
        raise bad_request(NO_SEALING_KEY)

    async def rotate(edit: Draft) -> AlertTarget:
        stored = await _stored(edit, call)
        rotated = _updated(
            replace(
                stored,
                sealed_secret=sealer.seal(secret, stored.id),
                previous_sealed_secret=stored.sealed_secret if overlap else None,
                previous_expires_at=now + overlap if overlap else None,
            ),
            now,
        )
        edit.put(rotated)
        return rotated

    return Answer(body=await _document(call, await call.write(rotate)) | {"secret": secret})


async def test_target(call: Call) -> Answer:
    """Send a test now, also to a target that is disabled, and answer with its result. It is not repeated."""
    target = await _stored(call.context.store, call)
    now = call.context.now()
    message = Message(
        f"msg_test{new_id(16)}_{target.id}",
        test_body_of(call.context.account_id, target, now),
        target.url,
        secrets_of(target, call.context.sealer, now),
        target.customer_id,
    )
    attempt = await _alerts(call).sender.send(message)
    log.info("a test of a target was sent", target=target.id, who=call.principal.name, arrived=attempt.arrived)
    result: Document = {"webhookId": message.id, "arrived": attempt.arrived}
    status = {} if attempt.status is None else {"status": attempt.status}
    return Answer(body=result | status | ({"error": attempt.error} if attempt.error else {}))


def _checked(call: Call) -> TargetDocument:
    """The body of a call. Raises BadRequestException with the address of each mistake."""
    given = call.read_strictly(TargetDocument)
    try:
        (_alerts(call).sender.rules if given.customer_id is None else PUBLIC).endpoint(given.url)
    except NotAllowed as rule:
        raise refused([Problem("$.url", str(rule))]) from None
    texts = {"name": given.name, "customerId": given.customer_id, "description": given.description}
    refuse_any(
        Problem(f"$.{name}", "expected no control characters")
        for name, text in texts.items()
        if text and not text.isprintable()
    )
    return given


async def _check_room(edit: Draft, customer_id: str | None) -> None:
    """Raise BadRequestException if the account, or the customer, has its targets."""
    if len(await edit.members(alert_targets(customer_id))) >= MAX_TARGETS:
        whose = "the account" if customer_id is None else "a customer"
        raise bad_request(f"Too many alert targets: {whose} may have {MAX_TARGETS}; delete one, or change it")


async def _check_plan(edit: Draft, given: TargetDocument) -> None:
    if given.usage_plan_id is not None and await edit.get("usageplan", given.usage_plan_id) is None:
        raise not_found("Invalid Usage Plan ID specified")


async def _stored(source: ItemSource, call: Call) -> AlertTarget:
    found = await source.get("alerttarget", call.params["targetId"])
    if not isinstance(found, AlertTarget):
        raise no_target()
    return found


def no_target() -> ApiError:
    return not_found("Invalid alert target identifier specified")


def _updated(target: AlertTarget, now: int) -> AlertTarget:
    return replace(target, last_updated_date=max(now, target.created_date))


async def _document(call: Call, target: AlertTarget) -> Document:
    (document,) = await _shown(call, [target])
    return document


async def _shown(call: Call, targets: Sequence[AlertTarget]) -> list[Document]:
    """Targets as documents: without secrets, and with the time since which their attempts fail."""
    failing = await _alerts(call).outbox.failing_since([target.id for target in targets])
    return [_target_document(target, failing.get(target.id), call.context.now()) for target in targets]


def _target_document(target: AlertTarget, failing: int | None, now: int) -> Document:
    optional = {
        "customerId": target.customer_id,
        "usagePlanId": target.usage_plan_id,
        "description": target.description,
        "previousSecretExpiresAt": good_until(target.previous_expires_at, now),
        "failingSince": None if failing is None else iso_time(failing),
    }
    return {
        "id": target.id,
        "name": target.name,
        "url": target.url,
        "enabled": target.enabled,
        "createdDate": target.created_date,
        "lastUpdatedDate": target.last_updated_date,
        **{name: value for name, value in optional.items() if value is not None},
    }


# --- deliveries ---------------------------------------------------------------------------------------------------


async def get_deliveries(call: Call) -> Answer:
    """Answer with a page of deliveries in a state, the newest first; of pending ones the longest waiting first."""
    call.refuse_others("state", "targetId", *PAGING)
    state = next((one for one in STATES if one == (call.one("state") or "failed")), None)
    if state is None:
        raise bad_request(f"Invalid state: expected one of {', '.join(STATES)}")
    page = await _alerts(call).outbox.page(state, *call.paging(), call.one("targetId"))
    return listed(map(_delivery_document, page.deliveries), page.position)


async def resend_delivery(call: Call) -> Answer:
    """Try a failed delivery again: at once, and then by the usual pauses."""
    delivery_id, outbox = call.params["deliveryId"], _alerts(call).outbox
    delivery = await outbox.failed_one(delivery_id)
    if delivery is None:
        raise not_found("Invalid delivery identifier specified: there is no failed delivery with it")
    target = await call.context.store.get("alerttarget", delivery.target_id)
    if not isinstance(target, AlertTarget) or not target.enabled:
        raise conflict("The target of the delivery is disabled: enable it, then send again")
    if not await outbox.resend(delivery_id):
        raise conflict("The delivery is no longer failed: it is being sent again already")
    return Answer(202)


def _delivery_document(one: ListedDelivery) -> Document:
    delivery = one.delivery
    at = {"pending": "nextAttemptAt", "failed": "failedAt", "delivered": "deliveredAt"}[one.state]
    optional: dict[str, Any] = {
        "lastAttemptAt": None if delivery.last_at is None else iso_time(delivery.last_at),
        "lastStatus": delivery.last_status,
        "lastError": delivery.last_error or None,
    }
    return {
        "id": delivery.id,
        "targetId": delivery.target_id,
        "state": one.state,
        "createdAt": iso_time(delivery.created),
        "attempts": delivery.attempts,
        at: iso_time(one.at),
        **{name: value for name, value in optional.items() if value is not None},
        "message": msgspec.json.decode(delivery.body),
    }


def _alerts(call: Call) -> Alerts:
    assert call.context.alerts is not None, "this context serves no operation on alerts"
    return call.context.alerts


_TARGETS: Final = "/alerts/targets"
_TARGET: Final = "/alerts/targets/{targetId}"
_DELIVERIES: Final = "/alerts/deliveries"

OPERATIONS: Final = (
    Operation("GetAlertTargets", "GET", _TARGETS, get_targets, writes=False),
    Operation("CreateAlertTarget", "POST", _TARGETS, create_target, writes=True),
    Operation("GetAlertTarget", "GET", _TARGET, get_target, writes=False),
    Operation("PutAlertTarget", "PUT", _TARGET, put_target, writes=True),
    Operation("DeleteAlertTarget", "DELETE", _TARGET, delete_target, writes=True),
    Operation("RotateAlertTargetSecret", "POST", f"{_TARGET}/rotate", rotate_secret, writes=True),
    Operation("TestAlertTarget", "POST", f"{_TARGET}/test", test_target, writes=True),
    Operation("GetAlertDeliveries", "GET", _DELIVERIES, get_deliveries, writes=False),
    Operation("ResendAlertDelivery", "POST", f"{_DELIVERIES}/{{deliveryId}}/resend", resend_delivery, writes=True),
)
