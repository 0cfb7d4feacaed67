"""Files of other tools, recognised by their top-level names: read here, or refused with the command that converts them.

CloudFormation, SAM and Terraform describe the same plans, keys and stages as AWS's API. So their resources become the
lists that `aws apigateway get-…` prints, and `awsfiles` reads those lists. `Foreign.left` names each omission.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from authz.aws.decoded import Document

Row = dict[str, Any]

OURS: Final = frozenset({"account", "apis", "apiKeys", "settings", "usagePlans"})

# Top-level names that identify a file, and a text that says which tool's file it is and how to import it.
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
    """A file of a known tool that we do not read. The text names the tool and says how to import from it."""


@dataclass
class Foreign:
    """The lists that the aws cli would print, by document name, and a text for each thing that is left out."""

    documents: dict[str, Any] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    def add(self, kind: str, row: Row, owner: str = "") -> None:
        """Add a row to a list such as `stages` of the API `owner`."""
        name = f"{kind}-{owner}.json" if owner else f"{kind}.json"
        self.documents.setdefault(name, {"items": []})["items"].append(row)


def check_known(document: Document) -> None:
    """Raise ForeignError for a file that another command has to convert first."""
    for names, sentence in REFUSED:
        if names <= document.keys():
            raise ForeignError(sentence)
