"""Makes a no-op of a host: the same process, but each answer is a constant, as long as a real one.

Python reads this file at its start wherever its directory is on PYTHONPATH, inside an Envoy too. With BENCH_NOOP=parse
the question is parsed, as whatever answers must; with BENCH_NOOP=bare it is not even looked at.
"""

import os

if os.environ.get("BENCH_NOOP"):
    from authz.core.credentials import Credentials
    from authz.core.limits import Layer, Limit, Quota, throttle
    from authz.core.request import Request
    from authz.core.resources import Api
    from authz.core.routes import Route
    from authz.core.verdict import Allowed, Grant, Subject, Tally
    from authz.envoy.answers import encode
    from authz.envoy.edge import Authorization
    from authz.envoy.pb import ext_authz_pb2 as pb

    def answer_to_a_call() -> bytes:
        """What a call with a key and five limits is answered."""
        bucket = throttle(1e5, 100_000)
        assert bucket
        rules = {layer: Quota(10**9, 0, 1) if layer is Layer.PLAN_QUOTA else bucket for layer in Layer}
        limits = tuple(Limit(layer, "key", rule) for layer, rule in rules.items())
        credentials = Credentials.of(Api(id="api"))
        route = Route("/pets", "GET")
        subject = Subject("api", "prod", route, 1, "key-000001", "plan-01", "Plan 01", credentials=credentials)
        request = Request("GET", "host", "/prod/pets", {"x-api-key": "value"})
        return encode(Allowed(Grant(subject, limits), Tally(0, (0,) * 5)), request, version="1-0123456789ab")

    OK = answer_to_a_call()

    async def parse(_self: Authorization, message: bytes, _seconds_left: float | None) -> bytes:
        pb.CheckRequest.FromString(message)
        return OK

    async def bare(_self: Authorization, _message: bytes, _seconds_left: float | None) -> bytes:
        return OK

    Authorization.answer = {"parse": parse, "bare": bare}[os.environ["BENCH_NOOP"]]  # type: ignore[method-assign, assignment]
