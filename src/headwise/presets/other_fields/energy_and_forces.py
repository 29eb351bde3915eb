"""Energy and forces of molecules: a number a molecule, and minus its gradient at every atom.

Outputs ``{"energy": (N,), "forces": (N, K, 3)}``, targets ``{"energy": (N,), "forces": (N, K, 3), "atoms": (N, K) bool:
which of the K slots hold an atom}``; energies and forces in units that fit (eV and eV / Angstrom). The network takes
the forces from its energy, ``-torch.autograd.grad(energy.sum(), positions, create_graph=True)[0]``.

=======  ===========================================  =========================  =======  ====================
term     loss                                         normalizer                 weight   source
=======  ===========================================  =========================  =======  ====================
energy   squared_error, or with `per_atom`            molecules                  0.01     schnetpack, md17.yaml
         per_atom_squared_error
forces   squared_distance                             3 x atoms                  0.99     schnetpack, md17.yaml
=======  ===========================================  =========================  =======  ====================

* SchNet, as schnetpack trains it: the defaults, two `torch.nn.MSELoss`.
* SchNet's paper, equation 5, has the mean over atoms of squared distances, three times the value of forces here:
  ``forces_weight=3``, with its ``energy_weight=0.01``.
* MACE: ``per_atom=True, energy_weight=1, forces_weight=100``, with configurations that all weigh 1.

The forces of molecules without padding, (atoms, 3), need no mask: ``mask=None``.

What a term weighs at its output says little here of what it trains, see docs/books.md.

Sources: Schuett et al., SchNet, NeurIPS 2017; atomistic-machine-learning/schnetpack, configs/experiment/md17.yaml at
0a23bb60; Batatia et al., MACE, NeurIPS 2022; ACEsuit/mace at 011ba1af, mace/modules/loss.py (WeightedEnergyForcesLoss).

No ``as_published``: values and gradients are those of the originals.
"""

from __future__ import annotations

from headwise import losses
from headwise.criterion import Criterion, Term
from headwise.criterion.terms.weights import Weight


def energy_and_forces(
    *,
    energy_weight: Weight = 0.01,
    forces_weight: Weight = 0.99,
    per_atom: bool = False,
    mask: str | None = "atoms",
    compile: bool = False,
) -> Criterion:
    """The criterion of energies and forces; the card is at the top of this module.

    Args:
        energy_weight: Weight of the energy.
        forces_weight: Weight of the forces.
        per_atom: Divide each error of an energy by the number of the molecule's atoms, which `mask` counts.
        mask: Path of the atoms that there are; None: every row of the forces is one.
        compile: As in `Criterion`.

    Returns:
        The criterion, with the terms energy, forces.

    Raises:
        ValueError: `per_atom` is asked for without a mask.
    """
    if per_atom and mask is None:
        raise ValueError("presets.energy_and_forces: per_atom needs the path of the atoms; found mask=None. Name it.")
    terms = [
        Term(
            "energy",
            losses.per_atom_squared_error if per_atom else losses.squared_error,
            output="energy",
            target=("energy", mask) if per_atom and mask is not None else "energy",
            weight=energy_weight,
        ),
        Term("forces", losses.squared_distance, output="forces", target="forces", mask=mask, weight=forces_weight),
    ]
    return Criterion(terms, compile=compile)
