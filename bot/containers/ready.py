"""Is a container that was started there to stay? Running, and healthy where it has a health check."""

from __future__ import annotations

import asyncio

from bot.containers.api import Engine, Json
from bot.errors import StepFailed
from bot.process import redact

_PAUSE = 0.2
_STAYS = 1.0  # seconds that one without a health check has to run: what fails, fails at once
_LINES = 5


async def until_ready(engine: Engine, identity: str, name: str, restarts: int, within: float) -> str:
    """How it is, in words. `restarts`: how often the engine had restarted it before. Raises StepFailed with its last lines."""
    loop = asyncio.get_running_loop()
    until, since, seen = loop.time() + within, loop.time(), restarts
    while True:
        found = await engine.found(identity)
        if found is None:
            raise StepFailed(f"{name} was started and is gone: somebody removed it.")
        state, count = found["State"], found.get("RestartCount", 0)
        if count != seen or state.get("Restarting"):
            since, seen = loop.time(), count
        health = (state.get("Health") or {}).get("Status") or "none"
        if _runs(state) and health == "healthy":
            return "runs and is healthy"
        if _runs(state) and health == "none" and loop.time() - since >= _STAYS:
            return "runs"
        if not _runs(state) and not state.get("Restarting") and state.get("Status") in ("exited", "dead", "stopped"):
            raise StepFailed(f"{name} was started and ended with {state.get('ExitCode')}.{await _last(engine, identity)}")
        if loop.time() >= until:
            again = f", restarted {count - restarts} times" if count > restarts else ""
            raise StepFailed(f"{name} is not ready after {within:g} s: {words(state)}{again}.{_checked(state)}{await _last(engine, identity)}")
        await asyncio.sleep(_PAUSE)


def words(state: Json) -> str:
    """Of a container's State: 'running, unhealthy'."""
    health = (state.get("Health") or {}).get("Status")
    status = state.get("Status") or ("running" if state.get("Running") else "stopped")
    return f"{status}, {health}" if health and health != "none" else str(status)


def _runs(state: Json) -> bool:
    return bool(state.get("Running")) and not state.get("Restarting")


def _checked(state: Json) -> str:
    """What its health check said last."""
    log = (state.get("Health") or {}).get("Log") or []
    said = " ".join(str(log[-1].get("Output", "")).split())[:200] if log else ""
    return f" Its health check says: {redact(said)}" if said else ""


async def _last(engine: Engine, identity: str) -> str:
    try:
        lines = [redact(line.strip()) for line in await engine.lines(identity, _LINES)]
    except StepFailed:
        return ""  # what it said is a nicety; the failure itself is told
    told = " / ".join(filter(None, lines))[-400:]
    return f" It said: {told}" if told else ""
