"""AWS's operations that this control plane does not support: each answers 501 with its name."""

from __future__ import annotations

from typing import Final

from authz.aws.errors import ApiError
from authz.control.call import Answer, Call, Operation

_AUTHORIZERS: Final = "Envoy's filters authenticate callers, and nothing here would run an authorizer"
_DOCUMENTATION: Final = "documentation is kept neither beside an API nor in its exports"
_ASSOCIATIONS: Final = "private custom domains are reached from VPCs, which Envoy does not know"

# The operations, and why they are not there.
NAMES: Final = (
    ("CreateAuthorizer", "POST", "/restapis/{restapi_id}/authorizers", _AUTHORIZERS),
    ("CreateDocumentationPart", "POST", "/restapis/{restapi_id}/documentation/parts", _DOCUMENTATION),
    ("CreateDocumentationVersion", "POST", "/restapis/{restapi_id}/documentation/versions", _DOCUMENTATION),
    ("CreateDomainNameAccessAssociation", "POST", "/domainnameaccessassociations", _ASSOCIATIONS),
    ("CreateVpcLink", "POST", "/vpclinks", "Envoy's clusters lead to upstreams"),
    ("GenerateClientCertificate", "POST", "/clientcertificates", "Envoy shows its own certificate to upstreams"),
    (
        "GetModelTemplate",
        "GET",
        "/restapis/{restapi_id}/models/{model_name}/default_template",
        "AWS does not document how it makes a mapping template from a schema, and no mapping template is carried out",
    ),
    (
        "GetSdk",
        "GET",
        "/restapis/{restapi_id}/stages/{stage_name}/sdks/{sdk_type}",
        "generators of clients read the OpenAPI document of GetExport",
    ),
    ("ImportDocumentationParts", "PUT", "/restapis/{restapi_id}/documentation/parts", _DOCUMENTATION),
    ("RejectDomainNameAccessAssociation", "POST", "/rejectdomainnameaccessassociations", _ASSOCIATIONS),
    ("TestInvokeAuthorizer", "POST", "/restapis/{restapi_id}/authorizers/{authorizer_id}", _AUTHORIZERS),
    (
        "TestInvokeMethod",
        "POST",
        "/restapis/{restapi_id}/resources/{resource_id}/methods/{http_method}",
        "integrations are Envoy's routes; Explain shows how a request is decided",
    ),
)


async def _refuse(call: Call) -> Answer:
    raise ApiError("NotImplementedException", f"{call.operation} is not implemented")


# None of them writes, so a read-only caller gets the same answer.
UNSUPPORTED: Final = tuple(Operation(name, verb, path, _refuse, writes=False) for name, verb, path, _ in NAMES)
WHY: Final = {name: why for name, _, _, why in NAMES}
