"""Write the tables of docs/reference/ and copy plots into docs/img/; with --check, list the outdated ones.

Pages are written by hand, except for their blocks. `BLOCKS` has a function for the text between
`<!-- generated: NAME -->` and `<!-- end -->`. For a new table add a function there and a block to a page.
"""

from __future__ import annotations

import re
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from inspect import cleandoc
from pathlib import Path
from types import ModuleType, UnionType
from typing import Annotated, Any, Final, NamedTuple, Union, get_args, get_origin

import click
import msgspec
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.registry import Collector

from authz.cli.main import cli
from authz.config import schema
from authz.config.faults import alternatives, bare_kind, choices
from authz.config.fields import FIELDS, sentence
from authz.config.settings import Option, options
from authz.control import api
from authz.control.call import Answer, Call, Operation
from authz.control.operations.unsupported import UNSUPPORTED, WHY
from authz.control.portal import invite
from authz.control.unfilled import UNFILLED, UNREAD
from authz.core import resources
from authz.core.request import Request
from authz.core.resources import GatewayResponse, GatewayResponseType
from authz.core.responses import render
from authz.core.verdict import Denied, Reason, Subject
from authz.observe import metrics

DOCS = Path(__file__).resolve().parent
PAGES = DOCS / "reference"
PLOTS: Final = tuple(
    (DOCS.parent / f"bench/plots/{name}.svg", DOCS / f"img/{name}.svg") for name in ("comparison", "latency")
)
"""Plots that the bench draws, and their copies for the site, which shows nothing from outside docs/."""
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
WORDS: Final = {
    bool: "true or false",
    datetime: "time, such as `2030-01-31T23:59:59Z`",
    float: "number",
    int: "whole number",
    str: "text",
}
TOLD = re.compile(r"\s*\[(env|default): ([^]]*?)(?:; default: ([^]]*))?\]")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table. A bar within a cell would end it."""
    lines = [list(heads), ["---"] * len(heads), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def code(text: str) -> str:
    return f"`{text}`" if text else ""


# --- settings -----------------------------------------------------------------------------------------------------


def settings() -> str:
    return table(("setting", "default", ""), map(_setting, options()))


def _setting(option: Option) -> tuple[str, ...]:
    names = "<br>".join(map(code, (option.name, option.variable, option.flag)))
    taken = takes(option.kind)
    told = option.help if taken in WORDS.values() else f"{option.help} Takes: {taken}."
    return (names, code(str(option.default).lower()), told)


def takes(kind: Any) -> str:
    """What a field accepts, in words."""
    if len(kinds := alternatives(kind)) > 1:
        return ", or ".join(map(takes, kinds))
    bare = bare_kind(kind)
    if get_origin(bare) is tuple:
        return f"list of {_named(get_args(bare)[0])}"
    if get_origin(bare) is dict:
        return f"mapping to {_named(get_args(bare)[1])}"
    return _named(bare) + _bounds(kind)


def _named(kind: Any) -> str:
    if words := choices(kind):
        return ", ".join(map(code, words))
    bare = bare_kind(kind)
    if get_origin(bare) is dict:
        return f"mappings to {_named(get_args(bare)[1])}"
    if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
        name = bare.__name__
        return f"[{name}](#{name.lower()})" if name in FIELDS else "mapping"
    return WORDS[bare]


def _bounds(kind: Any) -> str:
    metas = list(_metas(kind))
    least = next((meta.ge for meta in metas if meta.ge is not None), None)
    most = next((meta.le for meta in metas if meta.le is not None), None)
    if least is None and most is None:
        return ""
    return f" ≥ {least}" if most is None else f", {least:,} to {most:,}"


def _metas(kind: Any) -> Iterator[msgspec.Meta]:
    """What a kind, one within it, or one beside its None is annotated with."""
    if isinstance(kind, msgspec.Meta):
        yield kind
    elif get_origin(kind) in (Annotated, Union, UnionType):
        for part in get_args(kind):
            yield from _metas(part)


# --- the command line ---------------------------------------------------------------------------------------------


def commands() -> str:
    return "\n".join(_command(path, command) for path, command in _all_commands(cli, ("authz",)))


def _all_commands(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group) and command.invoke_without_command:
            yield (*path, name), command
        if isinstance(command, click.Group):
            yield from _all_commands(command, (*path, name))
        else:
            yield (*path, name), command


def _command(path: tuple[str, ...], command: click.Command) -> str:
    context = click.Context(command, info_name=" ".join(path))
    usage = " ".join((context.command_path, *command.collect_usage_pieces(context)))
    text = f"## {' '.join(path)}\n\n{_paragraphs(command.help or '')}\n\n```text\n{usage}\n```\n"
    found = [option for option in command.params if isinstance(option, click.Option) and not option.hidden]
    set_by_setting = [option for option in found if _is_setting(option)]
    if len(set_by_setting) == len(options()):
        found = [option for option in found if option not in set_by_setting]
        text += "\nAnd every [setting](configuration.md#settings) as a flag.\n"
    if found:
        text += "\n" + table(("option", "environment", "default", ""), map(_option, found))
    return text


def _paragraphs(help_text: str) -> str:
    """Click's `\\b` keeps the lines of a paragraph as they are: an example."""
    parts = cleandoc(help_text).split("\n\n")
    return "\n\n".join(f"```text\n{cleandoc(part[2:])}\n```" if part.startswith("\b\n") else part for part in parts)


def _is_setting(option: click.Option) -> bool:
    return any(setting.flag in option.opts and setting.field == option.name for setting in options()) and any(
        found[1] == "env" and found[3] is not None for found in TOLD.finditer(option.help or "")
    )


def _option(option: click.Option) -> tuple[str, ...]:
    """Some of our help texts tell the variable and the default themselves."""
    told = option.help or ""
    variable = option.envvar if isinstance(option.envvar, str) else ""
    default = _default(option)
    for found in TOLD.finditer(told):
        if found[1] == "env":
            variable, default = found[2], code(found[3] or "")
        else:
            default = found[2]
    return (
        _spelt(option),
        ", ".join(map(code, filter(None, variable.split(", ")))),
        default,
        TOLD.sub("", told).strip(),
    )


def _spelt(option: click.Option) -> str:
    names = ", ".join((*option.opts, *option.secondary_opts))
    if isinstance(option.type, click.Choice):
        return code(f"{names} {'|'.join(map(str, option.type.choices))}")
    bare = option.is_flag or option.count
    return code(names if bare else f"{names} {_metavar(option)}")


def _metavar(option: click.Option) -> str:
    return option.make_metavar(click.Context(click.Command("any"))).removesuffix(" RANGE")


def _default(option: click.Option) -> str:
    if (
        option.is_flag
        or option.multiple
        or not option.show_default
        or not isinstance(option.default, str | int | float)
    ):
        return ""
    return code(str(option.default))


# --- metrics ------------------------------------------------------------------------------------------------------


class Source(NamedTuple):
    """A process that has metrics, and the registry it shows."""

    who: str
    registry: CollectorRegistry


def sources() -> list[Source]:
    """Every registry there is. The supervisor also shows the sum of its workers' metrics, which are the sidecar's."""
    supervisor = metrics.Gathered(str(DOCS), 1, lambda: {"ready": 1})
    return [
        Source("sidecar", metrics.Metrics().registry),
        Source("supervisor", supervisor.registry),
        Source("control plane", metrics.ControlMetrics().registry),
    ]


def sidecar_metrics() -> str:
    heads = ("metric", "type", "labels", "served by", "meaning")
    return table(heads, (row for source in sources() for row in _metrics(source)))


def _metrics(source: Source) -> Iterator[tuple[str, ...]]:
    for collector in _collectors(source.registry):
        for family in collector.collect():
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = ", ".join(map(code, _labels(collector, family.samples)))
            yield (code(name), family.type, labels, source.who, family.documentation)


def _collectors(registry: CollectorRegistry) -> list[Collector]:
    # The library has no public way to ask for the labels of a metric without a count.
    return list(registry._collector_to_names)  # noqa: SLF001


def _labels(collector: Collector, samples: Sequence[Any]) -> Iterable[str]:
    if isinstance(collector, MetricWrapperBase):
        names: Iterable[str] = collector._labelnames  # noqa: SLF001
        return names
    return sorted({name for sample in samples for name in sample.labels})


# --- the control plane --------------------------------------------------------------------------------------------


def operations() -> str:
    """AWS's operations that are answered, by the module that answers them."""
    return table(("operation", "request", "writes"), (_operation(found) for found in _answered(api.MODULES)))


def own_operations() -> str:
    found = [one for module in api.MODULES for one in module.OPERATIONS if one.name in OWN]
    found.append(invite.operation(_unserved))
    return table(("operation", "request", "writes", ""), map(_own, found))


def unsupported() -> str:
    rows = ((code(found.name), _request(found), WHY[found.name]) for found in UNSUPPORTED)
    return table(("operation", "request", "why"), rows)


def unread() -> str:
    return table(("operation and member", ""), ((code(name), why) for name, why in UNREAD.items()))


def unfilled() -> str:
    return table(("shape and member", ""), ((code(name), why) for name, why in UNFILLED.items()))


async def _unserved(_: Call) -> Answer:
    """Stand in for the handler of an operation that is only described."""
    raise NotImplementedError


def _answered(modules: Iterable[ModuleType]) -> Iterator[Operation]:
    return (found for module in modules for found in module.OPERATIONS if found.name not in OWN)


def _operation(found: Operation) -> tuple[str, ...]:
    return (code(found.name), _request(found), "yes" if found.writes else "")


def _own(found: Operation) -> tuple[str, ...]:
    return (*_operation(found), OWN[found.name])


def _request(found: Operation) -> str:
    return code(f"{found.verb} {found.path}" + (f"?mode={found.mode}" if found.mode else ""))


OWN: Final = {
    "GetCatalogVersion": "Return the version of the store. With `wait=V`, first wait until every live sidecar serves "
    "version V; after `timeout` seconds (5 unless set, 30 at most) 409 names those that do not.",
    "RotateApiKey": "Set a new value (`value`, else a random one). The old value stays good for `overlapSeconds`.",
    "Explain": "Explain a request as `authz explain --redis` does. The body has `url` and `method`, or `logLine` (an "
    "object of Envoy's access log), and optionally `headers`, `extensions`, `metadata` and `source`, the client's "
    "address. With `url`, `keyId` stands for the key's value.",
    "GetTopUsage": "List the keys of the plan `usagePlanId` with most use today, at most `limit` (10 unless set).",
    "GetUsagePlanExtension": "Show a plan's fields that AWS doesn't have.",
    "PutUsagePlanExtension": "Replace them, and all quotas of the plan if `quotas` is given.",
    "DeleteUsagePlanExtension": "Make it a plan of AWS's own shape again.",
    "CreateWholePlan": "Create a plan from one document: [Whole plans](#whole-plans).",
    "GetWholePlans": "List plans as such documents; with `apiId` and `stage`, those that cover a stage.",
    "GetWholePlan": "Show a plan as such a document.",
    "PutWholePlan": "Replace all of a plan by such a document, in one step.",
    "GetUsagePlanKeyExtension": "Show the overrides of a key in a plan.",
    "PutUsagePlanKeyExtension": "Replace them. They end when the key leaves the plan.",
    "DeleteUsagePlanKeyExtension": "Let the plan's numbers hold for the key again.",
    "GetRestApiExtension": "Show the costs of an API's methods.",
    "PutRestApiExtension": "Replace them. A stage serves the costs that were deployed to it.",
    "DeleteRestApiExtension": "Let each method cost 1 again.",
    "CreateCustomer": "Make a customer. `id` is the `customerId` of its keys.",
    "GetCustomers": "List customers, newest first.",
    "GetCustomer": "Show a customer.",
    "PutCustomer": "Make or replace a customer.",
    "DeleteCustomer": "Delete a customer. Its keys stay, and have no billing day and no overrides of a customer.",
    "GetUsageDays": "Read [usage by day](#usage-in-rows), in pages or as CSV.",
    "GetUsageOverview": "Show [today's figures of the account](#the-account-at-a-glance): use by plan, the busiest and "
    "the most refused callers, quotas near their limits. Each list has `limit` items (10 unless set, 100 at most).",
    "GetUsageOverviewDays": "Sum [each day's use](#the-account-at-a-glance) of all plans, of `usagePlanId`, or of "
    "each of `usagePlanIds`, from `startDate` to `endDate` (today unless set).",
    "GetUsageQuotas": "Show the used and the remaining units of [each quota](#quotas-and-grants) of `keyId` or "
    "`customerId` in `usagePlanId`, and the throttle.",
    "SetUsageRemaining": "Set what remains of [any quota](#quotas-and-grants).",
    "GrantUsage": "Add units to what remains of [a quota](#quotas-and-grants).",
    "GetAudit": "List the lines of the audit, the newest first: who wrote which version of the store. With `id`, those "
    "that name this id; with `who`, those of this person. Then a page may have few lines, or none, and a `position`.",
    "GetSystem": "Show [the system](#the-system): control plane, store, sidecars, Redis, and the doctor's findings.",
    "GetKeyUses": "List keys with the last day (UTC) on which a call of each was counted; those whose name begins with "
    "`name`, or those of `customerId`.",
    "FindApiKey": "Find the key that has a value (`value`), or had it before a rotation whose overlap goes on. The "
    "answer has the key's id.",
    "GetFileItems": "List the ids of a `kind` (`apikey`, `customer`, `usageplan`) that the configuration file defines, "
    "and that can't be changed here; with `id`, that one, if it is among them.",
    "GetCustomerPlans": "List the usage plans of a customer's keys.",
    "GetExampleCall": "Show a call that a key of the plan can make: method, path, host, and the place of the key.",
    "GetUsageAlerts": "List [alerts](#alerts), the newest first, or the oldest with `order=oldest`.",
    "GetApiKeyExtension": "Show a key's fields that AWS doesn't have: `allowedSources`, `billingDay`; and "
    "`lastUsedDate`, the last day (UTC) on which a call in one of its plans was counted; and `previousExpiresAt`, "
    "while its value before the last rotation is valid.",
    "PutApiKeyExtension": "Replace them; a member that is left out is removed. `lastUsedDate` and "
    "`previousExpiresAt` may be given, and are ignored.",
    "EndPreviousApiKeyValue": "End the value before the last rotation at once.",
    "CreatePortalSession": "Make a link that signs a customer in to the [portal](portal.md) once. Only where pages are "
    "served.",
    "GetUnusedKeys": "List the keys that are at least `days` days old and were not used for as long. `limit` is "
    "the number of keys that a page looks at, so a page without items may have a `position`.",
    "DeleteApiKeyExtension": "Remove them: the key may be used from everywhere again.",
    "GetAlertTargets": "List alert targets, the newest first; with `customerId` only those of a customer.",
    "CreateAlertTarget": "Create an [alert target](#alert-targets). The answer shows its `secret`, once.",
    "GetAlertTarget": "Return an alert target, without its secret.",
    "PutAlertTarget": "Replace an alert target; members that are absent are removed. Its secret stays. The pending "
    "deliveries of a target that is disabled fail.",
    "DeleteAlertTarget": "Delete an alert target, with all its deliveries.",
    "RotateAlertTargetSecret": "Give an alert target a new `secret`, shown once. The old one signs beside it for "
    "`overlapSeconds` (a day unless set, 30 days at most).",
    "TestAlertTarget": "Send a message of the type `webhook.test` to a target now, and return what became of it: "
    "`arrived`, and `status` or `error`.",
    "GetAlertDeliveries": "List [deliveries](#deliveries) with the `state` `failed` (unless set), `pending` or "
    "`delivered`; with `targetId` only those of a target.",
    "ResendAlertDelivery": "Try a failed delivery again, at once and then for another day.",
}


# --- answers ------------------------------------------------------------------------------------------------------


REQUEST: Final = Request("GET", "host", "/")
GRPC: Final = Request("POST", "host", "/", {"content-type": "application/grpc"})
MARK: Final = GatewayResponse(status_code="418")


def answers() -> str:
    """What reasons are answered with, as the code that answers says it: a row for those that look alike."""
    heads = ("reasons", "status", "message", "`x-amzn-ErrorType`", "reworded by", "gRPC")
    rows: dict[tuple[str, ...], list[Reason]] = {}
    for reason in Reason:
        rows.setdefault(_answer(reason), []).append(reason)
    return table(heads, ((", ".join(map(code, reasons)), *answer) for answer, reasons in rows.items()))


def _answer(reason: Reason) -> tuple[str, ...]:
    found = render(Denied(reason), REQUEST, "", "aws")
    grpc_status = render(Denied(reason), GRPC, "", "aws").headers["grpc-status"]
    kinds = sorted((kind for kind in GatewayResponseType if _rewords(kind, reason)), key=lambda kind: "DEFAULT" in kind)
    message = msgspec.json.decode(found.body)["message"]
    error_type = found.headers["x-amzn-errortype"]
    return (str(found.status), message, code(error_type), ", ".join(map(code, kinds)), grpc_status)


def _rewords(kind: GatewayResponseType, reason: Reason) -> bool:
    subject = Subject(responses={kind: MARK})
    return render(Denied(reason, subject), REQUEST, "", "aws").status == 418


# --- the file -----------------------------------------------------------------------------------------------------


def fields() -> str:
    return "\n".join(_fields(name, told) for name, told in FIELDS.items())


def _fields(name: str, told: dict[str, str]) -> str:
    kind: type[msgspec.Struct] = getattr(resources, name)
    found = msgspec.structs.fields(kind)
    assert [field.encode_name for field in found] == list(told), f"FIELDS[{name!r}] is not what the struct has"
    title = "The whole file" if name == "Resources" else name
    rows = ((code(field.encode_name), takes(field.type), _left_out(field), told[field.encode_name]) for field in found)
    return f"### {title}\n\n{sentence(kind)}\n\n" + table(("field", "takes", "default", ""), rows)


def _left_out(field: msgspec.structs.FieldInfo) -> str:
    """The value of a field that a file leaves out, as YAML; a struct whose fields all have defaults is one of those."""
    if field.required:
        return "required"
    if isinstance(field.default, bool):
        return code(str(field.default).lower())
    default = None if field.default is msgspec.NODEFAULT else msgspec.to_builtins(field.default)
    if isinstance(field.default, msgspec.Struct) and not default:
        return "its defaults"
    if default in (None, "", ()):
        return "none"
    return code(default if isinstance(default, str) else yaml.safe_dump(default, default_flow_style=True).strip(" .\n"))


# --- pages --------------------------------------------------------------------------------------------------------

BLOCKS: Final[dict[str, Callable[[], str]]] = {
    "answers": answers,
    "commands": commands,
    "fields": fields,
    "metrics": sidecar_metrics,
    "operations": operations,
    "own_operations": own_operations,
    "settings": settings,
    "unfilled": unfilled,
    "unread": unread,
    "unsupported": unsupported,
}


# Where the schema of the plans file stands: on the site, and beside the sample for editors.
SCHEMAS: Final = (PAGES / schema.NAME, DOCS.parent / "authz" / "samples" / schema.NAME)


def fresh(page: str) -> str:
    """The page with each of its blocks as the code has it now. Raises KeyError for a name that is none."""
    return BLOCK.sub(lambda found: f"{found[1]}\n{BLOCKS[found[2]]()}\n{found[3]}", page)


def pages() -> list[Path]:
    """The pages with a block."""
    return [path for path in sorted(DOCS.rglob("*.md")) if BLOCK.search(path.read_text("utf-8"))]


def stale() -> list[str]:
    """The pages that are not what the code says, and the blocks that no page has."""
    found = pages()
    texts = {path: path.read_text("utf-8") for path in found}
    used = {block[2] for text in texts.values() for block in BLOCK.finditer(text)}
    behind = [str(path.relative_to(DOCS)) for path, text in texts.items() if fresh(text) != text]
    behind += [str(path) for path in SCHEMAS if not path.exists() or path.read_text("utf-8") != schema.text()]
    copies = [f"img/{copy.name}" for plot, copy in PLOTS if not _is_copied(plot, copy)]
    return behind + copies + sorted(f"no page has the block {name}" for name in BLOCKS.keys() - used)


def _is_copied(plot: Path, copy: Path) -> bool:
    return copy.exists() and copy.read_bytes() == plot.read_bytes()


def main() -> str | None:
    """Its answer goes to sys.exit: a text is the complaint of exit code 1."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a page is stale")
    if parser.parse_args().check:
        return f"docs/ is stale ({', '.join(found)}): run docs/generate.py" if (found := stale()) else None
    for path in pages():
        path.write_text(fresh(path.read_text("utf-8")), "utf-8")
    for plot, copy in PLOTS:
        copy.write_bytes(plot.read_bytes())
    for path in SCHEMAS:
        path.write_text(schema.text(), "utf-8")
    return None


if __name__ == "__main__":
    sys.exit(main())
