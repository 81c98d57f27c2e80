"""An S3 server of another make: moto's, as a process of its own. It knows conditions of puts; it takes any key."""

from __future__ import annotations

import secrets
import socket
import subprocess  # noqa: TID251  a server of others, shared by tests
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from bot.stores import STORES
from bot.stores.s3 import S3Store


@dataclass
class Bucket:
    """One bucket, looked at with the vendor's own client."""

    endpoint: str
    name: str
    access_key: str = "S3RVER"
    secret_key: str = "S3RVER"

    @property
    def settings(self) -> dict[str, str]:
        keys = {"access_key": self.access_key, "secret_key": self.secret_key}
        return {"bucket": self.name, "prefix": "backout/shop", "endpoint": self.endpoint, **keys}

    def store(self, **other: Any) -> S3Store:
        store_class = STORES["s3"]
        made = store_class.of(store_class.Settings(**{**self.settings, **other}), Path())
        assert isinstance(made, S3Store)
        return made

    @property
    def client(self) -> Any:
        return boto3.client(
            "s3", endpoint_url=self.endpoint, aws_access_key_id=self.access_key, aws_secret_access_key=self.secret_key, region_name="us-east-1"
        )

    def keys(self) -> list[str]:
        return sorted(one["Key"] for one in self.client.list_objects_v2(Bucket=self.name).get("Contents", ()))

    def unfinished(self) -> list[str]:
        return [one["Key"] for one in self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", ())]


@contextmanager
def moto() -> Iterator[Callable[[], Bucket]]:
    """Makes buckets."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    argv = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _await(port)
            yield lambda: _made(Bucket(f"http://127.0.0.1:{port}", f"shop-{secrets.token_hex(4)}"))
        finally:
            server.kill()


def _await(port: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise AssertionError("the S3 server does not listen")


def _made(bucket: Bucket) -> Bucket:
    bucket.client.create_bucket(Bucket=bucket.name)
    return bucket


def refuse_after(bucket: Bucket, requests: float) -> None:
    """moto asks for a key that it knows after so many requests; it knows none."""
    headers = {"Content-Type": "application/octet-stream"}
    asked = urllib.request.Request(f"{bucket.endpoint}/moto-api/reset-auth", data=str(requests).encode(), headers=headers, method="POST")
    urllib.request.urlopen(asked).close()
