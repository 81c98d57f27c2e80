"""Containers as services: written down, stopped, proven gone, started again one by one. Which they are is the platform's to find."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from bot.containers import former as application
from bot.containers.api import DEFAULT_HOST, Engine, Json, running
from bot.containers.ready import until_ready, words
from bot.errors import Refusal, StepFailed
from bot.keeping import Work
from bot.process import redact
from bot.running import Inside
from bot.values import Duration

_GRACE = 10  # seconds: the engine's own, where the container names none
_KILLED = 137
_LINE = 500  # characters kept of a line of a log
_NO = "no"


class Settings(Protocol):
    """What both platforms are told."""

    @property
    def host(self) -> str: ...
    @property
    def within(self) -> Duration: ...


class Chosen(Protocol):
    """Which containers a platform means: each with the name that people know it by (a container's, a service's)."""

    async def stopped(self, engine: Engine) -> list[tuple[str, dict[str, Any]]]:
        """In the written order. One that is named and isn't there is left out."""

    async def restarted(self, engine: Engine) -> list[tuple[str, dict[str, Any]]]: ...
    async def objections(self, engine: Engine) -> list[Refusal]:
        """What is named and isn't there."""

    def images(self) -> Mapping[str, str]:
        """The former image of each service that has one."""


class ContainerServices:
    """Implements running.Services. `noted` is {containers: [...], restart: [...]}: lists, since their order counts."""

    def __init__(self, kind: str, settings: Settings, chosen: Chosen) -> None:
        self.kind = kind
        self._host, self._within, self._chosen = settings.host, settings.within.total_seconds(), chosen

    async def ready(self, inside: Inside | None = None) -> tuple[Refusal, ...]:
        try:
            async with Engine(self._host) as engine:
                refusals = await self._chosen.objections(engine)
                stopped = await self._chosen.stopped(engine)
                for service, found in stopped:
                    refusals += _unfit(service, found)
                refusals += await self._needed(engine, stopped, inside)
                return (*refusals, *await application.not_here(engine, self._chosen.images()))
        except Refusal as refusal:
            return (refusal,)
        except StepFailed as error:
            return (Refusal("engine_unreachable", error.message, "Look at the engine's own log."),)

    async def _needed(self, engine: Engine, stopped: Sequence[tuple[str, Json]], inside: Inside | None) -> list[Refusal]:
        """Said beforehand: when the tool can't be executed any more, the writers are down already."""
        if inside is None or inside.host != self._host:
            return []
        place = await engine.found(inside.name)
        if place is None or place["Id"] not in [found["Id"] for _, found in stopped]:
            return []
        name = place["Name"].removeprefix("/")
        told = f"The tool is to be executed in {name} (runner.container), which is among the containers that are stopped before it runs."
        return [Refusal("container_unfit", told, f"Write like: {name} in place of container: {name}, so that a one-off beside it runs the tool.")]

    async def look(self) -> Mapping[str, Any]:
        async with Engine(self._host) as engine:
            if missing := await self._chosen.objections(engine):
                raise missing[0]
            stopped, restarted = await self._chosen.stopped(engine), await self._chosen.restarted(engine)
        return {"containers": [_noted(*one) for one in stopped], "restart": [_noted(*one) for one in restarted]}

    # ------------------------------------------------------------------ stop

    async def stop(self, noted: Mapping[str, Any], work: Work) -> str:
        said = []
        async with Engine(self._host) as engine:
            for one in noted["containers"]:
                if one["running"]:
                    await work.progress(f"stopping {one['name']}")
                    said.append(await self._stop(engine, one))
        await self.prove_stopped(noted)
        rest = [one["name"] for one in noted["containers"] if not one["running"]]
        return "; ".join([*said, *([f"{', '.join(rest)} had been stopped before"] if rest else [])]) or "there was nothing to stop"

    async def _stop(self, engine: Engine, one: Json) -> str:
        """A policy would bring it back when the engine itself is started again, so it has none meanwhile."""
        name, remarks = one["name"], []
        found = await engine.found(one["id"])
        if found is None:
            return f"{name} is gone"
        policy = (found["HostConfig"].get("RestartPolicy") or {}).get("Name") or _NO
        if policy != _NO and not await engine.set_policy(one["id"], name, {"Name": _NO}):
            remarks.append(f"its restart policy {policy} stays, since this engine can't change it")
        grace = min(found["Config"].get("StopTimeout") or _GRACE, max(1, int(self._within)))
        if running(found):
            if found["State"].get("Paused"):
                await engine.unpause(one["id"], name)
            await engine.stop(one["id"], name, grace)
            found = await engine.found(one["id"]) or found
            if found["State"].get("ExitCode") == _KILLED and not running(found):
                remarks.append(f"it did not end within {grace} s and was killed")
        return f"{name} stopped" + (f" ({'; '.join(remarks)})" if remarks else "")

    async def prove_stopped(self, noted: Mapping[str, Any]) -> None:
        """By id and by name: one that was recreated meanwhile has another id."""
        async with Engine(self._host) as engine:
            there = {found["Id"]: (service, found) for service, found in await self._chosen.stopped(engine)}
            for one in noted["containers"]:
                if one["id"] not in there and (found := await engine.found(one["id"])):
                    there[found["Id"]] = (one["service"], found)
        known = {one["id"]: one for one in noted["containers"]}
        up = [_again(found, known.get(found["Id"])) for _, found in there.values() if running(found)]
        if up:
            raise StepFailed(
                f"Not stopped: {', '.join(up)}. Nothing was executed. Find out who starts {'it' if len(up) == 1 else 'them'}, then retry.",
                {"running": up},
            )

    # ------------------------------------------------------------------ start

    async def start(self, noted: Mapping[str, Any], work: Work) -> str:
        started: list[str] = []
        failed: list[str] = []
        for one in [each for each in noted["containers"] if each["running"]]:
            await work.progress(f"starting {one['name']}")
            try:
                async with Engine(self._host) as engine:
                    started.append(await self._start(engine, one, work))
            except Refusal as refusal:
                failed.append(f"{one['name']}: {refusal.message} {refusal.next}")
            except StepFailed as error:
                failed.append(error.message)
            if failed and not work.leaving:
                break
        if failed:
            told = f" Started: {', '.join(started)}." if started else ""
            raise StepFailed(f"{' '.join(failed)}{told}", {"started": started, "failed": failed})
        started += await self._restart(noted["restart"], work)
        return "; ".join(started) or "nothing had run before, so nothing was started"

    async def _start(self, engine: Engine, one: Json, work: Work) -> str:
        name = one["name"]
        found = await self._now(engine, one, work)
        if found is None:
            raise StepFailed(f"{name} is gone: somebody removed it. Create it again as it was, then retry.")
        identity = found["Id"]
        await application.put_right(engine, found, name, work.run)
        policy, now = one["policy"], found["HostConfig"].get("RestartPolicy") or {}
        if policy["Name"] not in (_NO, "") and now.get("Name") != policy["Name"]:
            await engine.set_policy(identity, name, policy)
        before = found["RestartCount"]
        if not running(found):
            await engine.start(identity, name)
        told = await until_ready(engine, identity, name, before, self._within)
        if one["paused"] and not found["State"].get("Paused"):
            await engine.pause(identity, name)
            told += ", and paused as before"
        if identity != one["id"]:
            told += await application.settled(engine, found, work.run)
        return f"{name} {told}"

    async def _now(self, engine: Engine, one: Json, work: Work) -> dict[str, Any] | None:
        """What was stopped; or what stands in its place now: made by our own way back, or by somebody who created it again."""
        named = await engine.found(one["name"])
        if named is not None and (named["Id"] == one["id"] or application.is_ours(named, work.run)):
            return named
        return await engine.found(one["id"]) or named

    async def _restart(self, noted: Sequence[Json], work: Work) -> list[str]:
        """Once: one that began after it was written down was restarted already."""
        done = []
        for one in noted:
            async with Engine(self._host) as engine:
                found = await engine.found(one["name"])
                if found is None or not running(found) or found["State"]["StartedAt"] != one["started"]:
                    continue
                await work.progress(f"restarting {one['name']}")
                await engine.restart(found["Id"], one["name"], found["Config"].get("StopTimeout") or _GRACE)
                await until_ready(engine, found["Id"], one["name"], found["RestartCount"], self._within)
                done.append(f"{one['name']} restarted")
        return done

    def by_hand(self, noted: Mapping[str, Any]) -> tuple[str, ...]:
        docker = "docker" if self._host == DEFAULT_HOST else f"docker -H {shlex.quote(self._host)}"
        lines = []
        for one in noted["containers"]:
            if not one["running"]:
                continue
            name, policy = shlex.quote(one["name"]), one["policy"]
            if policy["Name"] not in (_NO, ""):
                count = f":{policy['MaximumRetryCount']}" if policy["Name"] == "on-failure" and policy.get("MaximumRetryCount") else ""
                lines.append(f"{docker} update --restart {shlex.quote(policy['Name'] + count)} {name}")
            lines.append(f"{docker} start {name}")
            lines += [f"{docker} pause {name}"] if one["paused"] else []
        return tuple(lines)

    # ------------------------------------------------------------------ logs, and the way back

    async def logs(self, lines: int) -> Mapping[str, tuple[str, ...]]:
        told: dict[str, tuple[str, ...]] = {}
        async with Engine(self._host) as engine:
            for _, found in [*await self._chosen.stopped(engine), *await self._chosen.restarted(engine)]:
                name = found["Name"].removeprefix("/")
                try:
                    told[name] = tuple(redact(line)[:_LINE] for line in await engine.lines(found["Id"], lines))
                except StepFailed as error:
                    told[name] = (f"could not be read: {error.message}",)
        return told

    async def former(self) -> Mapping[str, Any]:
        async with Engine(self._host) as engine:
            return await application.former(engine, await self._chosen.stopped(engine), self._chosen.images())

    async def roll_back(self, former: Mapping[str, Any], work: Work) -> str:
        async with Engine(self._host) as engine:
            said = [await application.roll_back(engine, name, known, work) for name, known in former.items()]
        return "; ".join(said)


def _noted(service: str, found: Json) -> dict[str, Any]:
    state, policy = found["State"], found["HostConfig"].get("RestartPolicy") or {}
    return {
        "name": found["Name"].removeprefix("/"),
        "service": service,
        "id": found["Id"],
        "image": found["Config"]["Image"],
        "image_id": found["Image"],
        "running": running(found),
        "paused": bool(state.get("Paused")),
        "started": state["StartedAt"],
        "policy": {"Name": policy.get("Name") or _NO, "MaximumRetryCount": policy.get("MaximumRetryCount") or 0},
        "health_check": bool(found["Config"].get("Healthcheck")),
    }


def _again(found: Json, one: Json | None) -> str:
    """What runs, and how it comes to run."""
    name, state = found["Name"].removeprefix("/"), found["State"]
    if one is None:
        return f"{name} (created anew as {found['Id'][:12]}, {words(state)})"
    return f"{name} ({words(state)} since {state['StartedAt'][:19]} UTC{'' if one['running'] else ', had been stopped before'})"


def _unfit(service: str, found: Json) -> list[Refusal]:
    name = found["Name"].removeprefix("/")
    if found["HostConfig"].get("AutoRemove"):
        why, following = "was started with --rm: when it stops it is gone, and nothing could start it again", "Create it without --rm."
    elif (found["Config"].get("Labels") or {}).get("com.docker.swarm.service.name"):
        why, following = "belongs to a Swarm service, which would start another one in its place", "Name containers that no Swarm keeps."
    else:
        return []
    return [Refusal("container_unfit", f"{name} ({service}) {why}." if service != name else f"{name} {why}.", following)]


def missing(what: str, absent: Sequence[str], near: Sequence[str], where: str) -> Refusal:
    """For what is named in backout.yml and isn't there."""
    hint = f"Did you mean {' or '.join(near)}?" if near else "docker ps -a shows what there is."
    return Refusal("container_missing", f"{where} has no {what if len(absent) == 1 else f'{what}s'} {', '.join(absent)}.", hint)


async def gather(engine: Engine, identities: Sequence[str]) -> list[dict[str, Any]]:
    """Described, in this order; those that went meanwhile are left out."""
    found = await asyncio.gather(*[engine.found(each) for each in identities])
    return [one for one in found if one is not None]
