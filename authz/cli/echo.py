"""An upstream that answers with what reached it: the method, the path and every header."""

from __future__ import annotations

import re
from collections import defaultdict

import click
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from authz.core.address import Address

METHODS = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"]
WITHOUT_BODY = (204, 205, 304)
STATUS = re.compile(r"/status/([2-5]\d\d)$")


async def echo(request: Request) -> Response:
    """200, or the status that the path ends in: `/prod/status/503`."""
    asked = STATUS.search(request.scope["path"])
    status = int(asked[1]) if asked else 200
    return Response(status_code=status) if status in WITHOUT_BODY else JSONResponse(seen(request), status)


def seen(request: Request) -> dict[str, object]:
    """The request as it came over the wire; a header that came twice shows both values."""
    headers: defaultdict[str, list[str]] = defaultdict(list)
    for name, value in request.headers.items():
        headers[name].append(value)
    query = request.scope["query_string"].decode()
    path = request.scope["raw_path"].decode() + ("?" + query if query else "")
    return {
        "method": request.method,
        "path": path,
        "headers": {name: ", ".join(headers[name]) for name in sorted(headers)},
    }


app = Starlette(routes=[Route("/{path:path}", echo, methods=METHODS)])


@click.command(help=__doc__)
@click.option("--listen", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT")
def main(listen: str) -> None:
    at = Address.parse(listen)
    uvicorn.run(app, host=at.host, port=at.port, log_level="warning", server_header=False, timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
