"""Makes a no-op of a host: the same process, but each answer is a constant.

Python reads this file at its start wherever its directory is on PYTHONPATH, inside an Envoy too. With BENCH_NOOP=parse
the question is parsed, as whatever answers must; with BENCH_NOOP=bare it is not even looked at.
"""

import os

OK = b"\x0a\x00\x1a\x00"  # a status of 0, and an ok_response without anything

if os.environ.get("BENCH_NOOP"):
    from authz.extauthz import Authorization
    from authz.pb import ext_authz_pb2 as pb

    async def parse(_self: Authorization, message: bytes, _seconds_left: float | None) -> bytes:
        pb.CheckRequest.FromString(message)
        return OK

    async def bare(_self: Authorization, _message: bytes, _seconds_left: float | None) -> bytes:
        return OK

    Authorization.answer = {"parse": parse, "bare": bare}[os.environ["BENCH_NOOP"]]  # type: ignore[method-assign]
