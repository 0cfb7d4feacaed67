"""Files of other tools, known by their telling keys: read as what the aws cli would print, or refused with the way in.

CloudFormation, SAM and Terraform describe the same plans, keys and stages as AWS's API does. So their resources become
the lists that `aws apigateway get-…` prints, and `awsfiles` reads those; what it cannot carry is named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

Row = dict[str, Any]
Document = Mapping[str, Any]

OURS: Final = frozenset({"account", "apis", "apiKeys", "settings", "usagePlans"})
NOT_CARRIED_OUT: Final = frozenset({"AWS_IAM", "CUSTOM", "COGNITO_USER_POOLS"})  # kinds of authorization

# What a file is, told by its top-level names, and how its plans come here.
REFUSED: Final[tuple[tuple[frozenset[str], str], ...]] = (
    (
        frozenset({"service", "provider"}),
        "a file of the Serverless Framework: run `serverless package` and import the template in .serverless/",
    ),
    (
        frozenset({"terraform_version", "lineage"}),
        "a Terraform state: run `terraform show -json > state.json` and import that",
    ),
    (
        frozenset({"version", "artifacts"}),
        "a manifest of the AWS CDK: run `cdk synth > template.yaml` and import that",
    ),
    (
        frozenset({"apiVersion", "kind"}),
        "a Kubernetes manifest: import the plans.yaml that stands in it, by itself",
    ),
    (
        frozenset({"_format_version"}),
        "a declarative configuration of Kong: the page docs/migration/kong.md says what becomes what",
    ),
    (
        frozenset({"domain", "descriptors"}),
        "a configuration of envoyproxy/ratelimit: the page docs/migration/ratelimit.md says what becomes what",
    ),
)
TERRAFORM_SOURCE: Final = "Terraform's own language: run `terraform show -json > state.json` and import that"


class ForeignError(ValueError):
    """A file that is known and not read; the text says what it is and which way leads here."""


@dataclass
class Foreign:
    """Lists as the aws cli prints them, by the name of the command and what they are of; and what stays behind."""

    documents: dict[str, Any] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    def add(self, kind: str, row: Row, owner: str = "") -> None:
        name = f"{kind}-{owner}.json" if owner else f"{kind}.json"
        self.documents.setdefault(name, {"items": []})["items"].append(row)


def check_known(document: Document) -> None:
    """Raise ForeignError for a file of a tool whose plans come here by another way."""
    for names, sentence in REFUSED:
        if names <= document.keys():
            raise ForeignError(sentence)


def mapping(value: Any) -> Document:
    return value if isinstance(value, Mapping) else {}
