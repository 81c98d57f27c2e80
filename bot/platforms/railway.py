"""Railway: services are put into maintenance by a variable and a redeploy, and exactly what was there comes back.

A service in maintenance still runs, with another variable: what it must not do then is write, and enter the database. That is proven by looking into
the database (Several), or made sure of by the door beside it. What was in maintenance before stays so.
"""

from __future__ import annotations

import asyncio
import difflib
import shlex
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from bot.errors import Refusal, StepFailed
from bot.keeping import Work
from bot.platforms.services import ServicesSettings
from bot.railway import Account, Api, Json, Name, Railway, RailwayRefused, RailwaySilent
from bot.running import Inside
from bot.values import Duration

Noted = Mapping[str, Any]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")]
_UP = frozenset({"SUCCESS", "SLEEPING"})
_UNDER_WAY = frozenset({"INITIALIZING", "QUEUED", "WAITING", "BUILDING", "DEPLOYING", "NEEDS_APPROVAL"})
_GONE = frozenset({"REMOVING", "REMOVED"})
_PAUSE, _SLOWEST = 1.0, 8.0  # seconds between two looks: a token's requests are counted
_LINE = 500


class RailwaySettings(ServicesSettings, Account):
    kind: Literal["railway"] = "railway"
    services: tuple[Name, ...] = Field(min_length=1, description="names or ids of the services that go into maintenance, and come back in this order")
    restart: tuple[Name, ...] = Field((), description="names or ids of those that are restarted once the others are back")
    variable: Variable = Field("MAINTENANCE_MODE", description="the variable that the services take for a sign to stop writing")
    value: str = Field("true", min_length=1, max_length=200, description="its value in maintenance")
    within: Duration = Field("5m", description="how long one service may take to be deployed, and the former deployment to go")  # type: ignore[assignment]  # as in the file


class RailwayServices:
    """Implements running.Services. `noted` is {services: [...], restart: [...]}: lists, since their order counts. Of each its id, what ran, and the
    variable as it was (`had` False: there was none)."""

    kind = "railway"
    Settings = RailwaySettings

    def __init__(self, settings: RailwaySettings, railway: Railway | None = None, *, pause: float = _PAUSE) -> None:
        self.settings = settings
        self._railway = railway or Railway(settings)
        self._within, self._pause = settings.within.total_seconds(), pause
        #: by service: the deployment that this process saw come up, and with which value, so that it isn't done again for another service's sake
        self._made: dict[str, tuple[str | None, str]] = {}

    async def ready(self, inside: Inside | None = None) -> tuple[Refusal, ...]:
        try:
            async with self._railway.open() as api:
                there = await api.services()
                absent = [self._absent(name, there) for name in self._named if _find(there, name) is None]
                return tuple(absent or await self._unfit(api, there))
        except RailwaySilent as error:
            return (Refusal("railway_unreachable", error.message, "Then run: backout check"),)
        except RailwayRefused as error:
            code = "railway_forbidden" if error.forbidden else "railway_missing"
            return (Refusal(code, error.message, "Look at platform in backout.yml, then run: backout check"),)

    @property
    def _named(self) -> tuple[str, ...]:
        return (*self.settings.services, *self.settings.restart)

    def _absent(self, name: str, there: Sequence[Json]) -> Refusal:
        near = difflib.get_close_matches(name, [str(one["serviceName"]) for one in there], n=1)
        return Refusal(
            "railway_missing", f"The environment {self.settings.environment} has no service {name}. It would not be stopped, so nothing is promised.",
            f"Mend platform in backout.yml.{f' Is {near[0]} meant?' if near else ''}",
        )  # fmt: skip

    async def _unfit(self, api: Api, there: Sequence[Json]) -> list[Refusal]:
        """What could not be brought back as it was. Reading the variables is one of the token's rights."""
        found = []
        for name in self.settings.services:
            one = _there(there, name)
            if await api.variable(one["serviceId"], self.settings.variable) is None and await api.sealed(one["serviceId"], self.settings.variable):
                told = f"{self.settings.variable} of {name} is sealed: nobody can read it, so it could not be given back as it was."
                found.append(Refusal("railway_unfit", told, "Make it a variable that isn't sealed, or name another one under platform.variable."))
            for each in one["activeDeployments"]:
                if not each.get("canRedeploy"):
                    told = f"What runs of {name} can't be redeployed, so it could not be brought back."
                    found.append(Refusal("railway_unfit", told, "Deploy it anew, then run: backout check"))
        return found

    async def look(self) -> Mapping[str, Any]:
        services: list[Json] = []
        async with self._railway.open() as api:
            there = await api.services()
            for name in self.settings.services:
                one = _there(there, name)
                was = await api.variable(one["serviceId"], self.settings.variable)
                services.append({"name": name, "id": one["serviceId"], "active": _active(one), "had": was is not None, "variable": was})
            found = [(name, _there(there, name)) for name in self.settings.restart]
            restart = [{"name": name, "id": one["serviceId"], "instances": _instances(one)} for name, one in found]
        return {"services": services, "restart": restart}

    # ------------------------------------------------------------------ stop

    async def stop(self, noted: Noted, work: Work) -> str:
        """All are deployed at once, then each is waited for: the application is down from the first one on."""
        told: list[str] = []
        async with self._railway.open() as api:
            gone: list[tuple[Json, frozenset[str], str]] = []
            for one in noted["services"]:
                if one["active"]:
                    await work.progress(f"putting {one['name']} into maintenance")
                    gone += [(one, *found) for found in [await self._into_maintenance(api, one, work)] if found]
                    told.append(f"{one['name']} in maintenance ({self.settings.variable}={self.settings.value})")
                else:
                    told.append(f"{one['name']} did not run")
            for one, former, ours in gone:
                active = await self._settled(api, one["name"], one, former, work, ours=ours)
                self._made[one["name"]] = (self.settings.value, active[0])
        await self.prove_stopped(noted)
        return "; ".join(told)

    async def _into_maintenance(self, api: Api, one: Json, work: Work) -> tuple[frozenset[str], str] | None:
        """The variable first; then whatever was being deployed without it is waited for, and replaced. What has to go, and what replaces it."""
        name = one["name"]
        active = _active(_by_id(await api.services(), one["id"], name))
        if await self._done(api, name, one, active, self.settings.value):
            return None
        await api.set_variable(one["id"], self.settings.variable, self.settings.value)
        now = await self._settled(api, name, one, frozenset(), work, failing=False)
        ours = await self._redeploy(api, name, now[0] if now else one["active"][0])
        return frozenset([*now, *one["active"]]), ours

    async def _done(self, api: Api, name: str, one: Json, active: Sequence[str], wanted: str | None) -> bool:
        """This process saw it come up so. What another one has done is done again: nobody can say with which variables it was deployed."""
        value, deployment = self._made.get(name, (None, ""))
        return value == wanted and deployment in active and await api.variable(one["id"], self.settings.variable) == wanted

    async def _redeploy(self, api: Api, name: str, deployment: str) -> str:
        try:
            return await api.redeploy(deployment)
        except RailwayRefused as error:
            raise StepFailed(f"{name} could not be redeployed. {error.message}") from error

    async def _settled(self, api: Api, name: str, one: Json, gone: frozenset[str], work: Work, *, failing: bool = True, ours: str = "") -> list[str]:
        """What runs of it, the newest first, once nothing is being deployed and none of `gone` runs.

        Raises StepFailed: it takes too long, or (`failing`) the newest deployment went wrong; `ours`, where we made one."""
        loop = asyncio.get_running_loop()
        until, pause, said = loop.time() + self._within, self._pause, ""
        while True:
            now = _by_id(await api.services(), one["id"], name)
            latest, active = now.get("latestDeployment") or {}, _active(now)
            active.sort(key=lambda one: one != latest.get("id"))
            if ours not in ("", latest.get("id")):  # somebody else's came after it, and may have been skipped
                made = await api.deployment(ours)
                latest = latest if made["status"] in _GONE else made
            state = str(latest.get("status") or "")
            if state not in _UNDER_WAY and (not failing or (active and not gone & set(active))):
                return active  # also where a later deployment was skipped, or came to nothing, and this one goes on
            if state not in _UNDER_WAY and state not in _UP:
                raise StepFailed(
                    f"The new deployment of {name} ended as {state or 'nothing'}. Look at its log, mend that, then retry.", {"service": name}
                )
            problem = f"{name}: {state.lower()}" if state in _UNDER_WAY else f"{name}: the former deployment still runs"
            if loop.time() >= until:
                raise StepFailed(f"{problem} after {self._within:g} s. Look at its deployments, then retry.", {"service": name})
            if problem != said:
                await work.progress(f"waiting for {problem}")
                said = problem
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, max(_SLOWEST, self._pause))

    async def prove_stopped(self, noted: Noted) -> None:
        up: list[str] = []
        async with self._railway.open() as api:
            there = await api.services()
            for one in noted["services"]:
                name, active = one["name"], _active(_by_id(there, one["id"], one["name"]))
                if set(active) & set(one["active"]):
                    up.append(f"{name} runs as before")
                elif active and await api.variable(one["id"], self.settings.variable) != self.settings.value:
                    up.append(f"{name} runs without {self.settings.variable}={self.settings.value}")
        if up:
            raise StepFailed(f"Not in maintenance: {', '.join(up)}. Nothing was executed. Find out who deploys it, then retry.", {"running": up})

    # ------------------------------------------------------------------ start

    async def start(self, noted: Noted, work: Work) -> str:
        told: list[str] = []
        failed: list[StepFailed] = []
        async with self._railway.open() as api:
            for bring_back, one in [
                *((self._out_of_maintenance, one) for one in noted["services"]), *((self._restarted, one) for one in noted["restart"])
            ]:  # fmt: skip
                if failed and not work.leaving:
                    break
                try:
                    told.append(await bring_back(api, one["name"], one, work))
                except StepFailed as error:
                    failed.append(error)
        if failed:
            raise StepFailed(" ".join(error.message for error in failed), {**failed[0].facts, "started": told})
        return "; ".join(told)

    async def _out_of_maintenance(self, api: Api, name: str, one: Json, work: Work) -> str:
        """The variable as it was, to the letter; then a deployment that has it."""
        if not one["active"]:
            return f"{name} did not run before"
        wanted = one["variable"] if one["had"] else None
        there = await api.variable(one["id"], self.settings.variable)
        active = _active(_by_id(await api.services(), one["id"], name))
        if (there == wanted and set(active) == set(one["active"])) or await self._done(api, name, one, active, wanted):
            return f"{name} runs as before"
        await work.progress(f"bringing {name} back")
        before = await self._settled(api, name, one, frozenset(), work, failing=False)
        if there != wanted:
            await api.set_variable(one["id"], self.settings.variable, wanted)
        now, ours = await self._settled(api, name, one, frozenset(), work, failing=False), ""
        if not now or now[0] in before:  # else taking the variable away has deployed it already
            ours = await self._redeploy(api, name, now[0] if now else one["active"][0])
            before += now
        now = await self._settled(api, name, one, frozenset(before), work, ours=ours)
        self._made[name] = (wanted, now[0])
        return f"{name} runs" + (" (in maintenance, as before)" if wanted == self.settings.value else "")

    async def _restarted(self, api: Api, name: str, one: Json, work: Work) -> str:
        """Once: what has other instances than were written down was restarted already."""
        now = _by_id(await api.services(), one["id"], name)
        active = _active(now)
        if not active:
            return f"{name} did not run, so it was not restarted"
        if set(_instances(now)) == set(one["instances"]):
            await work.progress(f"restarting {name}")
            await api.restart(active[0])
            await self._settled(api, name, one, frozenset(), work)
        return f"{name} restarted"

    def by_hand(self, noted: Noted) -> tuple[str, ...]:
        environment, lines = shlex.quote(self.settings.environment), []
        for one in noted["services"]:
            at = f"--service {shlex.quote(one['name'])}"
            if one["active"]:
                word, given = ("set", f"{self.settings.variable}={one['variable']}") if one["had"] else ("delete", self.settings.variable)
                lines += [f"railway variable {word} {shlex.quote(given)} {at} --environment {environment}", f"railway redeploy {at} --yes"]
        return (*lines, *(f"railway restart --service {shlex.quote(one['name'])} --yes" for one in noted["restart"]))

    # ------------------------------------------------------------------ logs, and the way back

    async def logs(self, lines: int) -> Mapping[str, tuple[str, ...]]:
        told: dict[str, tuple[str, ...]] = {}
        async with self._railway.open() as api:
            there = await api.services()
            for name in self._named:
                active = _active(_there(there, name))
                try:
                    told[name] = tuple(line[:_LINE] for line in await api.logs(active[0], lines)) if active else ("it does not run, so no log",)
                except StepFailed as error:
                    told[name] = (f"could not be read: {error.message}",)
        return told

    async def former(self) -> Mapping[str, Any]:
        """The newest deployment before the present one whose code is another, where Railway still has it."""
        found: dict[str, Any] = {}
        async with self._railway.open() as api:
            there = await api.services()
            for name in self.settings.services:
                one = _there(there, name)
                now = next(iter(one["activeDeployments"]), None)
                if now is None or not (code := _code(now)):
                    continue
                older = _after(await api.deployments(one["serviceId"]), now["id"])
                was = next((each for each in older if each.get("canRedeploy") and _code(each) not in ("", code)), None)
                if was is not None:
                    found[name] = {"id": one["serviceId"], "deployment": was["id"], "says": f"{_code(was)} (now {code})"}
        return found

    async def roll_back(self, former: Noted, work: Work) -> str:
        """In maintenance still: the variable stands, so what is deployed now has it too."""
        told = []
        async with self._railway.open() as api:
            for name, one in former.items():
                if await api.variable(one["id"], self.settings.variable) != self.settings.value:
                    raise StepFailed(
                        f"{name} is not in maintenance any more, so it is not rolled back: it would begin to write. Look who ended that."
                    )
                before = await self._settled(api, name, one, frozenset(), work, failing=False)
                ours = await self._redeploy(api, name, one["deployment"])
                await self._settled(api, name, one, frozenset(before), work, ours=ours)
                told.append(f"{name} is back at {one['says']}")
        return "; ".join(told)


def _find(there: Sequence[Json], name: str) -> Json | None:
    return next((one for one in there if name in (one["serviceId"], one["serviceName"])), None)


def _there(there: Sequence[Json], name: str) -> Json:
    found = _find(there, name)
    if found is None:
        raise Refusal("railway_missing", f"There is no service {name} any more.", "Mend platform in backout.yml.")
    return found


def _by_id(there: Sequence[Json], identity: str, name: str) -> Json:
    found = _find(there, identity)
    if found is None:
        raise StepFailed(f"{name} is gone: somebody deleted it since it was looked at. Create it again.")
    return found


def _active(one: Json) -> list[str]:
    return [str(each["id"]) for each in one["activeDeployments"]]


def _instances(one: Json) -> list[str]:
    return [str(each["id"]) for deployment in one["activeDeployments"] for each in deployment.get("instances") or ()]


def _code(deployment: Json) -> str:
    """What code it is of, for people; '' where Railway does not say."""
    meta = deployment.get("meta") or {}
    commit, image = str(meta.get("commitHash") or "")[:12], str(meta.get("image") or "")[:120]
    message = " ".join(str(meta.get("commitMessage") or "").split())[:80]
    return f"{commit} {message}".strip() if commit else image


def _after(found: Sequence[Json], identity: str) -> Sequence[Json]:
    """What is older than that one; all, where it isn't among them."""
    places = [place for place, one in enumerate(found) if one["id"] == identity]
    return found[places[0] + 1 :] if places else found
