"""The operations on domain names and their base path mappings, which lead a sidecar from a host to an API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from authz.aws.errors import bad_request, conflict, not_found
from authz.aws.patch import PatchRule, PatchStep, apply, member, member_or_removed
from authz.control.call import Answer, Call, Operation
from authz.control.operations.restapis import (
    ENDPOINTS,
    Endpoint,
    bare_style,
    given,
    listed,
    operations_of,
    page_of,
    patched,
)
from authz.core.rules import BASE_PATH, HOST
from authz.core.stored import BasePathMapping, DomainName, RestApi, StoredStage, stage_id
from authz.store.ports import Draft, ItemSource

NO_BASE_PATH: Final = "(none)"  # how AWS writes the empty base path
NO_TARGET: Final = "no-domain-target.invalid"  # never resolves (RFC 2606), and names the setting that is missing
ZONE_ID: Final = "Z2FDTNDATAQYW2"  # the hosted zone that AWS documents for all its distributions

# The members of CreateDomainName that are stored. Private keys and certificates are not: nothing here uses them.
DETAILS: Final = (
    *("certificateName", "certificateArn", "regionalCertificateName", "regionalCertificateArn", "securityPolicy"),
    *("endpointAccessMode", "mutualTlsAuthentication", "ownershipVerificationCertificateArn", "policy", "routingMode"),
)


class Truststore(Struct, frozen=True, rename="camel", omit_defaults=True):
    """The source of the clients' certificates: stored, and without effect here."""

    truststore_uri: str | None = None
    truststore_version: str | None = None


class NewDomain(Struct, frozen=True, rename="camel", omit_defaults=True):
    """The body of CreateDomainName."""

    domain_name: str
    certificate_name: str | None = None
    certificate_arn: str | None = None
    regional_certificate_name: str | None = None
    regional_certificate_arn: str | None = None
    endpoint_configuration: Endpoint | None = None
    tags: dict[str, str] = {}
    security_policy: str | None = None
    endpoint_access_mode: Literal["BASIC", "STRICT"] | None = None
    mutual_tls_authentication: Truststore | None = None
    ownership_verification_certificate_arn: str | None = None
    policy: str | None = None
    routing_mode: str | None = None


class NewMapping(Struct, frozen=True, rename="camel"):
    """The body of CreateBasePathMapping."""

    rest_api_id: str
    base_path: str = ""
    stage: str | None = None


# --- domain names -------------------------------------------------------------------------------------------------


def _shown(call: Call, domain: DomainName) -> dict[str, Any]:
    place = f"{call.principal.region}:{call.context.account_id}"
    return {
        "domainName": domain.domain_name,
        "domainNameArn": f"arn:aws:apigateway:{place}:/domainnames/{domain.id}",
        "domainNameStatus": "AVAILABLE",
        **domain.details,
        **_targets(call, domain),
        **given(tags=domain.tags),
    }


def _targets(call: Call, domain: DomainName) -> dict[str, Any]:
    """Return the target of the domain's DNS record, in the members that tools read for such a record."""
    target = call.context.domain_target or NO_TARGET
    if "EDGE" not in domain.details["endpointConfiguration"]["types"]:
        return {"regionalDomainName": target, "regionalHostedZoneId": ZONE_ID}
    certified = any(domain.details.get(name) for name in ("certificateArn", "certificateName"))
    return {
        "distributionDomainName": target,
        "distributionHostedZoneId": ZONE_ID,
        **given(certificateUploadDate=domain.created_date if certified else None),
    }


async def _domain(call: Call, source: ItemSource) -> DomainName:
    found = await source.get("domain", call.params["domain_name"].lower())
    if not isinstance(found, DomainName):
        raise not_found("Invalid domain name identifier specified")
    return found


async def create(call: Call) -> Answer:
    body = call.read(NewDomain)
    host = body.domain_name.lower()
    if not HOST.fullmatch(host):
        raise bad_request("Invalid domain name specified")
    members = msgspec.to_builtins(body)
    endpoint = (body.endpoint_configuration or Endpoint()).shown()
    details = {name: members[name] for name in DETAILS if members.get(name)} | {"endpointConfiguration": endpoint}
    made = DomainName(body.domain_name, call.context.now(), tags=body.tags, details=details)

    async def edit(edit: Draft) -> None:
        if await edit.get("domain", host) is not None:
            raise bad_request("The domain name you provided already exists.")
        edit.put(made)

    await call.write(edit, host)
    if call.context.domain_target is None:
        name = next(name for name in _targets(call, made) if name.endswith("DomainName"))
        call.warn(f"{name} is {NO_TARGET}: start authz control with --domain-target")
    return Answer(201, _shown(call, made))


async def get(call: Call) -> Answer:
    return Answer(body=_shown(call, await _domain(call, call.context.store)))


async def get_all(call: Call) -> Answer:
    page = await call.context.store.page("domain", "domain", *call.paging())
    return listed((_shown(call, one) for one in page.items if isinstance(one, DomainName)), page.position)


def _truststore(step: PatchStep) -> None:
    """Set the truststore; an empty value ends mutual TLS."""
    if step.value:
        member(step)
    else:
        step.draft.pop("mutualTlsAuthentication", None)


def _endpoint(step: PatchStep) -> None:
    if step.value not in ENDPOINTS:
        raise bad_request(f"Invalid endpoint type specified. Must be one of [{', '.join(ENDPOINTS)}]")
    step.draft["endpointConfiguration"] = {**step.draft["endpointConfiguration"], "types": [step.value]}


DOMAIN: Final = (
    *(
        PatchRule(("replace",), f"/{name}", effect=member_or_removed)
        for name in DETAILS
        if name != "mutualTlsAuthentication"
    ),
    PatchRule(("replace",), "/mutualTlsAuthentication/truststoreUri", effect=_truststore),
    PatchRule(("replace",), "/mutualTlsAuthentication/truststoreVersion", effect=member_or_removed),
    PatchRule(("replace",), "/endpointConfiguration/types/{type}", effect=_endpoint),
    PatchRule(("replace",), "/endpointConfiguration/ipAddressType"),
)


async def _edit_domain(call: Call, change: Callable[[DomainName], DomainName]) -> DomainName:
    async def edit(edit: Draft) -> DomainName:
        changed = change(await _domain(call, edit))
        edit.put(changed)
        return changed

    return await call.write(edit)


async def update(call: Call) -> Answer:
    operations = operations_of(call)

    def change(domain: DomainName) -> DomainName:
        return replace(domain, details=apply(DOMAIN, domain.details, operations, bare_style))

    return Answer(body=_shown(call, await _edit_domain(call, change)))


async def delete(call: Call) -> Answer:
    async def edit(edit: Draft) -> None:
        edit.delete("domain", (await _domain(call, edit)).id)

    await call.write(edit)
    return Answer(202)


# --- base path mappings -------------------------------------------------------------------------------------------


def _shown_mapping(mapping: BasePathMapping) -> dict[str, Any]:
    return {
        "basePath": mapping.base_path or NO_BASE_PATH,
        "restApiId": mapping.rest_api_id,
        **given(stage=mapping.stage),
    }


def _base_path(written: str) -> str:
    return "" if written == NO_BASE_PATH else written


def _mapping(domain: DomainName, base_path: str) -> BasePathMapping:
    found = next((one for one in domain.mappings if one.base_path == base_path), None)
    if found is None:
        raise not_found("Invalid base path mapping identifier specified")
    return found


async def _checked(edit: Draft, domain: DomainName, made: BasePathMapping) -> BasePathMapping:
    """Return a mapping that fits the domain's others. Raises ApiError."""
    if made.base_path and not BASE_PATH.fullmatch(made.base_path):
        raise bad_request("Base path contains invalid characters")
    if any(one.base_path == made.base_path for one in domain.mappings):
        raise conflict("Base path already exists for this domain name")
    if not isinstance(await edit.get("restapi", made.rest_api_id), RestApi):
        raise bad_request("Invalid REST API identifier specified")
    if made.stage and not isinstance(await edit.get("stage", stage_id(made.rest_api_id, made.stage)), StoredStage):
        raise bad_request("Invalid stage identifier specified")
    return made


async def create_mapping(call: Call) -> Answer:
    body = call.read(NewMapping)
    made = BasePathMapping(_base_path(body.base_path), body.rest_api_id, body.stage or None)

    async def edit(edit: Draft) -> None:
        domain = await _domain(call, edit)
        edit.put(replace(domain, mappings=(*domain.mappings, await _checked(edit, domain, made))))

    await call.write(edit, made.base_path)
    return Answer(201, _shown_mapping(made))


async def get_mapping(call: Call) -> Answer:
    domain = await _domain(call, call.context.store)
    return Answer(body=_shown_mapping(_mapping(domain, _base_path(call.params["base_path"]))))


async def get_mappings(call: Call) -> Answer:
    domain = await _domain(call, call.context.store)
    page, position = page_of(domain.mappings, lambda one: one.base_path, call)
    return listed(map(_shown_mapping, page), position)


def _api(step: PatchStep) -> None:
    step.draft["restApiId"] = step.value


MAPPING: Final = (
    PatchRule(("replace",), "/basePath", effect=lambda step: step.draft.update(basePath=_base_path(step.value))),
    PatchRule(("replace",), "/restapiId", effect=_api),  # AWS's spelling here
    PatchRule(("replace",), "/restApiId", effect=_api),
    PatchRule(("replace",), "/stage", effect=member_or_removed),
)


async def update_mapping(call: Call) -> Answer:
    operations, wanted = operations_of(call), _base_path(call.params["base_path"])

    async def edit(edit: Draft) -> BasePathMapping:
        domain = await _domain(call, edit)
        before = _mapping(domain, wanted)
        others = replace(domain, mappings=tuple(one for one in domain.mappings if one != before))
        after = await _checked(edit, others, patched(before, MAPPING, operations, bare_style))
        edit.put(replace(others, mappings=(*others.mappings, after)))
        return after

    return Answer(body=_shown_mapping(await call.write(edit)))


async def delete_mapping(call: Call) -> Answer:
    wanted = _base_path(call.params["base_path"])

    def change(domain: DomainName) -> DomainName:
        gone = _mapping(domain, wanted)
        return replace(domain, mappings=tuple(one for one in domain.mappings if one != gone))

    await _edit_domain(call, change)
    return Answer(202)


ALL: Final = "/domainnames"
ONE: Final = f"{ALL}/{{domain_name}}"
MAPPINGS: Final = f"{ONE}/basepathmappings"
PATH: Final = f"{MAPPINGS}/{{base_path}}"

OPERATIONS: Final = (
    Operation("CreateDomainName", "POST", ALL, create, writes=True),
    Operation("GetDomainNames", "GET", ALL, get_all, writes=False),
    Operation("GetDomainName", "GET", ONE, get, writes=False),
    Operation("UpdateDomainName", "PATCH", ONE, update, writes=True),
    Operation("DeleteDomainName", "DELETE", ONE, delete, writes=True),
    Operation("CreateBasePathMapping", "POST", MAPPINGS, create_mapping, writes=True),
    Operation("GetBasePathMappings", "GET", MAPPINGS, get_mappings, writes=False),
    Operation("GetBasePathMapping", "GET", PATH, get_mapping, writes=False),
    Operation("UpdateBasePathMapping", "PATCH", PATH, update_mapping, writes=True),
    Operation("DeleteBasePathMapping", "DELETE", PATH, delete_mapping, writes=True),
)
