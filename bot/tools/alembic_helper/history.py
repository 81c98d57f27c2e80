"""The history, from the scripts alone, and what went wrong, in facts."""

from __future__ import annotations

import hashlib
import inspect
import os
import re
import textwrap
import traceback
import warnings
from typing import Any, Iterator  # noqa: UP035  collections.abc can't be subscripted in 3.7

from . import HERE
from .frames import DRIVER, emit, refuse

# ------------------------------------------------------------------ the history, from the scripts alone


def path(script: Any) -> str:
    return os.path.relpath(str(script.path))


def sha256(file: str) -> str:
    with open(file, "rb") as stream:
        return hashlib.sha256(stream.read()).hexdigest()


def several(value: Any) -> list[str]:
    return list(value) if isinstance(value, (tuple, list, set)) else [value] if value else []


def history(script: Any) -> None:
    """A frame for each revision, then one for the graph. Refuses a history that is broken, naming what is."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            revisions = list(script.walk_revisions("base", "heads"))
        except BaseException as error:  # noqa: BLE001  a script may raise anything while it is loaded
            broken(script, error)
    if any("more than once" in str(warning.message) for warning in warned):
        broken(script, None)
    for one in revisions:
        date = re.search(r"Create Date:\s*(.+)", one.longdoc or "")
        emit(
            "revision", revision=one.revision, down=several(one.down_revision), depends_on=several(one.dependencies), message=one.doc or "",
            date=date.group(1).strip() if date else None, path=path(one), sha256=sha256(one.path), source=source_of(one),
        )  # fmt: skip
    env = getattr(script, "env_py_location", None) or os.path.join(script.dir, "env.py")
    direct = [os.path.relpath(file) for file in [env] + [one.path for one in revisions] if DRIVER.search(text_of(file))]
    emit("graph", heads=list(script.get_heads()), bases=list(script.get_bases()), direct=direct[:20], env=text_of(env))


def broken(script: Any, error: BaseException | None) -> None:
    """Alembic says KeyError: '00ff' for a missing file, and only warns of a revision that is there twice."""
    files: dict[str, list[str]] = {}
    wanted: list[tuple[str, str]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for one in script._load_revisions():
                files.setdefault(one.revision, []).append(path(one))
                wanted += [(down, path(one)) for down in several(one.down_revision)]
        except BaseException as unloadable:  # noqa: BLE001  see above
            refuse("broken_history", problem="unloadable", **described(unloadable))
    for revision, places in files.items():
        if len(places) > 1:
            refuse("broken_history", problem="duplicate", revision=revision, files=places)
    for revision, place in wanted:
        if revision not in files:
            refuse("broken_history", problem="missing", revision=revision, files=[place])
    refuse("broken_history", problem="cycle", message=said(error) if error else "")


def source_of(script: Any) -> str | None:
    """The text of downgrade(); None when there is no such function, empty when its text can't be had."""
    function = getattr(script.module, "downgrade", None)
    try:
        return None if function is None else textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError, SyntaxError, IndexError):
        return ""


def text_of(file: str) -> str:
    with open(file, "rb") as stream:
        return stream.read().decode("utf-8", "replace")


# ------------------------------------------------------------------ what went wrong


def chain(error: BaseException) -> Iterator[BaseException]:
    seen: list[int] = []
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.append(id(following))
        yield following
        following = getattr(following, "orig", None) or following.__cause__ or following.__context__


def state_of(error: BaseException) -> str | None:
    for one in chain(error):
        state = getattr(one, "sqlstate", None) or getattr(one, "pgcode", None)
        if state:
            return str(state)
    return None


def said(error: BaseException) -> str:
    """The error's own words, without the statement and its parameters."""
    told = getattr(error, "orig", None) or error
    text = str(told).split("\n[SQL:")[0].split("\n[parameters:")[0]
    return re.sub(r"^<class '[^']+'>: ", "", text).strip()[:2000] or type(told).__name__


def described(error: BaseException) -> dict[str, Any]:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != "<string>"]
    places = [f"{short(frame.filename)}:{frame.lineno} {frame.name}" for frame in frames]
    if isinstance(error, SyntaxError) and error.filename:
        places.append(f"{short(error.filename)}:{error.lineno}")
    own = [place for place in places if not os.path.isabs(place) and place[0] != "<"]  # the project's, not a library's
    lost = any(getattr(one, "connection_invalidated", False) for one in chain(error))
    return {
        "type": type(getattr(error, "orig", None) or error).__name__, "message": said(error), "sqlstate": state_of(error), "lost": lost,
        "where": own[-1] if own else places[-1] if places else "", "trace": places[-6:],
    }  # fmt: skip


def short(file: str) -> str:
    return os.path.relpath(file) if file.startswith(HERE + os.sep) and "site-packages" not in file else file
