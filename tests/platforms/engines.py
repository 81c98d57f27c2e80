"""Real engines, Docker's and Podman's, each in a folder of its own, on a socket; and images made of this machine's own files, without a registry."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import signal
import socket
import subprocess  # noqa: TID251  tests start the engines as a shell would
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiodocker
import aiohttp

IMAGE = "localhost/shop"
#: what runs in the containers comes from this machine: its libraries, the Python that runs the tests, and what is installed beside it
MOUNTS = sorted({"/usr", sys.base_prefix, sys.prefix, str(Path(sysconfig.get_paths()["purelib"])), str(Path(__file__).parents[2])})

# Without CAP_SYS_RESOURCE the engines' own limits can't be set; runc, since crun wants another layout of cgroups than many machines have.
_PODMAN = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
network_config_dir = "{home}/networks"
"""
_STORAGE = """
[storage]
driver = "vfs"
graphroot = "{home}/graph"
runroot = "{home}/run"
"""


class Engine:
    """`start` and `stop` as often as a story needs; containers stay."""

    def __init__(self, kind: str, home: Path) -> None:
        self.kind, self.home = kind, home
        self.socket = home / "engine.sock"
        self.host = f"unix://{self.socket}"
        self.api_version = "auto"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), env={**os.environ, **self._environment()}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,  # noqa: TID251  as above
                start_new_session=True,
            )  # fmt: skip
        until = time.monotonic() + 120
        while not self._answers():
            assert self._process.poll() is None, f"{self.kind} ended:\n{(self.home / 'log').read_text()[-3000:]}"
            assert time.monotonic() < until, f"{self.kind} does not answer:\n{(self.home / 'log').read_text()[-3000:]}"
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGTERM) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self.socket.unlink(missing_ok=True)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as one, suppress(OSError):
            one.settimeout(5)
            one.connect(str(self.socket))
            one.sendall(b"GET /_ping HTTP/1.0\r\nHost: engine\r\n\r\n")
            return b" 200 " in one.recv(100)
        return False

    def _environment(self) -> dict[str, str]:
        if self.kind == "docker":
            return {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}  # noqa: TID251  as above
        return {"CONTAINERS_CONF": str(self.home / "containers.conf"), "CONTAINERS_STORAGE_CONF": str(self.home / "storage.conf")}

    def _command(self) -> list[str]:
        if self.kind == "docker":
            home = self.home
            return [
                "dockerd", "--data-root", f"{home}/data", "--exec-root", f"{home}/exec", "-p", f"{home}/pid", "-H", self.host, "--iptables=false",
                "--ip-forward=false", "--ip-masq=false", "--bridge=none", "--storage-driver=vfs", "--default-ulimit", "nofile=4096:4096",
            ]  # fmt: skip
        (self.home / "containers.conf").write_text(_PODMAN.format(home=self.home))
        (self.home / "storage.conf").write_text(_STORAGE.format(home=self.home))
        return ["podman", "system", "service", "--time=0", self.host]


@contextmanager
def running(kind: str) -> Iterator[Engine]:
    home = Path(tempfile.mkdtemp(prefix=f"backout-{kind}-"))
    engine = Engine(kind, home)
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()
        _unmounted(home)
        shutil.rmtree(home, ignore_errors=True)


def _unmounted(home: Path) -> None:
    """What an engine leaves mounted below its folder."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for mount in sorted((one for one in mounts if one.startswith(str(home))), reverse=True):
        with suppress(subprocess.CalledProcessError, subprocess.TimeoutExpired):
            subprocess.run(["umount", "-l", mount], check=True, capture_output=True, timeout=30)


def rootfs() -> bytes:
    """A tar: busybox, folders to mount on, links into /usr as Debian has them."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:

        def folder(name: str, mode: int = 0o755) -> None:
            one = tarfile.TarInfo(name)
            one.type, one.mode = tarfile.DIRTYPE, mode
            tar.addfile(one)

        def link(name: str, to: str) -> None:
            one = tarfile.TarInfo(name)
            one.type, one.linkname = tarfile.SYMTYPE, to
            tar.addfile(one)

        def text(name: str, content: str) -> None:
            one = tarfile.TarInfo(name)
            one.size = len(content)
            tar.addfile(one, io.BytesIO(content.encode()))

        for name in ("bin", "etc", "usr", "app", "proc", "root"):
            folder(name)
        folder("tmp", 0o1777)
        for name in ("lib", "lib64"):
            link(name, f"usr/{name}")
        tar.add(shutil.which("busybox") or "/bin/busybox", "bin/busybox")
        for name in ("sh", "sleep", "cat", "echo", "true", "test", "touch"):
            link(f"bin/{name}", "busybox")
        text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/app:/bin/sh\n")
        text("etc/group", "root:x:0:\napp:x:1000:\n")
    return made.getvalue()


async def load(engine: Engine) -> None:
    """`localhost/shop:1.4` and `:1.5`: the same files, another version in their environment."""
    docker = aiodocker.Docker(url=engine.host, timeout=aiohttp.ClientTimeout(total=120))
    try:
        for version in ("1.4", "1.5"):
            params = {"fromSrc": "-", "repo": f"{IMAGE}:{version}", "changes": f"ENV VERSION={version}"}
            answer: Any
            tar = {"Content-Type": "application/x-tar"}
            async with docker._query("images/create", "POST", params=params, data=io.BytesIO(rootfs()), headers=tar) as answer:
                await answer.read()
            await docker.images.inspect(f"{IMAGE}:{version}")
        engine.api_version = docker.api_version  # Podman needs a second to tell it, so it is asked once
    finally:
        await docker.close()


async def runs_a_container(kind: str) -> None:
    """Raises whatever stands in the way on this machine."""
    with running(kind) as engine:
        await load(engine)
        async with aiodocker.Docker(url=engine.host) as docker:
            made = await docker.containers.run({"Image": f"{IMAGE}:1.4", "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}}, name="probe")
            assert (await made.wait(timeout=60))["StatusCode"] == 0


if __name__ == "__main__":
    for each in ("docker", "podman"):
        asyncio.run(runs_a_container(each))
