"""Reads the files that `authz import` accepts: ours, output of the aws cli, and files of tools such as Terraform."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

import msgspec

from authz.aws import cloudformation, keyfile, openapi, terraform
from authz.aws.awsfiles import Wanted, read
from authz.aws.convert import from_resources, stable_id
from authz.aws.errors import ApiError
from authz.aws.foreign import OURS, TERRAFORM_SOURCE, Foreign, ForeignError, check_known
from authz.aws.restapis import snapshot
from authz.config import file as config
from authz.config.documents import DocumentError, read_template, text_of
from authz.config.faults import ConfigError
from authz.core.keyform import KeyForm
from authz.core.problem import Problem
from authz.core.resources import Resources, digest
from authz.core.stored import RestApi, StoredDeployment, StoredResource, StoredStage
from authz.store.sealing import Sealer

NOTHING: Final = (
    "holds nothing that can be imported: expected a plans.yaml, what `aws apigateway get-…` prints, an OpenAPI "
    "document, a CloudFormation or SAM template, what `terraform show -json` prints, or AWS's CSV file of API keys"
)
LONGEST_ID: Final = 128
# Finds our names at the left margin of a YAML file, since parsing a large file takes seconds.
OUR_NAME: Final = re.compile(rb"^(%s)[ \t]*:" % "|".join(sorted(OURS)).encode(), re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Reading:
    """Reads files. `created` (Unix seconds) is the date of items without one. `sealer` indexes the values of keys.

    `api_id` and `stage` are for an OpenAPI document: the id of its API, and a stage that serves it.
    """

    created: int
    sealer: Sealer
    api_id: str | None = None
    stage: str | None = None

    def wanted(self, path: Path) -> Wanted:
        """Read a file, or a directory of files. Raises ConfigError if it cannot be imported."""
        try:
            if not path.is_dir():
                return self._file(path)
            files = sorted(found for found in path.rglob("*.json") if found.is_file())
            if files:
                return self._placed(path, {str(found.relative_to(path)): _json(found) for found in files})
            rule = "no .json files in this directory"
        except (ForeignError, DocumentError) as refused:
            rule = str(refused)
        except ApiError as refused:
            rule = refused.message
        raise ConfigError([Problem(str(path), rule)])

    def _file(self, path: Path) -> Wanted:
        if path.suffix == ".tf":
            raise ForeignError(TERRAFORM_SOURCE)
        body = _bytes(path)
        if path.suffix == ".csv":
            return self._keys(path, body)
        if OUR_NAME.search(body):
            return wanted(config.load(path).resources, self.created, self.sealer)
        document: Any = _json(path) if path.suffix == ".json" else read_template(body)
        if not isinstance(document, dict):
            return self._placed(path, {path.name: document})
        if OURS & document.keys():
            return wanted(config.load(path).resources, self.created, self.sealer)
        if {"openapi", "swagger"} & document.keys():
            return self._openapi(document)
        if self.api_id or self.stage:
            raise ConfigError(
                [Problem(str(path), "--api-id and --stage are for an OpenAPI document, and this is none")]
            )
        if cloudformation.is_template(document):
            return self._foreign(path, cloudformation.read(document))
        if terraform.is_shown(document):
            return self._foreign(path, terraform.read(document))
        check_known(document)
        return self._placed(path, {path.name: document})

    def _placed(self, path: Path, documents: dict[str, Any], warnings: Iterable[str] = ()) -> Wanted:
        """Read documents in the form of the aws cli's output. Raises ConfigError if none of them can be imported."""
        found = read(documents, self.created, self.sealer.index)
        found.warnings += warnings
        if found.warnings and not (found.items or found.members):
            raise ConfigError([Problem(str(path), NOTHING), *(Problem(str(path), text) for text in found.warnings)])
        return found

    def _foreign(self, path: Path, foreign: Foreign) -> Wanted:
        found = self._placed(path, foreign.documents)
        found.warnings += [f"stays behind: {text}" for text in foreign.left]
        return found

    def _keys(self, path: Path, body: bytes) -> Wanted:
        """Read AWS's CSV of keys. A key's id derives from its value, so importing the file again changes nothing."""
        try:
            text = text_of(body)
        except UnicodeError:
            raise DocumentError("expected UTF-8 or UTF-16 text") from None
        warnings = keyfile.Warnings()
        rows = keyfile.rows(text, warnings, lambda _value, _document: None)
        ids = {row.value: stable_id("apikey", self.sealer.index(digest(row.value))) for row in rows}
        keys = [{"id": ids[row.value], "createdDate": "", "enabled": True, **row.document} for row in rows]
        items = [{**key, "value": row.value} for key, row in zip(keys, rows, strict=True)]
        found = self._placed(path, {"get-api-keys.json": {"items": items}}, warnings.texts())
        for row in rows:
            for plan in row.plans:
                found.members[plan] = (*found.members.get(plan, ()), ids[row.value])
        return found

    def _openapi(self, document: dict[str, Any]) -> Wanted:
        """Read an OpenAPI document as an API; its ids are the same in each import. Deploys it to `stage`, if given."""
        info = document.get("info")
        title = str(info.get("title", "")) if isinstance(info, dict) else ""
        slug = re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-").lower()[:LONGEST_ID]
        api_id = self.api_id or slug or "api"
        root = stable_id(api_id, "/")
        empty = RestApi(api_id, title or api_id, self.created, root, resources={root: StoredResource(root, "/")})
        numbers = count()
        options = openapi.Options(lambda: stable_id(api_id, str(next(numbers))))
        result = openapi.imported(empty, document, options)
        found = Wanted(warnings=[f"restapi {api_id}: {text}" for text in result.warnings])
        found.add(result.api)
        if self.stage is None:
            found.warnings.append(
                f"restapi {api_id} is not served yet: add --stage NAME, or deploy it with AWS's tools"
            )
            return found
        deployment = stable_id(api_id, "deployment", self.stage)
        found.add(StoredDeployment(deployment, api_id, self.created, snapshot(result.api)))
        found.add(StoredStage(api_id, self.stage, deployment, self.created, self.created))
        return found


def without_mistyped(found: Wanted, prefix: str) -> None:
    """Take out the keys whose values have the form of generated keys and a wrong checksum, with a warning for each."""
    form = KeyForm.of(prefix)
    for key_id, value in list(found.values.items()) if form else ():
        if form and (rule := form.problem(value)):
            del found.values[key_id], found.items["apikey", key_id]
            found.warnings.append(f"apikey {key_id}: not kept: its value: {rule}")


def wanted(resources: Resources, created: int, sealer: Sealer) -> Wanted:
    """Return the resources of a configuration file as an import."""
    found = Wanted(from_resources(resources, created, sealer.index), is_partial=True)
    found.members = {plan.id: plan.keys for plan in resources.usage_plans}
    return found


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise ConfigError([Problem(str(path), f"cannot be read: {fault.strerror}")]) from None


def _json(path: Path) -> Any:
    try:
        return msgspec.json.decode(_bytes(path).removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ConfigError([Problem(str(path), "not valid JSON")]) from None
