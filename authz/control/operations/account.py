"""The operations on the account: its throttle, which is writable here, and AWS's other members."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from authz.aws import patch
from authz.aws.errors import bad_request
from authz.aws.patch import Document, PatchBody, PatchRule, PatchStep, Type
from authz.aws.plans import checked_throttle
from authz.control.call import Answer, Call, Operation
from authz.core.resources import Account, ThrottleSettings
from authz.core.stored import ACCOUNT, StoredAccount

if TYPE_CHECKING:
    from authz.store.ports import Draft

FEATURE: Final = "UsagePlans"


def _feature(step: PatchStep) -> None:
    """Accept the one feature, which is always on. Raises ApiError for any other, and for its removal."""
    if step.value != FEATURE:
        raise bad_request(f"Invalid feature specified. Must be one of [{FEATURE}]")
    if step.op == "remove":
        raise bad_request("Usage Plans cannot be disabled once enabled")


TABLE: Final = (
    PatchRule(("replace",), "/cloudwatchRoleArn"),
    PatchRule(("add", "remove"), "/features", effect=_feature),
    PatchRule(("replace",), "/throttleSettings/rateLimit", Type.DOUBLE, hidden=True),
    PatchRule(("replace",), "/throttleSettings/burstLimit", Type.INT, hidden=True),
)


def _document(stored: StoredAccount) -> Document:
    throttle = stored.account.throttle_settings
    numbers = {"burstLimit": throttle.burst_limit, "rateLimit": throttle.rate_limit}
    role = {"cloudwatchRoleArn": stored.cloudwatch_role_arn} if stored.cloudwatch_role_arn else {}
    settings = {name: value for name, value in numbers.items() if value is not None}
    return role | {"throttleSettings": settings, "features": [FEATURE], "apiKeyVersion": "4"}


async def get_account(call: Call) -> Answer:
    stored = await call.context.store.get("account", ACCOUNT)
    return Answer(body=_document(stored if isinstance(stored, StoredAccount) else StoredAccount()))


async def update_account(call: Call) -> Answer:
    operations = call.read(PatchBody).patch_operations

    async def change(edit: Draft) -> StoredAccount:
        found = await edit.get("account", ACCOUNT)
        stored = found if isinstance(found, StoredAccount) else StoredAccount()
        document = patch.apply(TABLE, _document(stored), operations)
        throttle = checked_throttle(document["throttleSettings"]) or ThrottleSettings()
        changed = StoredAccount(Account(throttle), document.get("cloudwatchRoleArn") or None)
        if changed != stored:
            edit.put(changed)
        return changed

    return Answer(body=_document(await call.write(change)))


OPERATIONS: Final = (
    Operation("GetAccount", "GET", "/account", get_account, writes=False),
    Operation("UpdateAccount", "PATCH", "/account", update_account, writes=True),
)
