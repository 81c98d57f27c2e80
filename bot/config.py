"""backout.yml -> frozen models. Every error names the key by its full path and says what to write.

No error and no repr shows a value: a value may have come from ${VAR}, and then it may be a secret.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError

from bot import policy, yamlfile
from bot.errors import ConfigError
from bot.evidence import LossClass
from bot.model import Severity
from bot.place import Connect
from bot.values import Boxes, Crontab, Duration, Expectation, Id, Options, Platforms, Seats, Server, Size, Store, Url, WebAddress

#: a target named like one of these could not be told from it in a command
RESERVED = frozenset({
    "plan", "status", "abort", "report", "history", "backups", "check", "note", "restore", "tables", "pitr", "reapply", "stamp", "help",
    "because", "sev",
})  # fmt: skip
QUESTIONS = (
    "Could a forward migration fix this sooner?",
    "Is it only slow? Look at the query and its indexes first.",
    "Has data been written that needs the new schema?",
    "Does the application's previous version run on the old schema?",
)
CHECKLIST = (
    "The migration that did the damage is known",
    "Deploys are frozen",
    "The team and the users have been told",
    "Logs and errors of the incident are saved",
    "This rollback has been tried on staging",
)

# ------------------------------------------------------------------ the models


class Part(BaseModel):
    """Defaults are spelled as in the file, so that the schema shows what to write."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)


def _written(text: str) -> Any:
    """A default in the file's spelling; validation turns it into its value."""
    return text


class PersonConfig(Part):
    """Somebody who may use the command line."""

    name: str = Field(min_length=1, description="How this person is called.")
    token: str = Field(repr=False, min_length=1, description="What BACKOUT_TOKEN must equal. Write a variable, such as ${DANA_TOKEN}.")


class Role(Part):
    """Who holds a role: these users and the members of this user group."""

    title: str = Field("", description="How people call the role. The role's own name is used when this is left out.")
    users: tuple[Id, ...] = Field((), description="Slack user ids, such as [U0DBA].")
    usergroup: Id | None = Field(None, description="A Slack user group's id, such as S0LEADS.")


class Rule(policy.Rule):
    """What one severity asks for."""

    model_config = ConfigDict(hide_input_in_errors=True)
    approve: Seats = Field(min_length=1, description="How many seats each role fills, in order, such as {dba: 1}.")
    within: Duration = Field(description="How long a seat waits before the ladder's next rung is asked too, such as 15m.")
    self_approval: bool = Field(False, alias="self", description="Whether the one who asks may approve.")
    advice: str | None = Field(None, description="A sentence for the card, such as: fix forward.")


class LossRules(Part):
    """The seats that a loss class asks for, whatever the severity."""

    medium: Seats = Field({}, description="Seats when the plan's loss class is medium.")
    high: Seats = Field({}, description="Seats when the plan's loss class is high.")


class RehearseRule(Part):
    """Who may begin a rehearsal, which costs production a dump."""

    roles: tuple[str, ...] = Field((), description="Roles of which a person must hold one, such as [dba]. Left out: whoever may ask.")
    every: Duration | None = Field(None, description="How long a person waits between two rehearsals, such as 10m. Left out: not at all.")


class Policy(Part):
    """What each severity and each loss class ask for. A severity that is left out can't be approved by anybody."""

    critical: Rule | None = Field(None, description="The rule for severity critical.")
    high: Rule | None = Field(None, description="The rule for severity high.")
    medium: Rule | None = Field(None, description="The rule for severity medium.")
    low: Rule | None = Field(None, description="The rule for severity low.")
    loss: LossRules = Field(LossRules(), description="Seats by loss class; with the severity's, the larger number counts.")
    unrehearsed: Seats = Field({}, description="Seats besides when the plan could not be tried on a copy, or only on sampled rows.")
    rehearse: RehearseRule = Field(RehearseRule(), description="Who may begin a rehearsal, and how often.")

    def rules(self) -> dict[Severity, policy.Rule]:
        found = {severity: getattr(self, severity.value) for severity in Severity}
        return {severity: rule for severity, rule in found.items() if rule is not None}

    def for_loss(self) -> dict[LossClass, dict[str, int]]:
        return {LossClass.MEDIUM: self.loss.medium, LossClass.HIGH: self.loss.high}


class After(Part):
    """When a run escalates by itself."""

    failed_attempts: int = Field(2, ge=1, description="After so many failed attempts at one step.")
    down: Duration = Field(_written("2h"), description="After the target was down for so long.")


class Escalation(Part):
    """Who is asked when nobody answers or nothing works."""

    ladder: tuple[str, ...] = Field((), description="Roles, in the order in which they are asked, such as [dba, cto].")
    after: After = Field(After(), description="When a run escalates by itself.")


class Check(Part):
    """A verification: one query, and what it has to answer."""

    name: str = Field(min_length=1, description="What it shows, in words people will read.")
    sql: str = Field(min_length=1, repr=False, description="One query that reads.")
    expect: Expectation = Field(None, repr=False, description="same, none, one value, or a comparison such as '>= 10'. Left out: shown, not judged.")
    blocking: bool = Field(True, description="false makes a difference a warning.")

    @property
    def expected(self) -> Any:
        """`...` when there is no `expect` at all, which is not the same as `expect: null`."""
        return self.expect if "expect" in self.model_fields_set else ...


class Health(Part):
    """Where the application says that it is well."""

    url: WebAddress = Field(repr=False, description="A web address that answers 2xx when all is well.")
    expected: dict[str, Any] | None = Field(None, alias="json", repr=False, description="Dotted paths into the JSON answer, and their values.")


class Backups(Part):
    """Where copies are kept, and how long."""

    store: Store = Field("./backups", repr=False, description="A folder, or {kind: ...} for another store.")
    keep: Duration = Field(_written("24h"), description="How long a copy is kept.")
    schedule: Crontab | None = Field(None, description="When one is made unasked, as in a crontab, in UTC: 30 2 * * *.")
    provider: Options | None = Field(None, repr=False, description="Whoever runs the server and keeps backups of it: {kind: railway, ...}.")
    pitr: Options | None = Field(None, repr=False, description="Base backups and archived WAL: {kind: wal_folder, ...} or {kind: pgbackrest, ...}.")


class Rehearsal(Part):
    """Bounds of the trial run on a copy."""

    server: Server = Field("throwaway", repr=False, description="throwaway, same, none, or a server's URL.")
    max_size: Size = Field(_written("20GB"), description="The largest database that is copied whole; of a larger one, some rows.")
    within: Duration = Field(_written("15m"), description="How long it may take.")
    env: dict[str, str] = Field({}, repr=False, description="Variables for the tool on the copy, besides tool.env.")


class Drill(Part):
    """Readiness, tried before it is needed."""

    schedule: Crontab | None = Field(None, description="When the newest backup is restored elsewhere and taken down by one revision: 0 3 * * *.")


class PutBackRules(Part):
    """How what an earlier downgrade destroyed comes back."""

    triggers: Literal["fire", "off"] = Field("fire", description="Whether the tables' own triggers fire meanwhile: fire, or off.")


class MergeRules(Part):
    """What happens to live rows when tables come back out of a backup. Rows that are only in the backup always come back."""

    different: Literal["keep", "replace"] = Field("keep", description="Rows that differ and are not newer than the backup: keep, or replace.")
    newer: Literal["keep", "replace"] = Field("keep", description="Rows that are newer than the backup: keep, or replace.")
    only_here: Literal["keep", "delete"] = Field("keep", description="Rows that the backup does not have: keep, or delete.")


class TargetConfig(Part):
    """One database with its tool, platform, backups and channels. Options of adapters stay mappings; their adapters validate them."""

    database: Url = Field(description="What the tool uses: a direct connection, such as ${SHOP_DATABASE_URL}.")
    admin_url: Url | None = Field(None, alias="admin", description="Backout's own role on the same database. Default: database.")
    maintenance_database: str = Field("postgres", min_length=1, description="Another database of the server, for the lock.")
    channels: tuple[Id, ...] = Field((), description="Slack channel ids, such as [C0INCIDENT].")
    tool: Options = Field(repr=False, description="The migration tool, such as {kind: alembic, directory: ./shop}.")
    runner: Options = Field({"kind": "local"}, repr=False, description="Where the tool's own environment lives.")
    platform: Platforms = Field(({"kind": "none"},), repr=False, description="Where the application runs: one, or a list.")
    backups: Backups = Field(Backups(), description="Where copies are kept, and how long.")
    rehearsal: Rehearsal = Field(Rehearsal(), description="Bounds of the trial run on a copy.")
    drill: Drill = Field(Drill(), description="Readiness, tried before it is needed; the channel hears of it when it fails.")
    verify: tuple[Check, ...] = Field((), description="Verifications that run after the downgrade.")
    health: Health | None = Field(None, description="Where the application says that it is well.")
    watch: Duration = Field(_written("1m"), description="How long the application is watched once its services are back.")
    put_back: PutBackRules = Field(PutBackRules(), description="How an archive is put back.")
    tables: MergeRules = Field(MergeRules(), description="What happens to live rows when tables come back out of a backup.")
    questions: Boxes = Field(QUESTIONS, description="When not to roll back; shown on the card.")
    checklist: Boxes = Field(CHECKLIST, description="What to have done before; shown on the card.")
    _name: str = PrivateAttr("")

    @property
    def name(self) -> str:
        return self._name

    @property
    def admin(self) -> Connect:
        return self.admin_url or self.database


class Config(Part):
    """All of backout.yml. `directory` is where the file lies; relative paths in it begin there."""

    command: str = Field("/rollback", pattern=r"^/[a-z0-9_-]{1,31}$", description="The slash command's name, as in the Slack app.")
    people: dict[Id, PersonConfig] = Field({}, description="Who may use the command line, by Slack user id.")
    targets: dict[str, TargetConfig] = Field(min_length=1, description="Databases that can be rolled back, by name.")
    roles: dict[str, Role] = Field({}, description="Who holds which role, by the role's name.")
    policy: Policy = Field(Policy(), description="Which roles approve, by severity and by loss.")
    escalation: Escalation = Field(Escalation(), description="Who is asked when nobody answers or nothing works.")
    _directory: Path = PrivateAttr(Path())
    _secrets: tuple[str, ...] = PrivateAttr(())

    @property
    def directory(self) -> Path:
        return self._directory

    @property
    def secrets(self) -> tuple[str, ...]:
        """Passwords and tokens of the file and of the variables that it names, for redaction."""
        return self._secrets


# ------------------------------------------------------------------ reading


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """Read and prove the file. `environ` is where ${VAR} comes from. Raises ConfigError, one line per problem."""
    raw, secrets = yamlfile.read(path, environ)
    config = _validated(Config, raw, "")
    problems = list(_disagreements(config))
    if problems:
        raise ConfigError("\n".join(problems))
    config._directory = path.absolute().parent
    config._secrets = tuple(sorted(secrets))
    for name, target in config.targets.items():
        target._name = name
    return config


def json_schema() -> dict[str, Any]:
    """JSON Schema of backout.yml, defaults and descriptions included."""
    return Config.model_json_schema(by_alias=True)


M = TypeVar("M", bound=BaseModel)


def adapter_kind(options: Mapping[str, Any], known: Iterable[str], where: str) -> str:
    """The adapter that `options` ask for. Raises ConfigError when it is none of `known`."""
    kind, names = str(options.get("kind", "")), sorted(known)
    if kind not in names:
        raise ConfigError(f"{where}.kind: no such kind. {_hint(kind, names)}")
    return kind


def adapter_settings(model: type[M], options: Mapping[str, Any], where: str) -> M:
    """An adapter's options as its own settings model, `kind` left out if the model does not have it.

    `where` is their path, e.g. targets.shop.tool. Raises ConfigError that names the key.
    """
    known = _keys(model)
    given = {key: value for key, value in options.items() if key != "kind" or key in known}
    unknown = [f"{where}.{key}: unknown key. {_hint(key, known)}" for key in given if key not in known]
    if unknown:
        raise ConfigError("\n".join(unknown))
    return _validated(model, given, where)


def _disagreements(config: Config) -> Iterator[str]:
    """What each key may say by itself, but not beside the others."""
    for name, target in config.targets.items():
        where = f"targets.{name}"
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,40}", name):
            yield f"{where}: a target's name has 1 to 41 small letters, digits, - and _, and begins with a letter or digit."
        if name in RESERVED:
            yield f"{where}: this word is part of the command. Give the target another name."
        for check, count in Counter(check.name for check in target.verify).items():
            if count > 1:
                numbers = [number for number, other in enumerate(target.verify) if other.name == check]
                yield f"{where}.verify[{numbers[1]}].name: another verification has this name. Give each its own."
        if target.admin.database != target.database.database:
            yield f"{where}.admin: names another database than {where}.database. Both must be the same database, with two users."
    tokens = Counter(person.token for person in config.people.values())
    for user, person in config.people.items():
        if tokens[person.token] > 1:
            yield f"people.{user}.token: somebody else has the same token. Give each person their own."
    for role, holders in config.roles.items():
        if not holders.users and not holders.usergroup:
            yield f"roles.{role}: nobody holds this role. Write users: [U...] or usergroup: S..., or remove the role."
    for where, role in _named_roles(config):
        if role not in config.roles:
            yield f"{where}: this role is not under roles. {_hint(role, list(config.roles))}"


def _named_roles(config: Config) -> Iterator[tuple[str, str]]:
    for severity, rule in config.policy.rules().items():
        yield from ((f"policy.{severity}.approve.{role}", role) for role in rule.approve)
    yield from ((f"policy.unrehearsed.{role}", role) for role in config.policy.unrehearsed)
    yield from ((f"policy.rehearse.roles[{number}]", role) for number, role in enumerate(config.policy.rehearse.roles))
    for loss, seats in config.policy.for_loss().items():
        yield from ((f"policy.loss.{loss}.{role}", role) for role in seats)
    yield from ((f"escalation.ladder[{number}]", role) for number, role in enumerate(config.escalation.ladder))


# ------------------------------------------------------------------ errors that name the key


def _validated(model: type[M], value: Any, where: str) -> M:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        lines = [_sentence(model, problem, where) for problem in error.errors(include_url=False, include_input=False)]
    # Raised out here: a cause would carry the values into a traceback.
    raise ConfigError("\n".join(lines))


def _sentence(model: type[BaseModel], problem: Any, where: str) -> str:
    loc: tuple[str | int, ...] = problem["loc"]
    path = where
    for part in loc:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    path = path.lstrip(".") or "backout.yml"
    if problem["type"] == "extra_forbidden":
        return f"{path}: unknown key. {_hint(str(loc[-1]), _keys(_owner(model, loc)))}"
    if problem["type"] == "missing":
        return f"{path}: missing. {_described(_owner(model, loc), loc[-1])}".rstrip()
    if problem["type"] == "string_type":
        return f"{path}: must be text. Put it in quotes."
    told = problem.get("ctx", {}).get("error")
    return f"{path}: {told or problem['msg'].replace('Input should', 'it should')}."


def _owner(model: Any, loc: Sequence[str | int]) -> type[BaseModel] | None:
    """The model in which the last part of `loc` stands."""
    for part in loc[:-1]:
        if isinstance(model, type) and issubclass(model, BaseModel):
            fields = model.model_fields.items()
            model = _bare(next((field.annotation for name, field in fields if part in {name, field.alias}), None))
        else:
            model = _bare(next(reversed([kind for kind in get_args(model) if kind is not Ellipsis]), None))
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def _bare(kind: Any) -> Any:
    """Without `| None`."""
    given = get_args(kind)
    return next(other for other in given if other is not NoneType) if NoneType in given else kind


def _keys(model: type[BaseModel] | None) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()] if model else []


def _described(model: type[BaseModel] | None, key: str | int) -> str:
    fields = model.model_fields.items() if model else ()
    return next((field.description or "" for name, field in fields if key in {name, field.alias}), "")


def _hint(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"Did you mean {near[0]}?"
    return f"Write one of: {', '.join(known)}." if known else "Nothing may stand here."
