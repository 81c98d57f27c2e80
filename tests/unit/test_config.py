"""backout.yml: what it may say, and what people are told when it says something else."""

from __future__ import annotations

import datetime as dt
import json
import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, Field

from bot import config
from bot.errors import ConfigError
from bot.evidence import LossClass
from bot.model import Severity
from handlers import grammar

CONTRACT = """
people:
  U0DBA: {name: Dana, token: "${DANA_TOKEN}"}
targets:
  shop:
    database: ${SHOP_DATABASE_URL}
    admin: ${SHOP_ADMIN_URL}
    maintenance_database: postgres
    channels: [C0INCIDENT]
    tool: {kind: alembic, directory: ./shop, python: ./shop/.venv/bin/python, config: alembic.ini,
           env: {DATABASE_URL: "postgresql+asyncpg://{user}:{password}@{host}:{port}/{database}"}}
    runner: {kind: local}
    platform: {kind: none}
    backups: {store: ./backups, keep: 24h}
    rehearsal: {server: throwaway, max_size: 20GB, within: 15m}
    verify:
      - {name: no order lost, sql: "select count(*) from orders", expect: same}
    health: {url: "http://127.0.0.1:8000/health"}
roles:
  dba: {title: DBA on call, users: [U0DBA]}
  team-lead: {title: Team lead, usergroup: S0LEADS}
  senior-backend: {title: Senior backend, users: [U0SENIOR]}
  cto: {title: CTO, users: [U0CTO]}
policy:
  critical: {approve: {dba: 1, team-lead: 1}, within: 15m, self: false}
  high:     {approve: {dba: 1}, within: 1h}
  medium:   {approve: {dba: 1}, within: 4h}
  low:      {approve: {dba: 1}, within: 24h, advice: fix forward}
  loss:     {medium: {dba: 1}, high: {dba: 1, team-lead: 1}}
escalation:
  ladder: [dba, senior-backend, cto]
  after: {failed_attempts: 2, down: 2h}
"""
ENVIRON = {
    "DANA_TOKEN": "dana-proof-1",
    "SHOP_DATABASE_URL": "postgresql://shop:pa%2Fss-w0rd@db.example:6432/shop?sslmode=require",
    "SHOP_ADMIN_URL": "postgresql+psycopg://admin:adm1n-w0rd@db.example/shop",
}
WRONG = "hunter2:@x"


def smallest() -> dict[str, Any]:
    return {"targets": {"shop": {"database": "postgresql://shop@db/shop", "tool": {"kind": "alembic"}}}}


def load(tmp_path: Path, content: str | dict[str, Any], environ: dict[str, str] | None = None) -> config.Config:
    path = tmp_path / "backout.yml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return config.load(path, ENVIRON if environ is None else environ)


def complaint(tmp_path: Path, content: str | dict[str, Any], environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, content, environ)
    return str(caught.value)


def changed(path: str, value: Any) -> dict[str, Any]:
    """The smallest file with one key written otherwise."""
    whole = smallest()
    here = whole
    *parents, last = path.split(".")
    for parent in parents:
        here = here.setdefault(parent, {})
    here[last] = value
    return whole


def test_the_contracts_example_is_read_as_it_stands(tmp_path: Path) -> None:
    read = load(tmp_path, CONTRACT)

    shop = read.targets["shop"]
    assert shop.name == "shop"
    assert (shop.database.host, shop.database.port, shop.database.sslmode) == ("db.example", 6432, "require")
    assert shop.database.password == "pa/ss-w0rd"
    assert (shop.admin.user, shop.admin.port) == ("admin", 5432)
    assert shop.tool["config"] == "alembic.ini"
    assert shop.platform == ({"kind": "none"},)
    assert shop.backups.keep == dt.timedelta(hours=24)
    assert shop.rehearsal.max_size == 20 * 1024**3
    assert read.policy.rules()[Severity.CRITICAL].approve == {"dba": 1, "team-lead": 1}
    assert read.policy.for_loss()[LossClass.HIGH] == {"dba": 1, "team-lead": 1}
    assert read.escalation.after.down == dt.timedelta(hours=2)
    assert read.directory == tmp_path


def test_what_may_be_left_out_may_be_left_out(tmp_path: Path) -> None:
    read = load(tmp_path, smallest())

    shop = read.targets["shop"]
    assert shop.admin == shop.database
    assert (shop.runner, shop.platform) == ({"kind": "local"}, ({"kind": "none"},))
    assert shop.questions == config.QUESTIONS
    assert read.policy.rules() == {}
    assert read.command == "/rollback"


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("targts", {}, "targts: unknown key. Did you mean targets?"),
        ("targets.shop.databse", "x", "targets.shop.databse: unknown key. Did you mean database?"),
        ("targets.shop.health", {"url": "http://x", "jsn": {}}, "targets.shop.health.jsn: unknown key. Did you mean json?"),
        ("targets.shop.backups", {"kep": "1h"}, "targets.shop.backups.kep: unknown key. Did you mean keep?"),
        ("targets.shop.verify", [{"name": "a", "sql": "b", "expct": 1}], "targets.shop.verify[0].expct: unknown key. Did you mean expect?"),
        ("targets.shop.name", "x", "targets.shop.name: unknown key."),
        ("policy.hihg", {}, "policy.hihg: unknown key. Did you mean high?"),
        ("policy.high", {"approve": {"dba": 1}, "within": "1h", "slef": True}, "policy.high.slef: unknown key. Did you mean self?"),
        ("secrets", [], "secrets: unknown key."),
    ],
)  # fmt: skip
def test_an_unknown_key_is_named_with_its_path_and_the_nearest_known_one(tmp_path: Path, path: str, value: Any, told: str) -> None:
    assert told in complaint(tmp_path, changed(path, value))


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("targets.shop", {"tool": {"kind": "alembic"}}, "targets.shop.database: missing. What the tool uses"),
        ("targets.shop.tool", {"directory": "x"}, "targets.shop.tool: has no kind"),
        ("targets.shop.platform", [], "targets.shop.platform: "),
        ("targets.shop.backups", {"keep": "a day"}, "targets.shop.backups.keep: is not a duration. Write a whole number and its unit: 90s"),
        ("targets.shop.backups", {"keep": 90}, "targets.shop.backups.keep: is not a duration"),
        ("targets.shop.backups", {"keep": "0h"}, "targets.shop.backups.keep: is not a duration"),
        ("targets.shop.backups", {"keep": "9999999999d"}, "targets.shop.backups.keep: is too long"),
        ("targets.shop.rehearsal", {"max_size": "20"}, "targets.shop.rehearsal.max_size: is not a size"),
        ("targets.shop.rehearsal", {"server": "elsewhere"}, "targets.shop.rehearsal.server: The connection URL"),
        ("targets.shop.channels", "C0INCIDENT", "targets.shop.channels: it should be a valid tuple"),
        ("targets.shop.channels", ["#incident"], "targets.shop.channels[0]: must be the id that Slack shows"),
        ("targets.shop.health", {"url": "localhost:80"}, "targets.shop.health.url: must be a web address"),
        ("targets.shop.database", "mysql://u:p@h/d", "targets.shop.database: The connection URL"),
        ("targets.shop.database", "postgresql://u:p@h:port/d", "targets.shop.database: The connection URL"),
        ("targets.shop.database", "postgresql://h/d", "targets.shop.database: The connection URL"),
        ("targets.shop.database", "postgresql://u@h/d?options=-cx", "targets.shop.database: The connection URL has ?options="),
        ("targets.shop.admin", "postgresql://u@h/other", "targets.shop.admin: names another database"),
        ("targets.shop.questions", ["x" * 76], "targets.shop.questions: must be at most 10 different lines"),
        ("targets.shop.checklist", ["twice", "twice"], "targets.shop.checklist: must be at most 10 different lines"),
        ("command", "rollback", "command: "),
        ("people", {"U0DBA": {"name": "Dana", "token": 1234}}, "people.U0DBA.token: must be text. Put it in quotes."),
        ("people", {"U1": {"name": "A", "token": "t"}, "U2": {"name": "B", "token": "t"}}, "people.U2.token: somebody else has the same token"),
        ("policy.high", {"approve": {"dba": 0}, "within": "1h"}, "policy.high.approve.dba: "),
        ("policy.high", {"approve": {}, "within": "1h"}, "policy.high.approve: "),
        ("policy.high", {"approve": {"dba": 1}, "within": "1h"}, "policy.high.approve.dba: this role is not under roles."),
        ("policy.loss", {"high": {"dba": 1}}, "policy.loss.high.dba: this role is not under roles."),
        ("escalation", {"ladder": ["dba"]}, "escalation.ladder[0]: this role is not under roles."),
        ("roles", {"dba": {"title": "DBA"}}, "roles.dba: nobody holds this role."),
        ("roles", {"dba": {"users": []}}, "roles.dba: nobody holds this role."),
        ("targets", {}, "targets: "),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_by_its_key(tmp_path: Path, path: str, value: Any, told: str) -> None:
    assert told in complaint(tmp_path, changed(path, value))


@pytest.mark.parametrize("name", ["Shop", "-shop", "shop.eu", "s" * 42, ""])
def test_a_targets_name_is_a_plain_word(tmp_path: Path, name: str) -> None:
    assert f"targets.{name}: a target's name has" in complaint(tmp_path, {"targets": {name: smallest()["targets"]["shop"]}})


@pytest.mark.parametrize("name", sorted(config.RESERVED))
def test_a_target_is_not_named_like_a_word_of_the_command(tmp_path: Path, name: str) -> None:
    assert "part of the command" in complaint(tmp_path, {"targets": {name: smallest()["targets"]["shop"]}})


def test_every_verb_that_can_be_typed_is_reserved() -> None:
    assert grammar.VERBS <= config.RESERVED


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    told = complaint(tmp_path, changed("targets.shop", {"tool": {"kind": "alembic"}, "chanels": []}))

    assert [line.split(":")[0] for line in told.splitlines()] == ["targets.shop.database", "targets.shop.chanels"]


def test_a_role_with_a_near_name_is_suggested(tmp_path: Path) -> None:
    content = smallest() | {"roles": {"team-lead": {"users": ["U1"]}}, "escalation": {"ladder": ["teamlead"]}}

    assert "Did you mean team-lead?" in complaint(tmp_path, content)


# ------------------------------------------------------------------ variables and secrets


def test_a_variable_that_is_not_set_is_named_with_its_key(tmp_path: Path) -> None:
    told = complaint(tmp_path, CONTRACT, {"SHOP_DATABASE_URL": ENVIRON["SHOP_DATABASE_URL"]})

    assert "people.U0DBA.token: the variable DANA_TOKEN is not set" in told
    assert "targets.shop.admin: the variable SHOP_ADMIN_URL is not set" in told
    assert "SHOP_DATABASE_URL" not in told


def test_an_empty_variable_counts_as_not_set(tmp_path: Path) -> None:
    assert "DANA_TOKEN is not set" in complaint(tmp_path, CONTRACT, ENVIRON | {"DANA_TOKEN": ""})


def test_a_variable_with_a_default_is_refused_since_none_would_be_used(tmp_path: Path) -> None:
    assert "targets.shop.database: a variable is not written as ${NAME}" in complaint(tmp_path, changed("targets.shop.database", "${A:-b}"))


def test_variables_are_filled_in_anywhere_and_only_once(tmp_path: Path) -> None:
    content = changed("targets.shop.tool", {"kind": "alembic", "env": {"GREETING": "a ${ONE} b ${TWO}"}, "list": ["${ONE}"]})

    tool = load(tmp_path, content, {"ONE": "${TWO}", "TWO": "2"}).targets["shop"].tool

    assert tool["env"]["GREETING"] == "a ${TWO} b 2"
    assert tool["list"] == ["${TWO}"]


def test_passwords_and_tokens_are_collected_and_templates_and_plain_values_are_not(tmp_path: Path) -> None:
    content = CONTRACT.replace("config: alembic.ini", "config: alembic.ini, region: '${REGION}'")

    secrets = load(tmp_path, content, ENVIRON | {"REGION": "eu"}).secrets

    assert {"dana-proof-1", "pa/ss-w0rd", "pa%2Fss-w0rd", "adm1n-w0rd", ENVIRON["SHOP_DATABASE_URL"]} <= set(secrets)
    assert not {"eu", "{password}", "shop"} & set(secrets)


def test_no_secret_is_in_a_repr(tmp_path: Path) -> None:
    read = load(tmp_path, CONTRACT)

    for shown in (repr(read), str(read), repr(read.targets["shop"])):
        assert not [secret for secret in read.secrets if secret in shown]


@pytest.mark.parametrize("key", ["database", "admin", "channels", "tool", "backups", "verify", "health", "rehearsal", "questions"])
def test_no_value_of_a_variable_is_in_an_error_or_its_traceback(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, changed(f"targets.shop.{key}", "${WRONG}"), {"WRONG": WRONG})

    assert WRONG not in "".join(traceback.format_exception(caught.value))


# ------------------------------------------------------------------ YAML


def test_a_key_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    assert "line 3, column 1: the key targets stands there twice" in complaint(tmp_path, "targets:\n  a: {}\ntargets:\n  b: {}\n")


def test_a_bare_variable_inside_braces_is_explained(tmp_path: Path) -> None:
    assert 'a variable needs quotes: "${VAR}"' in complaint(tmp_path, "people:\n  U1: {name: A, token: ${T}}\n")


@pytest.mark.parametrize("text", ["password: *hunter2", "password: !hunter2 x", "password: 'hunter2", "- hunter2", "hunter2", "", "1: hunter2"])
def test_a_file_that_is_no_mapping_is_refused_without_quoting_it(tmp_path: Path, text: str) -> None:
    assert "hunter2" not in complaint(tmp_path, text)


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_says_where_to_point(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "backout.yml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"can't be read: .* BACKOUT_CONFIG"):
        config.load(path, {})


# ------------------------------------------------------------------ verification


def check(tmp_path: Path, line: str) -> config.Check:
    return load(tmp_path, yaml.safe_dump(smallest()) + f"    verify:\n      - {{name: a, sql: select 1{line}}}\n").targets["shop"].verify[0]


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (", expect: same", "same"), (", expect: none", "none"), (", expect: null", None), (", expect: true", True),
        (", expect: 3", 3), (", expect: 1.5", 1.5), (", expect: '3'", "3"), (", expect: no", "no"), (", expect: 0010", 10),
        (", expect: 2026-01-01", "2026-01-01"), (", expect: '>= 10'", ">= 10"), (", expect: '!= open'", "!= open"), (", expect: ''", ""),
    ],
)  # fmt: skip
def test_an_expectation_is_read_as_it_was_written(tmp_path: Path, line: str, value: object) -> None:
    read = check(tmp_path, line)

    assert read.expected == value
    assert type(read.expected) is type(value)


def test_no_expectation_is_not_the_expectation_null(tmp_path: Path) -> None:
    assert check(tmp_path, "").expected is ...


@pytest.mark.parametrize("line", [", expect: '>='", ", expect: '> many'", ", expect: [1]", ", expect: {a: 1}"])
def test_an_expectation_that_cannot_be_met_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError, match=r"targets\.shop\.verify\[0\]\.expect: "):
        check(tmp_path, line)


def test_two_verifications_do_not_share_a_name(tmp_path: Path) -> None:
    twice = [{"name": "a", "sql": "select 1"}, {"name": "a", "sql": "select 2"}]

    assert "targets.shop.verify[1].name: another verification has this name" in complaint(tmp_path, changed("targets.shop.verify", twice))


# ------------------------------------------------------------------ adapters


class Inner(BaseModel):
    depth: int = 1


class Settings(BaseModel):
    directory: Path
    env: dict[str, str] = {}
    inner: Inner | None = None
    spelled: str = Field("", alias="as")


def test_an_adapters_unknown_option_is_named_even_if_its_model_would_ignore_it() -> None:
    with pytest.raises(ConfigError, match=r"targets\.shop\.tool\.directry: unknown key\. Did you mean directory\?"):
        config.adapter_settings(Settings, {"kind": "alembic", "directry": "x"}, "targets.shop.tool")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, r"targets\.shop\.tool\.directory: missing\."),
        ({"directory": "x", "inner": {"depth": "deep"}}, r"targets\.shop\.tool\.inner\.depth: it should be a valid integer"),
        ({"directory": "x", "env": {"A": 1}}, r"targets\.shop\.tool\.env\.A: must be text"),
    ],
)  # fmt: skip
def test_an_adapters_wrong_option_is_told_by_its_full_path(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        config.adapter_settings(Settings, {"kind": "alembic", **options}, "targets.shop.tool")


def test_an_adapter_gets_its_own_model() -> None:
    read = config.adapter_settings(Settings, {"kind": "alembic", "directory": "x", "as": "y"}, "targets.shop.tool")

    assert (read.directory, read.spelled) == (Path("x"), "y")


def test_an_unknown_kind_names_the_nearest_known_one() -> None:
    assert config.adapter_kind({"kind": "local"}, ["local"], "targets.shop.runner") == "local"
    with pytest.raises(ConfigError, match=r"targets\.shop\.tool\.kind: no such kind\. Did you mean alembic\?"):
        config.adapter_kind({"kind": "alembik"}, ["alembic", "prisma"], "targets.shop.tool")


def test_the_schema_is_json_and_names_keys_and_defaults_as_they_are_written() -> None:
    schema = json.loads(json.dumps(config.json_schema()))

    assert schema["properties"]["command"]["default"] == "/rollback"
    assert "self" in schema["$defs"]["Rule"]["properties"]
    assert "admin" in schema["$defs"]["TargetConfig"]["properties"]
    assert schema["$defs"]["Backups"]["properties"]["keep"]["default"] == "24h"
    assert schema["$defs"]["After"]["properties"]["down"]["default"] == "2h"
    assert schema["$defs"]["Rehearsal"]["properties"]["max_size"]["default"] == "20GB"
    assert schema["$defs"]["TargetConfig"]["properties"]["rehearsal"]["default"]["within"] == "15m"
