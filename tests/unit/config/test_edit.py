"""A key is inserted into a plans file: the text around it and its meaning stay unchanged."""

from __future__ import annotations

import pytest

from authz.config.edit import with_key
from authz.config.faults import ConfigError
from authz.config.file import parse
from authz.core.resources import ApiKey

KEY = ApiKey("new", "A new caller", value_sha256="ab" * 32)
DIGEST = f"valueSha256: {'ab' * 32}"
PLAN = "usagePlans: [{id: p, name: P}]\n"
OLD = f"value: {'x' * 20}"

BLOCK = f"""\
# Callers.
apiKeys:
  # The first one.
  - id: one   # its id
    {OLD}

  # The last one.
  - id: two
    {OLD.replace("x", "y")} # and its value

# The end.
"""
LAYOUTS = {
    "a list of blocks": (BLOCK, ["  - id: new", "    name: A new caller", f"    {DIGEST}"]),
    "a list at the margin": (
        f"apiKeys:\n- {{ id: one, {OLD} }} # the first\n",
        [f"- {{ id: new, name: A new caller, {DIGEST} }}"],
    ),
    "a list in brackets": (
        f"apiKeys: [{{id: one, {OLD}}}] # all\n",
        [f"apiKeys: [{{id: one, {OLD}}}, {{ id: new, name: A new caller, {DIGEST} }}] # all"],
    ),
    "brackets over several lines": (
        f"apiKeys: [\n  {{id: one, {OLD}}},\n]\n",
        [f"  {{id: one, {OLD}}}, {{ id: new, name: A new caller, {DIGEST} }},"],
    ),
    "empty brackets": ("apiKeys: [ ] # none\n", [f"apiKeys: [ {{ id: new, name: A new caller, {DIGEST} }}] # none"]),
    "no list": ("apis: []\n# The end.\n", ["apiKeys:", f"  - {{ id: new, name: A new caller, {DIGEST} }}"]),
    "a file in braces": (
        "{apis: []}\n",
        [f"{{apis: [], apiKeys: [{{ id: new, name: A new caller, {DIGEST} }}]}}"],
    ),
    "a last line that does not end": (
        f"apiKeys:\n  - {{ id: one, {OLD} }}",
        [f"  - {{ id: new, name: A new caller, {DIGEST} }}"],
    ),
    "a text over several lines before it": (
        f"apiKeys:\n  - id: one\n    {OLD}\n    description: |\n      # No comment,\n\n      but text.\n# The end.\n",
        ["  - id: new", "    name: A new caller", f"    {DIGEST}"],
    ),
    "another section behind it": (
        f"apiKeys:\n  - {{ id: one, {OLD} }}\n\n# The APIs.\napis: []\n",
        [f"  - {{ id: new, name: A new caller, {DIGEST} }}"],
    ),
}


def added(before: str, after: str) -> list[str]:
    """Return the new and changed lines. Fail if any character is missing."""
    rest = iter(after)
    assert all(character in rest for character in before)
    return [line for line in after.splitlines() if line not in before.splitlines()]


@pytest.mark.parametrize(("text", "lines"), LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("ending", ["\n", "\r\n"], ids=["Unix", "Windows"])
def test_a_key_is_added_to_any_layout_and_comments_stay(text: str, lines: list[str], ending: str) -> None:
    after = with_key(text.replace("\n", ending), KEY, None, "plans.yaml")
    assert ("\r" in after) is (ending == "\r\n" and "\n" in text)
    assert added(text, after.replace("\r\n", "\n")) == lines
    before = parse(text, "plans.yaml").resources.api_keys
    assert parse(after, "plans.yaml").resources.api_keys == (*before, KEY)


PLANS = {
    "keys in brackets": ("usagePlans: [{id: p, name: P, keys: [one]}]\n", "keys: [one, new]"),
    "keys in a list": ("usagePlans:\n  - id: p\n    name: P\n    keys:\n      - one # first\n", "      - new"),
    "no keys in a block": ("usagePlans:\n  - id: p\n    name: P\n", "    keys: [new]"),
    "no keys in braces": (PLAN, "name: P, keys: [new]"),
}


@pytest.mark.parametrize(("text", "shown"), PLANS.values(), ids=PLANS)
def test_a_key_joins_a_plan(text: str, shown: str) -> None:
    whole = f"{text}apiKeys: [{{id: one, {OLD}}}]\n"
    after = with_key(whole, KEY, "p", "plans.yaml")
    assert shown in after
    (plan,) = parse(after, "plans.yaml").resources.usage_plans
    (before,) = parse(whole, "plans.yaml").resources.usage_plans
    assert plan.keys == (*before.keys, "new")


def test_a_first_key_joins_a_plan_at_the_end_of_a_file() -> None:
    """Both insertions go below one line."""
    after = with_key("usagePlans:\n  - id: p\n    name: P", KEY, "p", "plans.yaml")
    assert after.splitlines()[-3:] == [
        "    keys: [new]",
        "apiKeys:",
        f"  - {{ id: new, name: A new caller, {DIGEST} }}",
    ]


@pytest.mark.parametrize("mark", ["\r", "\u0085", "\u2028", "\u2029"])
def test_a_line_may_end_as_yaml_lets_it(mark: str) -> None:
    """Within a text in quotes too, where YAML counts a line for each of these marks."""
    words = f'"a{mark}b{mark}{mark}c"'
    text = f"usagePlans: [{{id: p, name: P, description: {words}}}]\napiKeys:\n  - {{ id: one, {OLD} }}\n"
    after = with_key(text, KEY, "p", "plans.yaml")
    assert parse(after, "plans.yaml").resources.usage_plans[0].keys == ("new",)
    assert after.startswith(f"usagePlans: [{{id: p, name: P, description: {words}")


def test_a_file_with_carriage_returns_alone_takes_a_key() -> None:
    after = with_key(f"apiKeys:\r  - {{ id: one, {OLD} }}\r", KEY, None, "plans.yaml")
    assert [key.id for key in parse(after, "plans.yaml").resources.api_keys] == ["one", "new"]
    assert "\n" not in after


@pytest.mark.parametrize("id_", ["0123", "yes", "null", "-", "1e3", "a-b_c"])
def test_an_id_that_yaml_would_read_as_something_else_is_put_in_quotes(id_: str) -> None:
    after = with_key(f"{PLAN}apiKeys: []\n", ApiKey(id_, value_sha256="ab" * 32), "p", "plans.yaml")
    found = parse(after, "plans.yaml").resources
    assert (found.api_keys[0].id, found.usage_plans[0].keys) == (id_, (id_,))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"apiKeys: [{{id: new, {OLD}}}]", "there is an API key new already"),
        ("apis: []", "there is no usage plan p"),
        ("apis: [", "line 2, column 1: not valid YAML: did not find expected node content"),
        ("apiKeys: {}", "$.apiKeys: expected a list, got a mapping (line 1)"),
    ],
)
def test_a_key_that_cannot_be_added_is_refused_with_the_reason(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        with_key(f"{text}\n", KEY, "p", "plans.yaml")
    assert str(refused.value) == f"plans.yaml: {says}"


@pytest.mark.parametrize(
    "text",
    [
        # Two plans share one list of keys, so the new key would join both.
        "usagePlans: [{id: p, name: P, keys: &all [a]}, {id: q, name: Q, keys: *all}]",
        # A list of the plan's own would hide the one that it merges.
        "usagePlans: [&p {id: q, name: Q, keys: [a]}, {<<: *p, id: p, name: P}]",
    ],
)
def test_a_layout_where_the_key_would_change_more_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="add it by hand"):
        with_key(f"{text}\napiKeys: [{{id: a, {OLD}}}]\n", KEY, "p", "plans.yaml")


def test_a_name_that_breaks_a_rule_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\$\.apiKeys\[0\]\.id: expected 1 to 128 letters"):
        with_key("apis: []\n", ApiKey("a b", value_sha256="ab" * 32), None, "plans.yaml")
