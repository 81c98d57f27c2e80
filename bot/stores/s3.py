"""Copies in a bucket: S3, and what speaks like it (MinIO). Streamed in parts; an upload that does not come to its end is aborted.

obstore's blocking calls run in threads: its asynchronous ones can abort a process that is about to end.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, PreconditionError, UnauthenticatedError
from obstore.store import S3Store as Bucket
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from bot.errors import Refusal, StepFailed
from bot.evidence import Stored
from bot.stores.names import is_listed, readable, writable

_PART = 10 << 20  # bytes; S3 takes 10,000 of them: 100 GB
_AT_ONCE = 2  # parts under way
_BLOCK = 1 << 20  # bytes that are handed on
_READ = 6 << 20  # bytes of one request
_PAGE = 1000  # entries
_RETRY = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=5), "base": 2},
}
_CODE = re.compile(r"<Code>(\w+)</Code>")
T = TypeVar("T")


class S3Settings(BaseModel):
    """What `backups.store` may say."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    kind: Literal["s3"] = "s3"
    bucket: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", description="The bucket's name; it is there already.")
    prefix: Annotated[str, Field(pattern=r"^$|^[\w.-]+(/[\w.-]+)*/?$")] = Field("", description="Where in the bucket, such as backout/shop.")
    endpoint: str | None = Field(None, pattern=r"^https?://[^/\s@]+/?$", description="The server, such as https://minio.example.com. Default: AWS.")
    region: str = Field("us-east-1", pattern=r"^[a-z0-9-]+$", description="The bucket's region.")
    access_key: SecretStr = Field(min_length=1, description="Whose rights Backout has there. Write a variable, such as ${S3_ACCESS_KEY}.")
    secret_key: SecretStr = Field(min_length=1, description="The key's secret. Write a variable, such as ${S3_SECRET_KEY}.")


class S3Store:
    """Implements keeping.Store."""

    kind = "s3"
    Settings = S3Settings

    @classmethod
    def of(cls, settings: S3Settings, base: Path) -> S3Store:
        return cls(settings)

    def __init__(self, settings: S3Settings) -> None:
        self._settings = settings
        self._prefix = settings.prefix.strip("/")
        self._bucket = Bucket(
            settings.bucket, prefix=self._prefix or None, endpoint=settings.endpoint, region=settings.region,
            access_key_id=settings.access_key.get_secret_value(), secret_access_key=settings.secret_key.get_secret_value(),
            virtual_hosted_style_request=settings.endpoint is None,
            client_options={"allow_http": (settings.endpoint or "").startswith("http://"), "connect_timeout": "10s", "timeout": "5m"},
            retry_config=_RETRY,  # type: ignore[arg-type]  # a dict of these very keys, which mypy takes for a dict of objects
        )  # fmt: skip

    def where(self, name: str) -> str:
        return "s3://" + "/".join(filter(None, (self._settings.bucket, self._prefix, readable(name))))

    def local(self, name: str) -> None:
        """Nothing of it is on this machine."""

    async def ready(self) -> None:
        """Proven by writing, reading, listing and removing. Raises Refusal(store_unusable)."""
        probe = f".probe-{secrets.token_hex(4)}"
        try:
            await self._call(lambda: obstore.put(self._bucket, probe, b"written by Backout, and removed again"))
            await self._call(lambda: obstore.get(self._bucket, probe).bytes())
            await self._call(lambda: next(iter(obstore.list(self._bucket, chunk_size=1)), None))
            await self._call(lambda: obstore.delete(self._bucket, probe))
        except StepFailed as error:
            raise Refusal(
                "store_unusable", f"Backups can't be written to {self._named()}: {error.message}",
                "Look at the bucket, the endpoint and the key's rights in backout.yml: it has to write, read, list and remove there.",
            ) from error  # fmt: skip

    @asynccontextmanager
    async def write(self, name: str, replaces: Stored | None = None) -> AsyncIterator[_Upload]:
        """Raises Refusal for a name that can't be one, StepFailed."""
        key = writable(name)
        upload = _Upload(self._bucket, key, self.where(name), replaces, self._said)
        with self._said():
            await asyncio.to_thread(upload.prove_free)
        try:
            yield upload
            with self._said():
                await upload.end()
        except BaseException:
            await upload.abandon()
            raise

    async def read(self, name: str, start: int = 0, length: int | None = None) -> AsyncIterator[bytes]:
        """A request for each part, all of the same version: each has its own deadline, and is tried again by itself."""
        key, there = readable(name), await self.stat(name)
        if there is None:
            raise StepFailed(f"{self.where(name)} is gone.")
        end = there.size if length is None else min(there.size, start + length)
        while start < end:
            block = await self._call(partial(_part, self._bucket, key, start, min(end, start + _READ), there.version))
            if not block:
                raise StepFailed(f"{self.where(name)} ends at byte {start} of {end}. Nothing that was read from it counts.")
            start += len(block)
            yield block

    async def stat(self, name: str) -> Stored | None:
        key = readable(name)
        found = await self._call(lambda: _head(self._bucket, key))
        return None if found is None else _stored(found)

    async def list(self) -> AsyncIterator[Stored]:
        pages = iter(await self._call(lambda: obstore.list(self._bucket, chunk_size=_PAGE)))
        while page := await self._call(lambda: next(pages, None)):
            for one in page:
                if is_listed(one["path"]):
                    yield _stored(one)

    async def checksum(self, name: str) -> str | None:
        if await self.stat(name) is None:
            return None
        found = hashlib.sha256()
        async for block in self.read(name):
            await asyncio.to_thread(found.update, block)
        return found.hexdigest()

    async def remove(self, name: str) -> None:
        """Raises StepFailed."""
        key = writable(name)
        await self._call(lambda: obstore.delete(self._bucket, key))

    async def _call(self, work: Callable[[], T]) -> T:
        with self._said():
            return await asyncio.to_thread(work)

    def _named(self) -> str:
        return f"s3://{self._settings.bucket}" + (f" on {self._settings.endpoint}" if self._settings.endpoint else "")

    @contextmanager
    def _said(self) -> Iterator[None]:
        """What the server or the network says, in our words; never a key."""
        try:
            yield
        except (BaseError, FileNotFoundError) as error:
            raise StepFailed(_sentence(error, self._named())) from None  # its own text quotes the whole answer


class _Upload:
    """Implements keeping.Writing. Small: one request. Large: parts, sent by one thread, and complete only when all of them are there."""

    file = None

    def __init__(self, bucket: Bucket, key: str, where: str, replaces: Stored | None, said: Callable[[], AbstractContextManager[None]]) -> None:
        self._bucket, self._key, self._where, self._replaces = bucket, key, where, replaces
        self._said = said
        self._hash = hashlib.sha256()
        self._waiting = bytearray()
        self._blocks: asyncio.Queue[bytes | None] = asyncio.Queue(1)
        self._sending: asyncio.Task[Any] | None = None
        self._loop = asyncio.get_running_loop()
        self._whole = False
        self.sha256 = ""
        self.size = 0

    async def write(self, data: bytes) -> None:
        self._waiting += data
        self.size += len(data)
        while len(self._waiting) >= (_PART if self._sending is None else _BLOCK):
            await self._hand_on()

    async def settle(self) -> None:
        """No program writes here by itself."""

    async def _hand_on(self) -> None:
        """obstore makes parts of the blocks: here none of them is kept."""
        waiting, self._waiting = self._waiting, bytearray()
        for start in range(0, len(waiting), _BLOCK):
            with self._said():
                await self._push(bytes(waiting[start : start + _BLOCK]))

    async def _push(self, block: bytes | None) -> None:
        if self._sending is None:
            self._sending = asyncio.create_task(asyncio.to_thread(self._send))
        putting = asyncio.create_task(self._blocks.put(block))
        try:
            await asyncio.wait({putting, self._sending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            putting.cancel()
        if self._sending.done():
            self._sending.result()

    def _send(self) -> None:
        obstore.put(self._bucket, self._key, self._all(), use_multipart=True, chunk_size=_PART, max_concurrency=_AT_ONCE)

    def _all(self) -> Iterator[bytes]:
        """In the sending thread, inside of obstore: it may not call obstore itself. What is raised here aborts the upload."""
        while (block := asyncio.run_coroutine_threadsafe(self._blocks.get(), self._loop).result()) is not None:
            self._hash.update(block)
            yield block
        if not self._whole:
            raise _AbandonedError

    def prove_free(self) -> None:
        """Some servers ignore the condition of a put: so it is looked at first."""
        there = _head(self._bucket, self._key)
        if there is not None and (self._replaces is None or there["e_tag"] != self._replaces.version):
            raise StepFailed(f"{self._where} is there already, and Backout overwrites no backup. Move it away, then try again.")

    async def end(self) -> None:
        rest, self._whole = bytes(self._waiting), True
        if self._sending is None:
            self._hash.update(rest)
            await asyncio.to_thread(self._put, rest)
        else:
            if rest:
                await self._push(rest)
            await asyncio.to_thread(self.prove_free)  # at the last moment: S3 has no condition for the end of an upload in parts
            await self._push(None)
            await self._sending
        self.sha256 = self._hash.hexdigest()
        there = await asyncio.to_thread(_head, self._bucket, self._key)
        if there is None or there["size"] != self.size:
            raise StepFailed(f"{self._where} has {there['size'] if there else 'no'} bytes after {self.size} were sent. It does not count.")

    def _put(self, data: bytes) -> None:
        self.prove_free()
        mode: Any = "create" if self._replaces is None else {"e_tag": self._replaces.version}
        try:
            obstore.put(self._bucket, self._key, data, mode=mode)
        except (AlreadyExistsError, PreconditionError):
            raise StepFailed(f"{self._where} was written by somebody else in the same moment. Nothing was overwritten.") from None

    async def abandon(self) -> None:
        """The thread gets its end, aborts the upload and is seen to end."""
        if self._sending is None:
            return
        self._whole = False
        while not self._blocks.empty():
            self._blocks.get_nowait()
        self._blocks.put_nowait(None)
        await asyncio.wait({self._sending})
        with suppress(_AbandonedError, BaseError, FileNotFoundError, StepFailed):  # why it is abandoned is under way already
            self._sending.result()


class _AbandonedError(Exception):
    """Raised in the sending thread alone, so that the upload is aborted."""


def _head(bucket: Bucket, key: str) -> Any:
    """None when it isn't there. A HEAD has no body: that the bucket is gone shows in the next request."""
    try:
        return obstore.head(bucket, key)
    except FileNotFoundError:
        return None


def _part(bucket: Bucket, key: str, start: int, end: int, version: str) -> bytes:
    return bytes(obstore.get(bucket, key, options={"range": (start, end), "if_match": version}).bytes())


def _stored(found: Any) -> Stored:
    return Stored(name=found["path"], size=found["size"], made=found["last_modified"], version=found["e_tag"] or "")


def _sentence(error: Exception, where: str) -> str:
    text = str(error)
    code = found[1] if (found := _CODE.search(text)) else ""
    if code == "NoSuchBucket":
        return f"the bucket of {where} is not there."
    if code in ("ExpiredToken", "TokenRefreshRequired"):
        return f"the key for {where} has expired. Give Backout a new one, then try again."
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or code in ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"):
        return f"{where} refuses Backout's key{f' ({code})' if code else ''}: it is wrong, has expired, or has no right to do this."
    if isinstance(error, FileNotFoundError):
        return f"what was asked for is not there any more on {where}."
    if isinstance(error, PreconditionError):
        return f"a file on {where} was changed while it was read. Nothing that was read from it counts."
    if "error sending request" in text or "HTTP error" in text:
        return f"{where} can't be reached, or the connection was lost."
    told = text.split("\n", 1)[0]
    return f"{where} answers: {code or told[:300]}."
