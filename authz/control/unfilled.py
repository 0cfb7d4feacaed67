"""The members of AWS's shapes that this control plane does not read or never fills, each with the reason.

A test walks AWS's own description of its API and compares; `docs/reference/control-plane.md` shows the tables.
"""

from __future__ import annotations

from typing import Final

CERTIFICATE: Final = "taken and forgotten: a private key or a certificate's text is never kept"

# `Operation.member` of a body.
UNREAD: Final = {
    "CreateDomainName.certificateBody": CERTIFICATE,
    "CreateDomainName.certificateChain": CERTIFICATE,
    "CreateDomainName.certificatePrivateKey": CERTIFICATE,
}

# `Shape.member` of an answer.
UNFILLED: Final = {
    "ApiKeys.warnings": "the warnings of an import are in the answer of ImportApiKeys",
    "DomainName.domainNameId": "only private custom domains have one",
    "DomainName.domainNameStatusMessage": "a domain is available at once, without a message",
    "DomainName.managementPolicy": "only private custom domains have one",
    "GatewayResponses.position": "the kinds fit on one page",
    "Method.authorizerId": "no authorizer can be made",
    "MethodSnapshot.authorizationType": "a deployment keeps path, verb and whether a key is required",
    "MutualTlsAuthentication.truststoreWarnings": "a trust store is not opened",
    "RestApi.apiStatus": "an API is available at once",
    "RestApi.apiStatusMessage": "an API is available at once, without a message",
}
