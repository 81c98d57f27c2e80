"""Put before the helper's sources: makes a package of them in memory, in the application's own Python, and runs it.

A project's own json.py, or a folder ./alembic with an __init__.py, must not be taken for the library: while we import, its folder is not on the path.
"""

import os
import sys
import types

HERE = os.getcwd()
OWN_PATH = [entry for entry in sys.path if entry in ("", HERE)]
sys.path = [entry for entry in sys.path if entry not in ("", HERE)]


def load(sources):  # type: ignore[no-untyped-def]  # Python 3.7 runs this before anything else
    package = types.ModuleType("_backout")
    package.__path__ = []
    package.__dict__.update(HERE=HERE, OWN_PATH=OWN_PATH)
    sys.modules["_backout"] = package
    for name, source in sources:
        module = types.ModuleType("_backout." + name)
        module.__package__ = "_backout"
        sys.modules["_backout." + name] = module
        exec(compile(source, "<backout " + name + ">", "exec"), module.__dict__)  # noqa: S102  our own text, sent with this one
        setattr(package, name, module)
    sys.modules["_backout.run"].main()
