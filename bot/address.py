"""A database's address: one server, one user, one database. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from bot.errors import ConfigError
from bot.place import Connect

_SSLMODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")


def parse_url(url: str) -> Connect:
    """A libpq URL of one server: postgresql://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=MODE, special characters %-escaped.

    Raises ConfigError, whose sentence never shows the URL.
    """
    try:
        parts = urlsplit(url.strip())
        port, options = parts.port or 5432, dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        if "," in url:
            raise ConfigError(_several_hosts()) from None
        raise ConfigError(f"The connection URL can't be read. {_WANTED}") from None
    _refuse_shape(parts)
    _refuse_options(options)
    return Connect(
        host=unquote(parts.hostname or ""),
        port=port,
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=unquote(parts.path[1:]),
        sslmode=options.get("sslmode"),
    )


_WANTED = "Write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with special characters in the password %-escaped (# is %23, @ is %40)."


def _several_hosts() -> str:
    return (
        "The connection URL names several servers. Write the one address that always leads to the primary: Backout must know which server it acts on."
    )


def _refuse_shape(parts: SplitResult) -> None:
    host = unquote(parts.hostname or "")
    if parts.scheme not in {"postgresql", "postgres"}:
        raise ConfigError(f"The connection URL must begin with postgresql://, without a driver's name. {_WANTED}")
    if "," in parts.netloc.rpartition("@")[2]:
        raise ConfigError(_several_hosts())
    if not host or host.startswith(("/", "@")):
        raise ConfigError(f"The connection URL must name a host: sockets are not supported, write 127.0.0.1 for this machine. {_WANTED}")
    if not parts.username or len(parts.path) < 2 or "/" in parts.path[1:] or parts.fragment:
        raise ConfigError(f"The connection URL must name a user and a database. {_WANTED}")


def _refuse_options(options: Mapping[str, str]) -> None:
    if "host" in options:
        raise ConfigError(f"The connection URL has ?host=: sockets are not supported, write the host before the port. {_WANTED}")
    if unknown := sorted(set(options) - {"sslmode"}):
        raise ConfigError(
            f"The connection URL has ?{unknown[0]}=, which is not used here. Leave it out: only sslmode may follow the database's name."
        )
    if options.get("sslmode", "prefer") not in _SSLMODES:
        raise ConfigError(f"The connection URL has an unknown sslmode. Write one of {', '.join(_SSLMODES)}.")
