"""The account: its throttle, which is writable here, and what AWS says of it besides."""

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
    from authz.store.store import Edit

FEATURE: Final = "UsagePlans"


def _feature(change: PatchStep) -> None:
    if change.value != FEATURE:
        raise bad_request(f"Invalid feature specified. Must be one of [{FEATURE}]")
    if change.op == "remove":
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


def _checked(document: Document) -> StoredAccount:
    throttle = checked_throttle(document["throttleSettings"]) or ThrottleSettings()
    return StoredAccount(Account(throttle), document.get("cloudwatchRoleArn") or None)


async def get_account(call: Call) -> Answer:
    stored = await call.context.store.get("account", ACCOUNT)
    return Answer(body=_document(stored if isinstance(stored, StoredAccount) else StoredAccount()))


async def update_account(call: Call) -> Answer:
    operations = call.read(PatchBody).patch_operations

    async def change(edit: Edit) -> StoredAccount:
        found = await edit.get("account", ACCOUNT)
        stored = found if isinstance(found, StoredAccount) else StoredAccount()
        changed = _checked(patch.apply(TABLE, _document(stored), operations))
        if changed != stored:
            edit.put(changed)
        return changed

    return Answer(body=_document(await call.write(change)))


OPERATIONS: Final = (
    Operation("GetAccount", "GET", "/account", get_account, writes=False),
    Operation("UpdateAccount", "PATCH", "/account", update_account, writes=True),
)
