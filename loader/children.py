"""The environment of children started through multiprocessing, the only way to tell them anything."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

SAFE_PATH = {"PYTHONSAFEPATH": "1"}  # else `python -c` imports what lies in the folder that the command is started in


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Within, `variables` are set; afterwards they are what they were."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
