"""A container made like another: what a person said when it was created, without what its image said.

The engine shows both merged (`docker inspect`). What came from the image is taken out, so that another image brings its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bot.containers.api import Engine, Json
from bot.errors import StepFailed

_OF_THE_IMAGE = ("Cmd", "Entrypoint", "WorkingDir", "User", "StopSignal", "Healthcheck", "Volumes", "ExposedPorts", "Shell", "OnBuild")
_KEPT = ("Tty", "OpenStdin", "StdinOnce", "StopTimeout", "Domainname", "Hostname")
_HOST_KEPT = (
    "Binds", "Mounts", "Tmpfs", "NetworkMode", "PortBindings", "ExtraHosts", "Dns", "DnsOptions",
    "DnsSearch", "CapAdd", "CapDrop", "GroupAdd", "Ulimits",
    "SecurityOpt", "Privileged", "ReadonlyRootfs", "ShmSize", "Memory", "MemorySwap", "NanoCpus", "CpuShares", "CpuQuota", "CpuPeriod", "CpusetCpus",
    "PidsLimit", "Init", "IpcMode", "PidMode", "UsernsMode", "Devices", "Sysctls", "LogConfig", "OomScoreAdj", "Runtime", "VolumesFrom", "Links",
)  # fmt: skip
_ENDPOINT_KEPT = ("Aliases", "IPAMConfig", "Links", "DriverOpts")
_NOT_JOINED = ("host", "none")  # and container:NAME: there is no network that it could be connected to


async def again(engine: Engine, old: Json, image: str) -> tuple[dict[str, Any], dict[str, Json]]:
    """What creates `old` again on another image, and the networks to connect it to afterwards."""
    config = _said_by_people(old, await _image_config(engine, old))
    host = {key: value for key in _HOST_KEPT if (value := old["HostConfig"].get(key)) not in (None, "", [], {}, 0)}
    _spelled(host)
    _with_volumes(host, old)
    mode = _mode(old)
    host["NetworkMode"] = mode or "default"
    if mode.startswith("container:"):
        config = {key: value for key, value in config.items() if key not in ("Hostname", "Domainname", "ExposedPorts")}
    first, others = _endpoints(old, mode)
    if config.get("Hostname") == old["Id"][:12]:
        del config["Hostname"]
    policy = old["HostConfig"].get("RestartPolicy") or {"Name": "no"}
    made = {**config, "Image": image, "HostConfig": {**host, "RestartPolicy": policy}}
    if first:
        made["NetworkingConfig"] = {"EndpointsConfig": first}
    return made, others


async def beside(engine: Engine, old: Json, image: str | None, *, network: str | None, copy: bool) -> tuple[dict[str, Any], dict[str, Json]]:
    """What creates a one-off beside `old`: its network, environment, mounts and user; none of its labels, ports and names.

    `copy`: for a rehearsal. It gets nothing of the environment but the image's, and may not write to what is mounted.
    """
    people = _said_by_people(old, await _image_config(engine, old))
    ports = ("PortBindings", "Links", "LogConfig")
    host = {key: value for key in _HOST_KEPT if key not in ports and (value := old["HostConfig"].get(key)) not in (None, "", [], {}, 0)}
    _spelled(host)
    _with_volumes(host, old)
    if copy:
        _read_only(host)
    others: dict[str, Json] = {}
    mode = network or _mode(old) or "default"
    made: dict[str, Any] = {"Image": image or old["Image"], "Env": [] if copy else list(people.get("Env", ()))}
    if "User" in people:
        made["User"] = people["User"]
    if network is None:
        _, every = _endpoints(old, "")
        others = {name: {} for name in every if name != mode}
    made["HostConfig"] = {**host, "NetworkMode": mode, "RestartPolicy": {"Name": "no"}}
    return made, others


async def create(engine: Engine, name: str, made: Json, others: Mapping[str, Json]) -> str:
    """Its id; on every network, and not started. What can't be finished is removed again."""
    identity = await engine.create(name, made)
    try:
        for network, endpoint in others.items():
            await engine.connect(network, identity, endpoint)
    except BaseException:
        await engine.remove(identity, force=True)
        raise
    return identity


async def _image_config(engine: Engine, old: Json) -> Json:
    """What its image said. Raises StepFailed when the image is gone: then nobody can tell who said what."""
    image = await engine.image(old["Image"])
    if image is None:
        raise StepFailed(
            f"The image that {old['Name'].removeprefix('/')} was made from is gone, so nothing like it can be made. "
            f"Pull {old['Config']['Image']} again."
        )
    found: Json = image.get("Config") or {}
    return found


def _said_by_people(old: Json, image: Json) -> dict[str, Any]:
    config = old["Config"]
    said = {key: config[key] for key in _OF_THE_IMAGE if config.get(key) and config[key] != image.get(key)}
    if "Entrypoint" in said and config.get("Cmd"):
        said["Cmd"] = config["Cmd"]  # an entrypoint of one's own takes nothing from the image's command
    said |= {key: config[key] for key in _KEPT if config.get(key)}
    said["Env"] = _without(config.get("Env"), image.get("Env"))
    said["Labels"] = {key: value for key, value in (config.get("Labels") or {}).items() if (image.get("Labels") or {}).get(key) != value}
    return said


def _without(mine: Sequence[str] | None, theirs: Sequence[str] | None) -> list[str]:
    return [one for one in mine or () if one not in (theirs or ())]


def _spelled(host: dict[str, Any]) -> None:
    """Podman shows a limit as RLIMIT_NOFILE, and takes only nofile."""
    if "Ulimits" in host:
        host["Ulimits"] = [{**one, "Name": str(one["Name"]).removeprefix("RLIMIT_").lower()} for one in host["Ulimits"]]


def _with_volumes(host: dict[str, Any], old: Json) -> None:
    """A volume that has no name of its own is named here: else the new container would begin with an empty one."""
    bound = {str(bind).split(":")[1] for bind in host.get("Binds", ()) if ":" in str(bind)} | {one.get("Target") for one in host.get("Mounts", ())}
    for mount in old.get("Mounts") or ():
        if mount.get("Type") == "volume" and mount.get("Name") and mount["Destination"] not in bound:
            host.setdefault("Binds", []).append(f"{mount['Name']}:{mount['Destination']}{'' if mount.get('RW', True) else ':ro'}")


def _read_only(host: dict[str, Any]) -> None:
    binds = [str(bind).split(":") for bind in host.get("Binds", ())]
    if binds:
        host["Binds"] = [":".join([*parts[:2], ",".join([*_options(parts), "ro"])]) for parts in binds]
    if "Mounts" in host:
        host["Mounts"] = [{**one, "ReadOnly": True} for one in host["Mounts"]]
    if "VolumesFrom" in host:
        host["VolumesFrom"] = [f"{str(one).split(':')[0]}:ro" for one in host["VolumesFrom"]]
    for power in ("Privileged", "Devices", "CapAdd"):
        host.pop(power, None)


def _options(parts: Sequence[str]) -> list[str]:
    given = parts[2].split(",") if len(parts) > 2 else []
    return [one for one in given if one not in ("rw", "ro")]


def _mode(old: Json) -> str:
    """Podman says bridge for any network of that kind: then its name is meant."""
    mode, joined = str(old["HostConfig"].get("NetworkMode") or ""), (old.get("NetworkSettings") or {}).get("Networks") or {}
    return next(iter(joined)) if joined and mode in ("", "default", "bridge") and "bridge" not in joined else mode


def _endpoints(old: Json, mode: str) -> tuple[dict[str, Json], dict[str, Json]]:
    """The network it is created on (engines before API 1.44 take one), and the others."""
    found: dict[str, Json] = {
        name: {key: value for key in _ENDPOINT_KEPT if (value := _endpoint(one, old).get(key))}
        for name, one in ((old.get("NetworkSettings") or {}).get("Networks") or {}).items()
        if name not in _NOT_JOINED
    }
    if mode in _NOT_JOINED or mode.startswith("container:"):
        return {}, {}
    first = {name: one for name, one in found.items() if name == mode}
    if mode in ("", "default", "bridge"):  # the default bridge knows no aliases
        first = {}
        found.pop("bridge", None)
    return first, {name: one for name, one in found.items() if name not in first}


def _endpoint(one: Json, old: Json) -> Json:
    """Without the alias that every container gets from its own id."""
    return {**one, "Aliases": [alias for alias in one.get("Aliases") or () if alias != old["Id"][:12]]}
