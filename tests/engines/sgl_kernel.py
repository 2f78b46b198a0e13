"""Stand-in for SGLang's kernel package, which has no CPU wheel. `install.py` copies it into SGLang's virtual environment.

SGLang imports kernel names at start, on a CPU too, but runs a Llama model on plain torch paths. So every name exists here and
every kernel that is really called raises.
"""

from collections.abc import Callable
from typing import NoReturn

__version__ = "0.0.0"


def __getattr__(name: str) -> Callable[..., NoReturn]:
    if name.startswith("__"):
        raise AttributeError(name)

    def kernel(*_args: object, **_named: object) -> NoReturn:
        raise RuntimeError(f"sgl_kernel.{name} was called: there is no CPU build of it")

    kernel.__name__ = name
    return kernel
