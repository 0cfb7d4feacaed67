"""The export of a stage as an OpenAPI document."""

from __future__ import annotations

from typing import Final, cast, get_args

import msgspec

from authz.aws.errors import bad_request, not_found
from authz.aws.oasexport import Exporter, ExportType, Extensions
from authz.background import in_background
from authz.config.documents import as_yaml
from authz.control.call import Answer, Call, Operation
from authz.control.operations.restapis import api_of
from authz.store.served import served_by

YAML: Final = ("application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml")


async def _export(call: Call) -> Answer:
    form = call.params["export_type"]
    if form not in get_args(ExportType):
        raise bad_request(f"Invalid export type specified. Must be one of: [{', '.join(get_args(ExportType))}]")
    extensions = call.one("extensions") or ""
    if extensions not in get_args(Extensions):
        raise bad_request(f"Invalid extensions specified. Must be one of: [{', '.join(get_args(Extensions)[1:])}]")
    api = await api_of(call, call.context.store)
    stage = call.params["stage_name"]
    served = await served_by(call.context.store, api.id, stage)
    if served is None:
        raise not_found("Invalid stage identifier specified")
    is_yaml = any(kind in call.accept.lower() for kind in YAML)

    def written() -> tuple[bytes, tuple[str, ...]]:
        found = Exporter(api, served, stage, cast("ExportType", form), cast("Extensions", extensions)).exported()
        if is_yaml:
            return as_yaml(found.document).encode(), found.warnings
        return msgspec.json.format(msgspec.json.encode(found.document)), found.warnings

    body, warnings = await in_background(written)
    for warning in warnings:
        call.warn(warning)
    name = f"{stage}.{'yaml' if is_yaml else 'json'}"
    return Answer(
        200,
        body,
        {"Content-Type": "application/octet-stream", "Content-Disposition": f'attachment; filename="{name}"'},
    )


OPERATIONS: Final = (
    Operation(
        "GetExport", "GET", "/restapis/{restapi_id}/stages/{stage_name}/exports/{export_type}", _export, writes=False
    ),
)
