"""The rules of a configuration beyond the shape of its fields. Each breach has its address."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Final, NamedTuple

from msgspec.structs import replace

from authz.core.bounds import MAX_KEY_VALUE, MAX_METHOD_THROTTLES, MAX_SOURCES, MIN_KEY_VALUE
from authz.core.limits import check_throttle
from authz.core.methods import ANY, WILDCARD, method_of
from authz.core.planrules import Costs, cost_problems, idle, override_problems, quota_problems
from authz.core.problem import Problem, Problems, shortened
from authz.core.resources import (
    Account,
    Api,
    ApiKey,
    ApiStage,
    Counts,
    Customer,
    Deployment,
    GatewayResponse,
    Host,
    HttpMethod,
    KeySource,
    Method,
    Resources,
    Stage,
    ThrottleSettings,
    UsagePlan,
    digest,
    digest_of,
)
from authz.core.responses import BODILESS, CONTEXT_NAMES, template_variables
from authz.core.routes import has_dots
from authz.core.sources import RANGE, range_problem

TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
MEDIA_TYPE: Final = re.compile(rf"{TOKEN.pattern}/{TOKEN.pattern}(\s*;[\x20-\x7e]*)?")
QUERY_NAME: Final = re.compile(r"[^\s&=#\x00-\x1f\x7f]+")
LABEL: Final = r"[a-z0-9]([a-z0-9_-]*[a-z0-9])?"
HOST: Final = re.compile(rf"(?=.{{1,253}}\Z)(\*\.)?{LABEL}(\.{LABEL})*|\[[0-9a-f:.]+\]")
BASE_PATH: Final = re.compile(r"[A-Za-z0-9$_.+!*'()-]+(/[A-Za-z0-9$_.+!*'()-]+)*")
# Not in a literal segment: * is a wildcard and ~1 a slash in the keys of methods; ?, # and % never reach a segment.
SEGMENT: Final = re.compile(r"[^\s{}*~?#%\x00-\x1f\x7f]+|\{[A-Za-z0-9._:-]+\+?\}")
KEY_VALUE: Final = re.compile(rf"[\x21-\x2b\x2d-\x7e]{{{MIN_KEY_VALUE},{MAX_KEY_VALUE}}}")
VISIBLE: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")

RESPONSE_HEADER: Final = re.compile(rf"gatewayresponse\.header\.({TOKEN.pattern})")
# Headers that a gateway response quotes, in a mapping or a template; Envoy has to show them to authz.
REQUEST_HEADER: Final = re.compile(r"method\.request\.(?:multivalue)?header\.([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)")
MAPPING: Final = re.compile(
    rf"'[^\x00-\x1f\x7f]*'|{REQUEST_HEADER.pattern}"
    r"|method\.request\.((multivalue)?querystring|path)\.[^\s\x00-\x1f\x7f]+|(context|stageVariables)\.[^\s\x00-\x1f\x7f]+"
)
# Envoy frames requests and answers; a second opinion on their length or connection breaks them.
FRAMING: Final = frozenset(
    {
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
UNNAMED_AUTHORIZERS: Final = (Api(id="default").authorizer, Deployment().authorizer)


def problems(resources: Resources) -> list[Problem]:
    """All breaches of rules, in the order of the file. A catalog compiles resources that have none."""
    keys = _Keys.of(resources.api_keys)
    return [
        *_account(resources.account),
        *_apis(resources.apis),
        *_plans(resources, keys),
        *_keys(resources.api_keys, keys),
        *_customers(resources.customers),
        *override_problems(resources),
    ]


def warnings(resources: Resources) -> list[Problem]:
    """Probable mistakes that break no rule: calls are refused or counted apart, or a number has no effect."""
    return [*_unopened(resources.usage_plans), *_strangers(resources), *_unnamed(resources), *idle(resources)]


def _unopened(plans: tuple[UsagePlan, ...]) -> Problems:
    for i, plan in enumerate(plans):
        if plan.keys and not plan.api_stages:
            many, first = len(plan.keys), shortened(plan.keys[0])
            keys = f"its key {first}" if many == 1 else f"each of its {many} keys ({first} and others)"
            yield Problem(
                f"$.usagePlans[{i}].apiStages",
                f"the plan {plan.id} covers no stage, so {keys} can call nothing by it and gets 403; "
                "add an entry with apiId and stage",
            )


def _strangers(resources: Resources) -> Problems:
    """Keys whose customer is written like one of the file's customers, but for upper and lower case."""
    listed = {customer.id for customer in resources.customers}
    spelled = {name.lower(): name for name in listed}
    for i, key in enumerate(resources.api_keys):
        if key.customer_id is None or key.customer_id in listed:
            continue
        if meant := spelled.get(key.customer_id.lower()):
            rule = f"{shortened(key.customer_id)} is another customer than {shortened(meant)}, which is listed; "
            yield Problem(f"$.apiKeys[{i}].customerId", rule + "ids of customers differ by upper and lower case")


def _unnamed(resources: Resources) -> Problems:
    """Customers that no key names, in a file that has keys: those of a file without are in the store."""
    named = {key.customer_id for key in resources.api_keys}
    for i, customer in enumerate(resources.customers):
        if named and customer.id not in named:
            rule = f"no key of this file names the customer {shortened(customer.id)} in its customerId"
            yield Problem(f"$.customers[{i}].id", rule)


def value_problem(value: str) -> str | None:
    """The rule that a key's value breaks, without the value: that is a secret even if it is bad."""
    if KEY_VALUE.fullmatch(value):
        return None
    if not MIN_KEY_VALUE <= len(value) <= MAX_KEY_VALUE:
        return f"expected {MIN_KEY_VALUE} to {MAX_KEY_VALUE} characters, not {len(value)}"
    return "expected printable ASCII characters other than blank and comma"


def _account(account: Account) -> Problems:
    at = "$.account.throttleSettings"
    yield from _throttle(account.throttle_settings, at)
    if account.throttle_settings.counts is Counts.UNITS:
        yield Problem(f"{at}.counts", "expected REQUESTS: only the throttles of plans count units")


# --- APIs ---------------------------------------------------------------------------------------------------------


def _apis(apis: tuple[Api, ...]) -> Problems:
    yield from _repeated((api.id, f"$.apis[{i}].id") for i, api in enumerate(apis))
    yield from _repeated(
        (f"{mapping.host}/{mapping.base_path}", f"$.apis[{i}].hosts[{n}]")
        for i, api in enumerate(apis)
        for n, mapping in enumerate(api.hosts)
    )
    for i, api in enumerate(apis):
        at = f"$.apis[{i}]"
        yield from _sources(api, at)
        for n, mapping in enumerate(api.hosts):
            yield from _host(mapping, api, f"{at}.hosts[{n}]")
        yield from _templates(api.resources, f"{at}.resources")
        yield from _repeated((stage.name, f"{at}.stages[{n}].name") for n, stage in enumerate(api.stages))
        for n, stage in enumerate(api.stages):
            yield from _stage(stage, api, f"{at}.stages[{n}]")


def _sources(api: Api | Deployment, at: str) -> Problems:
    if api.api_key_source == "HEADER" and not api.key_sources:
        yield Problem(f"{at}.keySources", "expected at least one source of keys")
    for n, source in enumerate(api.key_sources):
        yield from _source(source, f"{at}.keySources[{n}]")
    if api.api_key_source == "AUTHORIZER" and not (api.authorizer.path and all(api.authorizer.path)):
        yield Problem(f"{at}.authorizer.path", "expected the names that lead to the key, none of them empty")
    # By identity: an authorizer that repeats the default counts as given.
    if api.api_key_source == "HEADER" and all(api.authorizer is not unnamed for unnamed in UNNAMED_AUTHORIZERS):
        yield Problem(f"{at}.authorizer", "expected only with the apiKeySource AUTHORIZER: it would not be read")
    if api.api_key_source == "AUTHORIZER" and not api.authorizer.namespace:
        yield Problem(f"{at}.authorizer.namespace", "expected the name of a filter's metadata")


def _source(source: KeySource, at: str) -> Problems:
    if sum(place is not None for place in (source.header, source.query, source.cookie)) != 1:
        yield Problem(at, "expected exactly one of header, query and cookie")
    if source.header is not None:
        yield from _source_header(source.header, f"{at}.header")
    if source.scheme is not None and source.header is None:
        yield Problem(f"{at}.scheme", "expected only beside header")
    if source.scheme is not None and not TOKEN.fullmatch(source.scheme):
        yield Problem(f"{at}.scheme", "expected one word, such as Bearer")
    if source.query is not None and not QUERY_NAME.fullmatch(source.query):
        yield Problem(f"{at}.query", "expected the name of a query parameter")
    if source.cookie is not None and not TOKEN.fullmatch(source.cookie):
        yield Problem(f"{at}.cookie", "expected the name of a cookie")


def _source_header(name: str, at: str) -> Problems:
    if not TOKEN.fullmatch(name):
        yield Problem(at, "expected the name of a header")
    elif name.lower() == "host":
        yield Problem(at, "expected another header: Envoy cannot remove Host, so the key would reach the upstream")
    elif name.lower() in FRAMING:
        yield Problem(at, f"expected another header: {name} frames the request, and is not the caller's to set")


def _host(mapping: Host, api: Api, at: str) -> Problems:
    if not HOST.fullmatch(mapping.host):
        yield Problem(f"{at}.host", _host_rule(mapping.host))
    if mapping.base_path and not BASE_PATH.fullmatch(mapping.base_path):
        yield Problem(f"{at}.basePath", "expected segments with single slashes between them, such as orders/v2")
    if mapping.stage is not None and mapping.stage not in {stage.name for stage in api.stages}:
        yield Problem(f"{at}.stage", f"the API {api.id} has no stage {shortened(mapping.stage)}")


def _host_rule(host: str) -> str:
    """The rule that a host's name breaks, with the name that is probably intended."""
    bare = re.sub(r"^[a-z]+://|[/?#].*$|:[0-9]*(?=$|[/?#])", "", host, flags=re.IGNORECASE)
    meant = ".".join(_ascii(label) for label in bare.removesuffix(".").split("."))
    rule = "expected a host name in lower case, without scheme, port or path"
    if not host.isascii():
        rule = "expected the form in which clients send the name"
    elif host == bare and host.endswith("."):
        rule = "expected no dot at the end"
    elif "*" in host:
        rule = "expected * only as the whole first label, as in *.example.com"
    return f"{rule}: {meant}" if HOST.fullmatch(meant) else rule


def _ascii(label: str) -> str:
    """A label as it is sent: `München` is `xn--mnchen-3ya`."""
    lower = unicodedata.normalize("NFC", label.lower())
    return lower if lower.isascii() else f"xn--{lower.encode('punycode').decode()}"


def _templates(templates: Iterable[str], at: str) -> Problems:
    variables: dict[tuple[str, bool], str] = {}  # by the path of the parent, and whether greedy
    for template in templates:
        rule = _template(template) or _sibling(template, variables)
        if rule:
            yield Problem(f"{at}['{template}']", rule)


def _template(template: str) -> str | None:
    segments = template.split("/")[1:]
    if not template.startswith("/"):
        return "expected a path that begins with /"
    if template == "/":
        return None
    if "" in segments:
        return "expected no empty segment, and no slash at the end"
    if not all(SEGMENT.fullmatch(segment) for segment in segments):
        return "expected segments such as pets, {id} or {proxy+}"
    if has_dots(template):
        return "expected no segment . or ..: no request reaches it"
    if any(segment.endswith("+}") for segment in segments[:-1]):
        return "expected a greedy variable only as the last segment"
    names = [segment.strip("{+}") for segment in segments if segment.startswith("{")]
    return None if len(set(names)) == len(names) else "expected each variable once"


def _sibling(template: str, variables: dict[tuple[str, bool], str]) -> str | None:
    """Remember the template's variables; one place of a path has one name, or a variable would be ambiguous."""
    parent = ""
    for segment in template.split("/")[1:]:
        if segment.startswith("{"):
            other = variables.setdefault((parent, segment.endswith("+}")), segment)
            if other != segment:
                return f"a sibling of {segment} is already the variable {other}"
        parent += f"/{segment}"
    return None


def _stage(stage: Stage, api: Api, at: str) -> Problems:
    served = _served(stage, api)
    if stage.deployment:
        yield from _deployment(stage, stage.deployment, f"{at}.deployment")
    settings = f"{at}.methodSettings"
    yield from _methods(stage.method_settings, served, settings, verbs_of_any=True)
    for key, setting in stage.method_settings.items():
        rate, burst, place = setting.throttling_rate_limit, setting.throttling_burst_limit, f"{settings}['{key}']"
        if rate is not None and -1 < rate < 0:
            yield Problem(f"{place}.throttlingRateLimit", "expected -1 for no limit, or a number ≥ 0")
        elif rate != -1:
            yield from _rate(rate, None if burst == -1 else burst, f"{place}.throttlingRateLimit")
    for kind, response in stage.gateway_responses.items():
        yield from _gateway_response(response, f"{at}.gatewayResponses['{kind}']")


def _served(stage: Stage | None, api: Api) -> Api:
    """The API with the methods that this stage serves."""
    deployment = stage.deployment if stage else None
    return replace(api, resources=deployment.resources) if deployment else api


def _deployment(stage: Stage, deployment: Deployment, at: str) -> Problems:
    yield from _sources(deployment, at)
    yield from _templates(deployment.resources, f"{at}.resources")
    for kind, response in deployment.gateway_responses.items():
        yield from _gateway_response(response, f"{at}.gatewayResponses['{kind}']")
    if stage.gateway_responses:
        yield Problem(f"{at}.gatewayResponses", "expected the stage's responses here, not beside the deployment")


def _gateway_response(response: GatewayResponse, at: str) -> Problems:
    if response.status_code is not None and response.status_code.startswith("1"):
        yield Problem(f"{at}.statusCode", "expected 200 to 599: a 1xx status does not end a request")
    if response.status_code is not None and int(response.status_code) in BODILESS:
        yield Problem(f"{at}.statusCode", f"expected a status that can have a body: {response.status_code} cannot")
    yield from _repeated(
        ((name.lower(), f"{at}.responseParameters['{name}']") for name in response.response_parameters),
        "the header",
    )
    for name, value in response.response_parameters.items():
        yield from _parameter(name, value, f"{at}.responseParameters['{name}']")
    for media_type, template in response.response_templates.items():
        place = f"{at}.responseTemplates['{media_type}']"
        if not MEDIA_TYPE.fullmatch(media_type):
            yield Problem(place, "expected a media type, such as application/json")
        for name in template_variables(template):
            yield from _variable(name, place)


def _parameter(name: str, value: str, at: str) -> Problems:
    header = RESPONSE_HEADER.fullmatch(name)
    if not header:
        yield Problem(at, "expected gatewayresponse.header.<name of a header>")
    elif header[1].lower() in FRAMING:
        yield Problem(at, f"expected a header other than {header[1]}: Envoy sets it itself")
    if not MAPPING.fullmatch(value):
        places = "method.request.header.x, method.request.querystring.x, method.request.path.x, context.x"
        yield Problem(at, f"expected 'a text in single quotes', {places} or stageVariables.x")
    yield from _variable(value, at)


def _variable(name: str, at: str) -> Problems:
    """A context variable must exist. Variables of the request or the stage may be missing: they are empty then."""
    scope, _, variable = name.partition(".")
    if scope == "context" and variable not in CONTEXT_NAMES:
        close = difflib.get_close_matches(variable, sorted(CONTEXT_NAMES), n=1)
        hint = f"; did you mean context.{close[0]}?" if close else ""
        yield Problem(at, f"there is no variable {name}{hint}")


# --- usage plans --------------------------------------------------------------------------------------------------


def _plans(resources: Resources, keys: _Keys) -> Problems:
    plans = resources.usage_plans
    apis = {api.id: api for api in resources.apis}
    costs = Costs(apis)
    yield from _repeated((plan.id, f"$.usagePlans[{i}].id") for i, plan in enumerate(plans))
    for i, plan in enumerate(plans):
        at = f"$.usagePlans[{i}]"
        yield from plan_problems(plan, apis, at)
        known = ((key, f"{at}.keys[{n}]") for n, key in enumerate(plan.keys) if key in keys.ids)
        yield from _repeated(known, "the key")
        for n, key in enumerate(plan.keys):
            if key not in keys.ids:
                yield Problem(f"{at}.keys[{n}]", keys.missing(key))
        yield from cost_problems(plan, costs, at)
    yield from _shared_keys(plans, keys)


def plan_problems(plan: UsagePlan, apis: Mapping[str, Api], at: str) -> Problems:
    """The mistakes in a plan by itself and in its stages; not in its keys and in costs."""
    if CONTROL.search(plan.name):
        yield Problem(f"{at}.name", "expected no control characters: it is sent to the upstream in a header")
    if plan.throttle:
        yield from _throttle(plan.throttle, f"{at}.throttle")
    yield from quota_problems(plan, at)
    names = ((f"{covered.api_id}:{covered.stage}", f"{at}.apiStages[{n}]") for n, covered in enumerate(plan.api_stages))
    yield from _repeated(names, "the stage")
    for n, covered in enumerate(plan.api_stages):
        yield from _api_stage(covered, apis.get(covered.api_id), f"{at}.apiStages[{n}]")


def _api_stage(covered: ApiStage, api: Api | None, at: str) -> Problems:
    if api is None:
        yield Problem(f"{at}.apiId", f"there is no API {shortened(covered.api_id)}")
    elif covered.stage not in {stage.name for stage in api.stages}:
        yield Problem(f"{at}.stage", f"the API {api.id} has no stage {shortened(covered.stage)}")
    if len(covered.throttle) > MAX_METHOD_THROTTLES:
        yield Problem(f"{at}.throttle", f"expected at most {MAX_METHOD_THROTTLES} methods, not {len(covered.throttle)}")
    served = api and _served(next((stage for stage in api.stages if stage.name == covered.stage), None), api)
    yield from _methods(covered.throttle, served, f"{at}.throttle")
    for key, settings in covered.throttle.items():
        yield from _throttle(settings, f"{at}.throttle['{key}']")
        if served and is_keyless(served.resources, key):
            yield Problem(f"{at}.throttle['{key}']", "the method requires no key, so no plan throttles it")


def is_keyless(resources: Mapping[str, Mapping[HttpMethod, Method]], key: str) -> bool:
    """True if the key of a method throttle names a single method, and the method needs no API key."""
    try:
        path, verb = method_of(key)
    except ValueError:
        return False
    return any(name == verb and not method.api_key_required for name, method in resources.get(path, {}).items())


def _shared_keys(plans: tuple[UsagePlan, ...], keys: _Keys) -> Problems:
    """A key has at most one plan for a stage, or the plan that pays for a call would be ambiguous."""
    plans_of: dict[str, dict[int, None]] = {key: {} for key in keys.ids}
    for i, plan in enumerate(plans):
        for key in plan.keys:
            if key in plans_of:
                plans_of[key][i] = None
    # Computed once for each set of plans: there are thousands of keys, and dozens of sets.
    overlaps = cache(lambda among: _overlaps(plans, among))
    overlaps_of = {key: overlaps(tuple(among)) for key, among in plans_of.items() if len(among) > 1}
    for i, plan in enumerate(plans):
        for n, key in enumerate(plan.keys):
            if other := overlaps_of.get(key, {}).get(i):
                yield Problem(f"$.usagePlans[{i}].keys[{n}]", f"the key {key} is already in the plan {other}")


def _overlaps(plans: tuple[UsagePlan, ...], among: tuple[int, ...]) -> dict[int, str]:
    """Plans among these that cover a stage of an earlier one, each with that plan and the stage."""
    first: dict[tuple[str, str], int] = {}
    found: dict[int, str] = {}
    for i in among:
        for covered in plans[i].api_stages:
            other = first.setdefault((covered.api_id, covered.stage), i)
            if other != i:
                found.setdefault(i, f"{plans[other].id} for the stage {covered.api_id}:{covered.stage}")
    return found


# --- API keys -----------------------------------------------------------------------------------------------------


class _Keys(NamedTuple):
    """The ids of the file's keys, and each key's position by its digest. An id that is a key's value is left out."""

    ids: frozenset[str]
    by_digest: Mapping[str, int]

    @classmethod
    def of(cls, keys: tuple[ApiKey, ...]) -> _Keys:
        by_digest = {
            digest_of(key).hex(): i for i, key in reversed([*enumerate(keys)]) if key.value or key.value_sha256
        }
        return cls(frozenset(key.id for key in keys if _hex(key.id) not in by_digest), by_digest)

    def missing(self, name: str) -> str:
        """The reason why no key has this id. It does not repeat a key's value."""
        owner = self.by_digest.get(_hex(name))
        if owner is None:
            return f"there is no API key {shortened(name)}"
        return f"this is the value of $.apiKeys[{owner}]; expected its id"


def _keys(keys: tuple[ApiKey, ...], known_as: _Keys) -> Problems:
    yield from _repeated((key.id, f"$.apiKeys[{i}].id") for i, key in enumerate(keys) if key.id in known_as.ids)
    first: dict[str, int] = {}
    for i, key in enumerate(keys):
        if key.id not in known_as.ids:
            yield Problem(f"$.apiKeys[{i}].id", known_as.missing(key.id))
        yield from _key(key, f"$.apiKeys[{i}]")
        known = first.setdefault(digest_of(key).hex(), i) if key.value or key.value_sha256 else i
        if known != i:
            yield Problem(f"$.apiKeys[{i}]", f"the value is already that of $.apiKeys[{known}]")


def _key(key: ApiKey, at: str) -> Problems:
    if (key.value is None) == (key.value_sha256 is None):
        yield Problem(at, "expected exactly one of value and valueSha256")
    rule = None if key.value is None else value_problem(key.value)
    if rule:
        yield Problem(f"{at}.value", rule)
    if key.expires_at is not None and key.expires_at.tzinfo is None:
        yield Problem(f"{at}.expiresAt", "expected a time with its zone, such as 2030-01-31T23:59:59Z")
    elif key.expires_at is not None and not _has_utc(key.expires_at):
        yield Problem(f"{at}.expiresAt", "expected a time that is in the years 1 to 9999 in UTC, too")
    if key.customer_id is not None:
        yield from _customer_id(key.customer_id, f"{at}.customerId")
    for place, rule in sources_problems(key.allowed_sources):
        yield Problem(f"{at}.allowedSources{place}", rule)


def _customer_id(name: str, at: str) -> Problems:
    if not VISIBLE.fullmatch(name):
        rule = (
            "expected printable ASCII characters, the first and last not blank: it is sent to the upstream in a header"
        )
        yield Problem(at, rule)


def sources_problems(ranges: tuple[str, ...] | None) -> Iterator[tuple[str, str]]:
    """The rules that a key's allowed sources break, each with its place in the list: "" is the list itself."""
    if ranges is None:
        return
    if not ranges:
        yield "", "expected at least one range; without allowedSources every address may use the key"
    if len(ranges) > MAX_SOURCES:
        yield "", f"expected at most {MAX_SOURCES} ranges, got {len(ranges)}"
    for n, text in enumerate(ranges):
        if rule := range_problem(text):
            yield f"[{n}]", f"{rule}, got '{text if RANGE.fullmatch(text) else shortened(text)}'"


def _customers(customers: tuple[Customer, ...]) -> Problems:
    yield from _repeated(((one.id, f"$.customers[{i}].id") for i, one in enumerate(customers)), "the customer")
    for i, customer in enumerate(customers):
        yield from _customer_id(customer.id, f"$.customers[{i}].id")


def _has_utc(time: datetime) -> bool:
    try:
        time.astimezone(UTC)
    except OverflowError:
        return False
    return True


def _hex(value: str) -> str:
    return digest(value).hex()


# --- shared -------------------------------------------------------------------------------------------------------


def _repeated(named: Iterable[tuple[str, str]], what: str = "the name") -> Problems:
    """A problem for each repeated name. `named` has pairs (name, address)."""
    first: dict[str, str] = {}
    for name, at in named:
        known = first.setdefault(name, at)
        if known is not at:
            yield Problem(at, f"{what} {name} is already used by {known}")


def _throttle(settings: ThrottleSettings, at: str) -> Problems:
    yield from _rate(settings.rate_limit, settings.burst_limit, f"{at}.rateLimit")
    if settings.counts is Counts.UNITS and settings.rate_limit is None:
        yield Problem(f"{at}.counts", "expected only beside rateLimit: without a rate there is no throttle")


def _rate(rate: float | None, burst: int | None, at: str) -> Problems:
    try:
        check_throttle(rate, burst)
    except ValueError as broken:
        yield Problem(at, str(broken))


def _methods(keys: Iterable[str], api: Api | None, at: str, *, verbs_of_any: bool = False) -> Problems:
    """Each key must be readable, name a method that the API has, and be the only one that names it."""
    first: dict[tuple[str, str], str] = {}
    for key in keys:
        try:
            method = method_of(key)
        except ValueError as broken:
            yield Problem(f"{at}['{key}']", str(broken))
            continue
        known = first.setdefault(method, key)
        missing = api and missing_method(api, *method, verbs_of_any=verbs_of_any)
        rule = missing if known == key else f"the same method as '{known}'"
        if rule:
            yield Problem(f"{at}['{key}']", rule)


def missing_method(api: Api | Deployment, path: str, method: str, *, verbs_of_any: bool = False) -> str | None:
    """The reason why the API has no such method, or None if it has.

    With `verbs_of_any` a method ANY has all verbs: a stage's settings may name one of them, a plan's throttles may not.
    """
    if path == WILDCARD:
        return None
    name = f"the API {api.id}" if isinstance(api, Api) else "the deployment"
    if not api.resources:
        whole = path == "/" and (verbs_of_any or method in (ANY, WILDCARD))
        return None if whole else f"{name} lists no methods, so it is one method: expected */* or //ANY"
    methods = api.resources.get(path)
    if methods is None:
        close = difflib.get_close_matches(path, api.resources, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"{name} has no resource {path}{hint}"
    if method == WILDCARD or method in methods or (verbs_of_any and ANY in methods):
        return None
    return f"the resource {path} has no method {method}, only {', '.join(methods) or 'none'}"
