"""Who holds a role now: configured users, and the members of a Slack user group."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Protocol

from bot.errors import ChatError
from bot.ports import Clock
from handlers.api import Slack

log = logging.getLogger(__name__)

KNOWN_FOR = 60.0  # seconds that a rendering may use the members it knows


class RoleLike(Protocol):
    """A role as backout.yml has it."""

    @property
    def users(self) -> Sequence[str]: ...
    @property
    def usergroup(self) -> str | None: ...
    @property
    def title(self) -> str: ...


class SlackDirectory:
    """ports.Directory. A failed lookup leaves only the users that are named: deny by default."""

    def __init__(self, roles: Mapping[str, RoleLike], slack: Slack, clock: Clock) -> None:
        self._roles = roles
        self._slack = slack
        self._clock = clock
        self._known: dict[str, tuple[float, frozenset[str]]] = {}

    async def holders(self, role: str, *, fresh: bool = True) -> frozenset[str]:
        held = self._roles.get(role)
        if held is None:
            return frozenset()
        named = frozenset(held.users)
        return named | await self._members(held.usergroup, fresh) if held.usergroup else named

    async def _members(self, group: str, fresh: bool) -> frozenset[str]:
        now = self._clock.monotonic()
        at, members = self._known.get(group, (float("-inf"), frozenset()))
        if not fresh and now - at < KNOWN_FOR:
            return members
        try:
            answer = await self._slack.call(self._slack.client.usergroups_users_list, usergroup=group)
        except ChatError as error:
            log.warning("user group %s can't be looked up, only the named users count: %s", group, error)
            self._known.pop(group, None)
            return frozenset()
        members = frozenset(str(user) for user in answer.get("users", ()))
        self._known[group] = (now, members)
        return members
