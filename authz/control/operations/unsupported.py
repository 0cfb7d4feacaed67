"""AWS's operations that this control plane does not support: each answers 501 with its name."""

from __future__ import annotations

from typing import Final

from authz.aws.errors import ApiError
from authz.control.call import Answer, Call, Operation

NAMES: Final = (
    ("CreateAuthorizer", "POST", "/restapis/{restapi_id}/authorizers"),
    ("CreateDocumentationPart", "POST", "/restapis/{restapi_id}/documentation/parts"),
    ("CreateDocumentationVersion", "POST", "/restapis/{restapi_id}/documentation/versions"),
    ("CreateDomainNameAccessAssociation", "POST", "/domainnameaccessassociations"),
    ("CreateVpcLink", "POST", "/vpclinks"),
    ("GenerateClientCertificate", "POST", "/clientcertificates"),
    ("GetModelTemplate", "GET", "/restapis/{restapi_id}/models/{model_name}/default_template"),
    ("GetSdk", "GET", "/restapis/{restapi_id}/stages/{stage_name}/sdks/{sdk_type}"),
    ("ImportDocumentationParts", "PUT", "/restapis/{restapi_id}/documentation/parts"),
    ("RejectDomainNameAccessAssociation", "POST", "/rejectdomainnameaccessassociations"),
    ("TestInvokeAuthorizer", "POST", "/restapis/{restapi_id}/authorizers/{authorizer_id}"),
    ("TestInvokeMethod", "POST", "/restapis/{restapi_id}/resources/{resource_id}/methods/{http_method}"),
)


async def _refuse(call: Call) -> Answer:
    raise ApiError("NotImplementedException", f"{call.operation} is not implemented")


# None of them writes, so a read-only caller gets the same answer.
UNSUPPORTED: Final = tuple(Operation(name, verb, path, _refuse, writes=False) for name, verb, path in NAMES)
