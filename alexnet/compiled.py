"""Functions of tensors that are compiled at their first call, and run as they are where that cannot be done."""

import types
import warnings
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException


class NotCompiledWarning(UserWarning):
    """Something runs slower than it could."""


class Compiled:
    """A function, compiled for any size of the tensors' first dim.

    what: is said, once a process for each, if there is no compiler or it fails; the reason and a way out are added to it.
    """

    _told: ClassVar[set[str]] = set()

    def __init__(self, function: Callable[..., Tensor], what: str, setting: str) -> None:
        self._what, self._setting = what, setting
        # The compiler keeps what it compiles by code object, and few versions of each: so every function has its own.
        self._function = types.FunctionType(
            function.__code__.replace(),
            function.__globals__,
            function.__name__,
            function.__defaults__,
            function.__closure__,
        )
        self._compiled: Callable[..., Tensor] | None = torch.compile(self._function)
        self._worked = False

    def __call__(self, *tensors: Tensor | None) -> Tensor:
        if self._compiled is None or torch.compiler.is_compiling():
            # In the latter case this is a part of something larger that is being compiled.
            out: Tensor = self._function(*tensors)
            return out
        for tensor in tensors:
            if tensor is not None and tensor.dim():
                # The last batch of an evaluation is smaller; it must not be compiled for anew.
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
        try:
            out = self._compiled(*tensors)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # no compiler, or one that fails: there are as many errors as compilers
            if self._worked and not isinstance(error, TorchDynamoException):
                raise  # compiled code that has run before fails for a reason of its own
            self._compiled = None
            if self._what not in self._told:
                self._told.add(self._what)
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                warnings.warn(
                    f"{self._what}, which is slower: {reason}. If there is no C++ compiler, install one; or set {self._setting}",
                    NotCompiledWarning,
                    stacklevel=2,
                )
            return self(*tensors)
        self._worked = True
        return out
