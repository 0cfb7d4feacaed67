"""Reading resources of AWS's that this control plane does not have: their lists are empty, and every id is unknown.

Inventory tools and deploy scripts list them, so the calls must succeed. Creating one answers 501: see `unsupported.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from authz.aws.errors import not_found
from authz.control.call import Answer, Call, Operation
from authz.control.operations.restapis import api_of, listed
from authz.core.stored import stage_id

IN_API: Final = "/restapis/{restapi_id}"
CERTIFICATES: Final = "/clientcertificates"
ASSOCIATIONS: Final = "/domainnameaccessassociations"

# The lists, and the paths of single resources with AWS's refusal of an unknown id.
LISTS: Final = (
    ("GetAuthorizers", f"{IN_API}/authorizers"),
    ("GetDocumentationParts", f"{IN_API}/documentation/parts"),
    ("GetDocumentationVersions", f"{IN_API}/documentation/versions"),
    ("GetClientCertificates", CERTIFICATES),
    ("GetDomainNameAccessAssociations", ASSOCIATIONS),
    ("GetSdkTypes", "/sdktypes"),
    ("GetVpcLinks", "/vpclinks"),
)
ONES: Final = (
    ("Authorizer", f"{IN_API}/authorizers/{{authorizer_id}}", "Invalid Authorizer identifier specified"),
    (
        "ClientCertificate",
        f"{CERTIFICATES}/{{clientcertificate_id}}",
        "Invalid Client Certificate identifier specified",
    ),
    (
        "DocumentationPart",
        f"{IN_API}/documentation/parts/{{part_id}}",
        "Invalid Documentation part identifier specified",
    ),
    (
        "DocumentationVersion",
        f"{IN_API}/documentation/versions/{{doc_version}}",
        "Invalid Documentation version specified",
    ),
    ("VpcLink", "/vpclinks/{vpclink_id}", "Invalid Vpc Link identifier specified"),
)
VERBS: Final = {"Get": "GET", "Update": "PATCH", "Delete": "DELETE"}


async def _empty_list(call: Call) -> Answer:
    if "restapi_id" in call.params:
        await api_of(call, call.context.store)
    return listed(())


def _unknown(message: str) -> Callable[[Call], Awaitable[Answer]]:
    async def refuse(_: Call) -> Answer:
        raise not_found(message)

    return refuse


async def _flush(call: Call) -> Answer:
    """Accept to flush a stage's cache: there is no cache here."""
    api = await api_of(call, call.context.store)
    if await call.context.store.get("stage", stage_id(api.id, call.params["stage_name"])) is None:
        raise not_found("Invalid stage identifier specified")
    return Answer(202)


OPERATIONS: Final = (
    *(Operation(name, "GET", path, _empty_list, writes=False) for name, path in LISTS),
    *(
        Operation(f"{prefix}{noun}", verb, path, _unknown(message), writes=prefix != "Get")
        for noun, path, message in ONES
        for prefix, verb in VERBS.items()
    ),
    Operation("GetSdkType", "GET", "/sdktypes/{sdktype_id}", _unknown("Invalid sdk type specified"), writes=False),
    Operation(
        "DeleteDomainNameAccessAssociation",
        "DELETE",
        f"{ASSOCIATIONS}/{{domain_name_access_association_arn}}",
        _unknown("Invalid domain name access association identifier specified"),
        writes=True,
    ),
    Operation("FlushStageCache", "DELETE", f"{IN_API}/stages/{{stage_name}}/cache/data", _flush, writes=True),
    Operation(
        "FlushStageAuthorizersCache", "DELETE", f"{IN_API}/stages/{{stage_name}}/cache/authorizers", _flush, writes=True
    ),
)
