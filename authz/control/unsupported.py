"""AWS's operations that this control plane does not have: each answers 501 and names itself."""

from __future__ import annotations

from typing import Final

from authz.control.call import Answer, Call, Operation
from authz.core.errors import ApiError

NAMES: Final = (
    ("CreateAuthorizer", "POST", "/restapis/{restapi_id}/authorizers"),
    ("CreateDocumentationPart", "POST", "/restapis/{restapi_id}/documentation/parts"),
    ("CreateDocumentationVersion", "POST", "/restapis/{restapi_id}/documentation/versions"),
    ("CreateDomainNameAccessAssociation", "POST", "/domainnameaccessassociations"),
    ("CreateModel", "POST", "/restapis/{restapi_id}/models"),
    ("CreateRequestValidator", "POST", "/restapis/{restapi_id}/requestvalidators"),
    ("CreateVpcLink", "POST", "/vpclinks"),
    ("DeleteAuthorizer", "DELETE", "/restapis/{restapi_id}/authorizers/{authorizer_id}"),
    ("DeleteClientCertificate", "DELETE", "/clientcertificates/{clientcertificate_id}"),
    ("DeleteDocumentationPart", "DELETE", "/restapis/{restapi_id}/documentation/parts/{part_id}"),
    ("DeleteDocumentationVersion", "DELETE", "/restapis/{restapi_id}/documentation/versions/{doc_version}"),
    (
        "DeleteDomainNameAccessAssociation",
        "DELETE",
        "/domainnameaccessassociations/{domain_name_access_association_arn}",
    ),
    ("DeleteModel", "DELETE", "/restapis/{restapi_id}/models/{model_name}"),
    ("DeleteRequestValidator", "DELETE", "/restapis/{restapi_id}/requestvalidators/{requestvalidator_id}"),
    ("DeleteVpcLink", "DELETE", "/vpclinks/{vpclink_id}"),
    ("FlushStageAuthorizersCache", "DELETE", "/restapis/{restapi_id}/stages/{stage_name}/cache/authorizers"),
    ("FlushStageCache", "DELETE", "/restapis/{restapi_id}/stages/{stage_name}/cache/data"),
    ("GenerateClientCertificate", "POST", "/clientcertificates"),
    ("GetAuthorizer", "GET", "/restapis/{restapi_id}/authorizers/{authorizer_id}"),
    ("GetAuthorizers", "GET", "/restapis/{restapi_id}/authorizers"),
    ("GetClientCertificate", "GET", "/clientcertificates/{clientcertificate_id}"),
    ("GetClientCertificates", "GET", "/clientcertificates"),
    ("GetDocumentationPart", "GET", "/restapis/{restapi_id}/documentation/parts/{part_id}"),
    ("GetDocumentationParts", "GET", "/restapis/{restapi_id}/documentation/parts"),
    ("GetDocumentationVersion", "GET", "/restapis/{restapi_id}/documentation/versions/{doc_version}"),
    ("GetDocumentationVersions", "GET", "/restapis/{restapi_id}/documentation/versions"),
    ("GetDomainNameAccessAssociations", "GET", "/domainnameaccessassociations"),
    ("GetExport", "GET", "/restapis/{restapi_id}/stages/{stage_name}/exports/{export_type}"),
    ("GetModel", "GET", "/restapis/{restapi_id}/models/{model_name}"),
    ("GetModelTemplate", "GET", "/restapis/{restapi_id}/models/{model_name}/default_template"),
    ("GetModels", "GET", "/restapis/{restapi_id}/models"),
    ("GetRequestValidator", "GET", "/restapis/{restapi_id}/requestvalidators/{requestvalidator_id}"),
    ("GetRequestValidators", "GET", "/restapis/{restapi_id}/requestvalidators"),
    ("GetSdk", "GET", "/restapis/{restapi_id}/stages/{stage_name}/sdks/{sdk_type}"),
    ("GetSdkType", "GET", "/sdktypes/{sdktype_id}"),
    ("GetSdkTypes", "GET", "/sdktypes"),
    ("GetVpcLink", "GET", "/vpclinks/{vpclink_id}"),
    ("GetVpcLinks", "GET", "/vpclinks"),
    ("ImportDocumentationParts", "PUT", "/restapis/{restapi_id}/documentation/parts"),
    ("RejectDomainNameAccessAssociation", "POST", "/rejectdomainnameaccessassociations"),
    ("TestInvokeAuthorizer", "POST", "/restapis/{restapi_id}/authorizers/{authorizer_id}"),
    ("TestInvokeMethod", "POST", "/restapis/{restapi_id}/resources/{resource_id}/methods/{http_method}"),
    ("UpdateAuthorizer", "PATCH", "/restapis/{restapi_id}/authorizers/{authorizer_id}"),
    ("UpdateClientCertificate", "PATCH", "/clientcertificates/{clientcertificate_id}"),
    ("UpdateDocumentationPart", "PATCH", "/restapis/{restapi_id}/documentation/parts/{part_id}"),
    ("UpdateDocumentationVersion", "PATCH", "/restapis/{restapi_id}/documentation/versions/{doc_version}"),
    ("UpdateModel", "PATCH", "/restapis/{restapi_id}/models/{model_name}"),
    ("UpdateRequestValidator", "PATCH", "/restapis/{restapi_id}/requestvalidators/{requestvalidator_id}"),
    ("UpdateVpcLink", "PATCH", "/vpclinks/{vpclink_id}"),
)


async def _refuse(call: Call) -> Answer:
    raise ApiError("NotImplementedException", f"{call.operation} is not implemented")


# Not one of them writes: a read-only caller is told the same.
UNSUPPORTED: Final = tuple(Operation(name, verb, path, _refuse, writes=False) for name, verb, path in NAMES)
