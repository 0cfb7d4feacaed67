"""A sentence for each field of the plans file, for its reference page and for editors."""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

# Struct to field to sentence. `Deployment` is left out: exports write it, and people don't.
FIELDS: Final[dict[str, dict[str, str]]] = {
    "Resources": {
        "account": "Limits over all APIs together.",
        "apis": "What callers can call.",
        "usagePlans": "The contracts that you sell.",
        "apiKeys": "The callers.",
        "customers": "Those who hold keys, where a plan limits them together or they have numbers of their own.",
    },
    "Account": {"throttleSettings": "A throttle over everything: layer 5."},
    "Api": {
        "id": "Names the API in plans, metrics and Redis. A host whose first label is the id reaches the API.",
        "name": "For people.",
        "apiKeySource": "`HEADER`: the key comes from `keySources`. `AUTHORIZER`: it comes from Envoy's dynamic "
        "metadata, at `authorizer`.",
        "keySources": "Where a client may put its key. The first source that is present and not empty wins.",
        "authorizer": "Where an earlier filter left the key; only for `AUTHORIZER`.",
        "forwardApiKey": "`true` leaves the key in the request to the upstream; `false` removes all that could be one.",
        "costFrom": "Where Envoy's metadata has the cost of a call, for methods without a `costFrom` of their own.",
        "hosts": "Hosts and base paths that reach this API.",
        "resources": "Path template (`/pets/{id}`, `/files/{proxy+}`), then method, then its needs. Without any, the "
        "whole stage is one method that requires a key.",
        "stages": "The deployed versions of the API.",
    },
    "KeySource": {
        "header": "The name of a header.",
        "scheme": "With `header`: the word before the key, such as `Bearer`.",
        "query": "The name of a query parameter.",
        "cookie": "The name of a cookie.",
    },
    "AuthorizerSource": {
        "namespace": "The namespace of the dynamic metadata.",
        "path": "The path to the key within it.",
    },
    "Host": {
        "host": "A host without a port. `*.example.org` matches one label in place of the star; an exact host wins.",
        "basePath": "The first part of the path. The longest match wins, and is removed before routes are matched.",
        "stage": "The stage that is reached. Without one, the next segment of the path names it.",
    },
    "CostFrom": {
        "metadata": "A namespace of Envoy's dynamic metadata, and the names that lead to the cost within it. Never a "
        "header: a client could send it.",
        "max": "The most that a call costs, whatever the metadata says.",
    },
    "Method": {
        "apiKeyRequired": "`false`: every caller may call it, and only layers 4 and 5 apply.",
        "cost": "The units that a call takes from each limit that counts units. 0 takes nothing, and passes a quota "
        "that is used up.",
        "costFrom": "Where Envoy's metadata has the cost of a call. Without a whole number there, `cost` counts.",
    },
    "Stage": {
        "name": "The first segment of the path, unless the host or the route names the stage.",
        "methodSettings": "`*/*`, `pets/GET` or `~1pets~1{id}/GET` to a throttle that all callers share: layer 4. The "
        "most specific entry counts. A wildcard gives each method a bucket of its own. A verb of a method ANY may have "
        "an entry and a bucket of its own (`cats/GET`); the other verbs share that of ANY.",
        "gatewayResponses": "Status, headers and body of refusals, by kind: `THROTTLED`, `QUOTA_EXCEEDED`, "
        "`INVALID_API_KEY`, `MISSING_AUTHENTICATION_TOKEN`, `DEFAULT_4XX`, `DEFAULT_5XX`.",
        "variables": "Values for `stageVariables.…` in gateway responses.",
        "deployment": "The deployed version, if the API has been edited since. Exports of the control plane have it; "
        "leave it out of a file of your own.",
    },
    "MethodSetting": {
        "throttlingRateLimit": "Requests a second; -1 is no limit.",
        "throttlingBurstLimit": "Requests at once; -1 is the rate, rounded up.",
    },
    "GatewayResponse": {
        "statusCode": "A status that has a body. Without one, AWS's own.",
        "responseParameters": "`gatewayresponse.header.NAME` to `'a text'`, `method.request.header.NAME`, "
        "`method.request.querystring.NAME`, `context.…` or `stageVariables.…`.",
        "responseTemplates": "Media type to body, with `$context.error.message`, `$context.error.messageString`, "
        "`$context.error.responseType`, `$context.requestId` and others of AWS's variables; "
        "`$context.error.retryAfter` is an addition to AWS's.",
    },
    "UsagePlan": {
        "id": "Names the plan in metrics and Redis. A plan with another id starts with new counters.",
        "name": "The upstream reads it in `x-usage-plan-name`.",
        "description": "For people.",
        "apiStages": "The stages that the plan covers.",
        "throttle": "A throttle for each key, over all its stages: layer 1.",
        "quota": "A quota for each key: layer 3. Give this or `quotas`.",
        "quotas": "One to four quotas, checked in this order. No two have the same period and `counts`.",
        "limitsPer": "`CUSTOMER`: the keys that name the same customer share the plan's limits. A key without a "
        "`customerId` has them for itself.",
        "keys": "Ids of `apiKeys`. A key has at most one plan for a stage.",
        "mode": "`shadow`: count and report the calls that would be refused, and let them through.",
        "failurePolicy": "What happens to its calls while Redis is away. Without one, the setting `failurePolicy`.",
        "tags": "For people.",
    },
    "ApiStage": {
        "apiId": "The `id` of an API.",
        "stage": "The `name` of a stage.",
        "throttle": "`/pets/GET` to a throttle for each key, in addition to the plan's: layer 2. At most 20.",
    },
    "ThrottleSettings": {
        "rateLimit": "Requests a second: 0, or at least 0.000001. Without one there is no throttle.",
        "burstLimit": "Requests at once. Without one: the rate, rounded up. 0 refuses every call.",
        "counts": "`UNITS`: a call takes its method's cost. Only in a plan.",
    },
    "QuotaSettings": {
        "limit": "Units in a period. A call takes its method's cost, 1 unless set.",
        "period": "`TOTAL` never ends: for trials and prepaid packs.",
        "offset": "The day on which it begins: for WEEK 0 (Sunday) to 6, for MONTH 0 (the 1st) to 27, otherwise 0.",
        "counts": "`REQUESTS`: a call takes 1, whatever its method costs.",
        "timeZone": "An IANA name, such as `Europe/Berlin`: periods begin at midnight there. Without one: UTC.",
        "anchor": "`BILLING_DAY`, for MONTH: it begins on the `billingDay` of the key, or of the customer with "
        "`limitsPer: CUSTOMER`; on the 1st where none is set.",
        "overage": "Calls that are admitted beyond the limit, and marked.",
        "alerts": "Percents of the limit. A call is reported each time the used units reach one from below.",
    },
    "Overage": {"upTo": "The units beyond the limit, or `UNLIMITED`."},
    "ApiKey": {
        "id": "Names the caller in logs, metadata, `x-api-key-id` and Redis. It is no secret.",
        "name": "For people.",
        "description": "For people.",
        "value": "The secret: 20 to 128 printable ASCII characters, without spaces and commas. Give this or "
        "`valueSha256`.",
        "valueSha256": "The SHA-256 of the value, in hex; the file then holds no secret. `authz new-key` prints both.",
        "enabled": "`false`: every call with the key is refused with 403.",
        "expiresAt": "From this time on, every call with the key is refused with 403.",
        "customerId": "The upstream reads it in `x-customer-id`. It need not be one of `customers`.",
        "billingDay": "The day of the month on which quotas with the anchor `BILLING_DAY` begin.",
        "overrides": "The id of a plan to the key's own numbers in it.",
        "allowedSources": "Addresses and ranges (`203.0.113.0/24`, `2001:db8::7`) that may use the key, at most 100. "
        "Calls from elsewhere are refused with 403. Without it, the key may be used from everywhere.",
        "tags": "For people.",
    },
    "Customer": {
        "id": "The `customerId` of its keys.",
        "name": "For people.",
        "billingDay": "As the key's, in plans with `limitsPer: CUSTOMER`.",
        "overrides": "As the key's, in plans with `limitsPer: CUSTOMER`.",
        "tags": "For people.",
    },
    "Override": {
        "throttle": "The rate, the burst or both, in place of those of the plan's `throttle`.",
        "quotas": "Other limits for quotas of the plan.",
    },
    "QuotaOverride": {
        "period": "The period of a quota of the plan.",
        "limit": "The limit in place of the plan's.",
        "counts": "What that quota counts, if two have the period.",
    },
}  # fmt: skip


def sentence(kind: type[Struct]) -> str:
    """The docstring of a struct in one line, with names as the file spells them."""
    return re.sub(r"`(\w+_\w+)`", lambda found: f"`{camel(found[1])}`", " ".join((kind.__doc__ or "").split()))


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(map(str.capitalize, rest))
