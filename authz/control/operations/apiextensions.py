"""What APIs have beside AWS's members: the costs of their methods. They are served from the next deployment on."""

from __future__ import annotations

from typing import Final

from authz.aws.extensions import ApiExtension, api_extension, with_api_extension
from authz.control.call import Answer, Call, Operation
from authz.control.operations.restapis import api_of, edit_api
from authz.core.stored import RestApi


async def get_extension(call: Call) -> Answer:
    return Answer(body=api_extension(await api_of(call, call.context.store)))


async def put_extension(call: Call) -> Answer:
    return Answer(body=api_extension(await _extend(call, call.read_strictly(ApiExtension))))


async def delete_extension(call: Call) -> Answer:
    await _extend(call, ApiExtension())
    return Answer(202)


async def _extend(call: Call, given: ApiExtension) -> RestApi:
    return await edit_api(call, lambda api: with_api_extension(api, given))


_PATH: Final = "/restapis/{restapi_id}/extension"

OPERATIONS: Final = (
    Operation("GetRestApiExtension", "GET", _PATH, get_extension, writes=False),
    Operation("PutRestApiExtension", "PUT", _PATH, put_extension, writes=True),
    Operation("DeleteRestApiExtension", "DELETE", _PATH, delete_extension, writes=True),
)
