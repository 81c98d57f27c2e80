"""The Slack app's manifest and the image: what they ask for, and nothing more."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
#: each method of docs/contract.md -> the bot scopes that it needs; () needs none
SCOPES: dict[str, tuple[str, ...]] = {
    "auth.test": (),
    "chat.postMessage": ("chat:write",),
    "chat.update": ("chat:write",),
    "chat.postEphemeral": ("chat:write",),
    "views.open": (),
    "views.update": (),
    "apps.connections.open": (),  # an app-level token's connections:write
    "files.getUploadURLExternal": ("files:write",),
    "files.completeUploadExternal": ("files:write",),
    "usergroups.users.list": ("usergroups:read",),
    "users.info": ("users:read",),
    "conversations.open": ("im:write",),
    "conversations.replies": ("channels:history", "groups:history"),
}
#: each event -> the scope without which Slack does not send it
EVENTS = {"app_mention": "app_mentions:read", "message.channels": "channels:history", "message.groups": "groups:history"}


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((ROOT / "manifest.yml").read_text())
    return read


def test_every_method_of_the_contract_has_its_scopes_here() -> None:
    section = re.search(r"^## Slack methods\n(.*?)^## ", (ROOT / "docs/contract.md").read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None

    named = set(re.findall(r"`([a-z]+\.[A-Za-z.]+)`", section[1]))

    assert named == set(SCOPES)


def test_the_scopes_are_exactly_those_of_the_methods_the_events_and_the_command(manifest: dict[str, Any]) -> None:
    needed = {scope for scopes in SCOPES.values() for scope in scopes} | set(EVENTS.values()) | {"commands"}

    assert manifest["oauth_config"]["scopes"] == {"bot": sorted(needed)}


def test_the_events_are_those_that_notes_in_a_thread_need(manifest: dict[str, Any]) -> None:
    assert manifest["settings"]["event_subscriptions"]["bot_events"] == sorted(EVENTS)


def test_the_app_needs_no_address_of_its_own(manifest: dict[str, Any]) -> None:
    settings = manifest["settings"]

    assert settings["socket_mode_enabled"] is True
    assert settings["interactivity"] == {"is_enabled": True}
    assert "request_url" not in settings["event_subscriptions"]
    assert settings["token_rotation_enabled"] is False


def test_the_texts_keep_to_slacks_limits(manifest: dict[str, Any]) -> None:
    shown = manifest["display_information"]
    commands = manifest["features"]["slash_commands"]

    assert set(manifest) == {"display_information", "features", "oauth_config", "settings"}
    assert 1 <= len(shown["name"]) <= 35
    assert len(shown["description"]) <= 140
    assert re.fullmatch(r"#[0-9a-f]{6}", shown["background_color"])
    assert 1 <= len(manifest["features"]["bot_user"]["display_name"]) <= 80
    assert [command["command"] for command in commands] == ["/rollback"]
    for command in commands:
        assert 2 <= len(command["command"]) <= 32
        assert len(command["description"]) <= 2000
        assert len(command["usage_hint"]) <= 1000


# ------------------------------------------------------------------ the image


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments), continued lines joined, comments dropped."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    pairs = (line.split(maxsplit=1) for line in text.splitlines() if line.strip())
    return [(word, rest) for word, rest in pairs]


def test_the_image_does_not_run_as_root(instructions: list[tuple[str, str]]) -> None:
    last_stage = instructions[max(number for number, (word, _) in enumerate(instructions) if word == "FROM") :]
    users = [rest for word, rest in last_stage if word == "USER"]

    assert users == ["backout"]
    assert not [rest for word, rest in last_stage[[word for word, _ in last_stage].index("USER") :] if word == "RUN"]


def test_every_package_of_the_image_is_pinned_by_its_hash(instructions: list[tuple[str, str]]) -> None:
    installs = [part for word, rest in instructions if word == "RUN" for part in rest.split("&&") if "pip install" in part]

    assert installs
    for part in installs:
        assert "--require-hashes" in part or "--no-deps /dist/" in part


def test_no_secret_goes_into_the_image(instructions: list[tuple[str, str]]) -> None:
    set_here = [rest for word, rest in instructions if word in {"ENV", "ARG"}]

    assert not [rest for rest in set_here if re.search(r"token|secret|password|database_url", rest, re.IGNORECASE)]
    assert (ROOT / ".dockerignore").read_text().split("\n")[1] == "*"


def test_what_the_image_copies_is_let_through(instructions: list[tuple[str, str]]) -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for word, rest in instructions if word == "COPY" and "--from" not in rest for name in rest.split()[:-1]}

    assert copied == let_through
    assert not [name for name in copied if not (ROOT / name).exists()]
