"""Losses of molecules: vectors of their atoms, and energies that grow with the number of atoms."""

from __future__ import annotations

import torch
from torch import Tensor

from headwise import normalizers
from headwise.declaration import declared
from headwise.losses.dense.elementwise import squared_error
from headwise.losses.parts.checks import check_elements, select, working_dtype
from headwise.masks import as_mask, spread_mask


@declared(count=normalizers.elements, closed_form=True)
def squared_distance(output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum of squared distances of vectors, ``sum over i of mask_i * |output_i - target_i|^2``.

    As `squared_error`, for vectors whose components stand last and a mask with one value a vector. Its count is of
    components, so that the value is the mean over them; times D, it is the mean squared distance.

    Args:
        output: Vectors, (N, K, D) or (K, D), any floating dtype.
        target: Vectors of the output's shape.
        mask: Which vectors count, (N, K) or (K,), any dtype (positive counts); None: all.

    Returns:
        The sum, 0-d, float32 (float64 for a float64 output).

    Raises:
        ValueError: If a dtype or a shape does not fit.
    """
    if output.ndim < 2 or output.shape != target.shape or (mask is not None and mask.shape != output.shape[:-1]):
        found = None if mask is None else tuple(mask.shape)
        raise ValueError(
            "squared_distance: vectors (N, K, D) need targets of that shape and a mask (N, K), found vectors "
            f"{tuple(output.shape)}, targets {tuple(target.shape)}, mask {found}. Give one mask value a vector."
        )
    return squared_error(output.movedim(-1, 1), target.movedim(-1, 1), mask)


@declared(count=normalizers.elements)
def per_atom_squared_error(output: Tensor, target: Tensor, atoms: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum of squared errors of energies per atom, ``sum over i of mask_i * ((output_i - target_i) / n_i)^2``.

    Args:
        output: Energies of molecules, (N,) or (N, 1), any floating dtype.
        target: Energies, of the output's shape.
        atoms: Which of the K slots of a molecule hold an atom, (N, K), any dtype (positive holds): n of them. A
            molecule without any is divided by 1.
        mask: Which molecules count, of the output's shape, any dtype (positive counts); None: all.

    Returns:
        The sum, 0-d, float32 (float64 for a float64 output).

    Raises:
        ValueError: If a dtype or a shape does not fit.

    Reference:
        ACEsuit/mace at 011ba1af, mace/modules/loss.py, weighted_mean_squared_error_energy.
    """
    check_elements("per_atom_squared_error", output, target, mask)
    if atoms.ndim != 2 or output.shape not in {atoms.shape[:1], (*atoms.shape[:1], 1)}:
        raise ValueError(
            "per_atom_squared_error: energies (N,) need atoms (N, K), found energies "
            f"{tuple(output.shape)} and atoms {tuple(atoms.shape)}. Say which slots of each molecule hold an atom."
        )
    keep, dtype = spread_mask(output, mask), working_dtype(output)
    num_atoms = torch.count_nonzero(as_mask(atoms), dim=1).clamp(min=1).reshape(output.shape)
    difference = select(keep, output.to(dtype) - target.to(dtype), 0.0)
    return (difference / num_atoms).square().sum()
