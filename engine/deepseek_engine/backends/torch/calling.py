"""Calling a module: inputs by name or by place, compiled where that works.

Why it exists: libraries call their modules differently, and a compiler may refuse any of them. The
rest of the back end sees one function from tensors to tensors that never fails because of the
compiler.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from deepseek_engine.backends.torch.description import Description

__all__ = ["ModuleCall"]

logger = logging.getLogger(__name__)


class ModuleCall:
    """One module as a function from tensors by name to tensors by name."""

    def __init__(
        self, torch: Any, module: Any, description: Description, *, compile_for: int = 0
    ) -> None:
        """Prepare the call.

        Args:
            torch: the library.
            module: in evaluation mode, on its device.
            description: names and order of its tensors.
            compile_for: how many shapes it will be compiled for; 0 does not compile.
        """
        self._torch = torch
        self._module = module
        self._description = description
        self._dtype = getattr(torch, description.dtype)
        self._compiled: Any = None
        self.failed = ""
        """Why the compiled module is not used; empty while it is, or where none was wanted."""
        if compile_for:
            limits = torch._dynamo.config
            # Each shape is a compilation of its own; above the limit torch silently runs eagerly.
            limits.recompile_limit = max(limits.recompile_limit, 2 * compile_for)
            self._compiled = torch.compile(module, dynamic=False)

    @property
    def compiled(self) -> bool:
        """Whether batches run through the compiled module."""
        return self._compiled is not None

    def __call__(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """Compute; floating point inputs are converted to the module's type."""
        given = {n: t.to(self._dtype) if t.is_floating_point() else t for n, t in tensors.items()}
        if self._compiled is None:
            return self._run(self._module, given)
        try:
            return self._run(self._compiled, given)
        # Compilers fail in many ways. Only if the plain module can do it was it the compiler.
        except Exception as error:
            answer = self._run(self._module, given)
            self._compiled, self.failed = None, type(error).__name__
            logger.warning(
                "the compiled module is not used",
                extra={"reason": "compile-failed", "cause": str(error)[:500]},
            )
            return answer

    def _run(self, module: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
        outputs = self._description.outputs
        if self._description.takes_names:
            result = module(**tensors)
            return {spec.name: _output(result, spec.name) for spec in outputs}
        result = module(*(tensors[spec.name] for spec in self._description.inputs))
        return {outputs[0].name: result}


def _output(result: Any, name: str) -> Any:
    """An output by name; classes with a head give the last vectors among all hidden states."""
    return result[name] if name in result else result["hidden_states"][-1]
