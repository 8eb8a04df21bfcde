"""Second derivatives: those of a backward op, by autograd through the reference of its forward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from poco.ops.precision import as_given


def second_derivatives(
    reference: Callable[..., Any],
    inputs: Sequence[Any],
    differentiable: Sequence[int],
    needs: Sequence[bool],
    grads: Sequence[Tensor],
    outer: Sequence[Tensor],
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Gradients of a backward op, which no kernel computes: slow, and in the memory that autograd takes.

    Args:
        reference: the forward in plain torch, of all inputs, tensors and numbers.
        inputs: those inputs.
        differentiable: positions of the inputs that the backward op can give a gradient for.
        needs: for each of these whether it was wanted.
        grads: gradients of the forward's outputs, which the backward op was given.
        outer: gradients of what the backward op gave, one for each differentiable input.

    Returns:
        The gradients of ``grads``, and those of the inputs at ``differentiable``; None where there is none.
    """
    again = torch.is_grad_enabled()  # whether a third derivative may be wanted
    wanted = [i for i, needed in zip(differentiable, needs, strict=True) if needed]
    outer = [grad for grad, needed in zip(outer, needs, strict=True) if needed]
    with torch.enable_grad(), as_given(grads[0].device):
        # Views, so that what one input owes to another is not counted here.
        fresh = {i: _leaf(inputs[i]) for i in wanted}
        given = [_leaf(grad) for grad in grads]
        outputs = reference(*(fresh.get(i, value) for i, value in enumerate(inputs)))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        if not any(output.requires_grad for output in outputs):  # there are no rows
            return [None] * len(grads), [None] * len(differentiable)
        leaves = list(fresh.values())
        first = torch.autograd.grad(
            outputs, leaves, [g.to(o.dtype) for g, o in zip(given, outputs, strict=True)], create_graph=True
        )
        second = torch.autograd.grad(
            first,
            [*given, *leaves],
            [g.to(f.dtype) for g, f in zip(outer, first, strict=True)],
            create_graph=again,
            allow_unused=True,
        )
    of_inputs = dict(zip(wanted, second[len(given) :], strict=True))
    return list(second[: len(given)]), [of_inputs.get(i) for i in differentiable]


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.view_as(tensor) if tensor.requires_grad else tensor.detach().requires_grad_()
