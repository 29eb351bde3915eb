"""Does a criterion give the same gradient however its batch is split?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from headwise.criterion import Criterion, pool_denominators, pool_ratios
from headwise.criterion.criterion import check_criterion
from headwise.structure import leaves, mapped
from headwise.tabular import Tabular

_RTOL = {torch.float64: 1e-12, torch.float32: 1e-6}

Gradients = dict[str, list[Tensor]]
Split = tuple[int, ...]


@dataclass(frozen=True)
class SplitRow:
    """One term, or the total, under the split that changed it most.

    Args:
        name: The term, or "total".
        error: Relative error ``|g_split - g_batch| / |g_batch|`` (2-norm over all outputs) with pooled denominators.
        mean_of_means: The same where each micro-batch is divided by its own count and the results are averaged.
        split: Sizes of the micro-batches with the largest `error`.
        output: Path of the output at which gradients differ most.
        why: Why the term depends on the split, where it says so itself.
    """

    name: str
    error: float
    mean_of_means: float
    split: Split
    output: str
    why: str | None = None


@dataclass(frozen=True)
class SplitReport(Tabular):
    """What `assert_split_invariant` measured.

    Args:
        rows: The terms in their order, then the total of those that are not exempt.
        rtol: The tolerance.
        exempt: Terms that were let pass.
    """

    rows: tuple[SplitRow, ...]
    rtol: float
    exempt: tuple[str, ...] = ()

    @property
    def total(self) -> SplitRow:
        """The row of the total."""
        return self.rows[-1]

    @property
    def failures(self) -> tuple[SplitRow, ...]:
        """Terms whose error exceeds the tolerance, and the total if it does."""
        return tuple(row for row in self.rows if not row.error <= self.rtol and row.name not in self.exempt)

    def table_rows(self) -> list[dict[str, Any]]:
        """A row a term, and the total's."""
        return [{**asdict(row), "split": "+".join(map(str, row.split))} for row in self.rows]

    def table_title(self) -> str:
        """What the errors are measured against."""
        return f"gradients under splits of the batch, tolerance {self.rtol:.1e}"

    def __str__(self) -> str:
        width = max(len(row.name) for row in self.rows)
        lines = [f"{'term':{width}}  pooled    mean of means  worst split"]
        for row in self.rows:
            split = "+".join(map(str, row.split))
            note = f"  ({row.why})" if row.why else ""
            lines.append(f"{row.name:{width}}  {row.error:<8.1e}  {row.mean_of_means:<13.1e}  {split}{note}")
        return "\n".join(lines)


def assert_split_invariant(
    criterion: Criterion,
    outputs: Any,
    targets: Any,
    *,
    splits: Iterable[Sequence[int]] | None = None,
    rtol: float | None = None,
    exempt: Iterable[str] = (),
) -> SplitReport:
    """Asserts that the gradient at every output is the same for the whole batch and for any micro-batches of it.

    Per term, the gradient of its value for the whole batch is compared with the sum over micro-batches whose
    denominators are pooled (`pool_denominators`; `pool_ratios` for a `RatioTerm`). No network is needed.

    Args:
        criterion: The criterion.
        outputs: Nested outputs of N >= 2 images, images in dimension 0 of every tensor; they are not written to.
        targets: Nested targets of the same images.
        splits: Sizes of the micro-batches, each split adding up to N; by default uneven ones, size 1 included.
        rtol: Largest relative error; by default 1e-12 for float64 outputs, 1e-6 for float32, 1e-2 below.
        exempt: Terms that may depend on the split (those of which a card says so); left out of the total.

    Returns:
        The errors, beside those of the usual mean of means.

    Raises:
        AssertionError: A term differs; the message names it, the split, the output, and why if the term declares it.
        ValueError: Tensors differ in their number of images, a split does not add up, or there is no such term.
    """
    check_criterion("assert_split_invariant", criterion)
    num_images = _num_images(outputs, targets)
    chosen = _check_splits(_default_splits(num_images) if splits is None else splits, num_images)
    exempt = _check_exempt(criterion, exempt)
    held = mapped(outputs, lambda tensor: tensor.detach().requires_grad_(tensor.dtype.is_floating_point))
    dtypes = [tensor.dtype for _, tensor in leaves(held) if tensor.requires_grad]
    tolerance = max(_RTOL.get(dtype, 1e-2) for dtype in dtypes) if rtol is None else rtol
    whole = _gradients(criterion, held, [(held, targets)], None, 1)
    found = []
    for split in chosen:
        parts = list(_micro_batches(held, targets, split))
        pooled = {**pool_denominators(criterion, [part for _, part in parts]), **pool_ratios(criterion, parts)}
        ours = _gradients(criterion, held, parts, pooled, 1)
        usual = _gradients(criterion, held, parts, None, len(parts))
        found.append(_rows(criterion, held, split, whole, ours, usual, exempt))
    rows = tuple(max(each, key=lambda row: (row.error, row.mean_of_means)) for each in zip(*found, strict=True))
    report = SplitReport(rows, tolerance, exempt)
    if report.failures:
        raise AssertionError(_complaint(report))
    return report


def _complaint(report: SplitReport) -> str:
    lines = []
    for row in report.failures[: -1 if len(report.failures) > 1 and report.failures[-1] is report.total else None]:
        why = f": {row.why}" if row.why else ". Let its loss return a sum over elements, and its normalizer count them"
        lines.append(
            f"term {row.name!r}: split into micro-batches of {', '.join(map(str, row.split))}, the gradient at output "
            f"{row.output!r} differs from the whole batch's by {row.error:.1e} (at most {report.rtol:.0e}){why}"
        )
    return "\n".join([*lines, "", str(report)])


def _num_images(outputs: Any, targets: Any) -> int:
    sizes = [
        (f"{kind} {path!r}", tensor.shape[0] if tensor.dim() else 0)
        for kind, structure in (("output", outputs), ("target", targets))
        for path, tensor in leaves(structure)
    ]
    if not sizes or sizes[0][1] < 2:
        raise ValueError(f"assert_split_invariant needs a batch of at least 2 images to split; found {sizes[:1]}")
    name, size = next((each for each in sizes if each[1] != sizes[0][1]), sizes[0])
    if size != sizes[0][1]:
        raise ValueError(
            f"dimension 0 of every tensor counts the images: {sizes[0][0]} has {sizes[0][1]}, {name} has {size}. "
            "Give every tensor its images first"
        )
    return size


def _default_splits(num: int) -> list[Split]:
    splits = {(1, num - 1), (num - 1, 1), (1,) * num}
    return sorted(splits | ({(1, 2, num - 3)} if num > 3 else set()))


def _check_splits(splits: Iterable[Sequence[int]], num: int) -> list[Split]:
    chosen = [tuple(split) for split in splits]
    wrong = next((split for split in chosen if sum(split) != num or min(split, default=0) < 1), None)
    if wrong is not None or not chosen:
        raise ValueError(f"a split holds sizes from 1 that add up to the {num} images; found {wrong}")
    return chosen


def _check_exempt(criterion: Criterion, exempt: Iterable[str]) -> tuple[str, ...]:
    names = (exempt,) if isinstance(exempt, str) else tuple(exempt)
    unknown = next((name for name in names if name not in criterion.names), None)
    if unknown is not None:
        raise ValueError(f"no term {unknown!r} to exempt. The terms are: {', '.join(criterion.names)}")
    return names


def _micro_batches(outputs: Any, targets: Any, split: Split) -> Iterator[tuple[Any, Any]]:
    begin = 0
    for size in split:
        images = partial(_images, begin, size)
        yield mapped(outputs, images), mapped(targets, images)
        begin += size


def _images(begin: int, size: int, tensor: Tensor) -> Tensor:
    return tensor[begin : begin + size]


def _gradients(
    criterion: Criterion,
    held: Any,
    parts: Iterable[tuple[Any, Any]],
    pooled: Mapping[str, Any] | None,
    divisor: int,
) -> Gradients:
    """Per term its gradient at every output, summed over micro-batches."""
    into = [tensor for _, tensor in leaves(held) if tensor.requires_grad]
    sums = {name: [torch.zeros_like(tensor) for tensor in into] for name in criterion.names}
    for outputs, targets in parts:
        breakdown = criterion(outputs, targets, pooled)
        for name, entry in breakdown.items():
            found = torch.autograd.grad(entry.value / divisor, into, retain_graph=True, allow_unused=True)
            sums[name] = [a if b is None else a + b for a, b in zip(sums[name], found, strict=True)]
    return sums


def _rows(
    criterion: Criterion,
    held: Any,
    split: Split,
    whole: Gradients,
    ours: Gradients,
    usual: Gradients,
    exempt: tuple[str, ...],
) -> list[SplitRow]:
    paths = [path for path, tensor in leaves(held) if tensor.requires_grad]
    why = criterion.split_variants
    rows = [_row(name, paths, split, whole[name], ours[name], usual[name], why.get(name)) for name in criterion.names]
    counted = [name for name in criterion.names if name not in exempt]
    one, two, three = (_weighted(criterion, gradients, counted) for gradients in (whole, ours, usual))
    return [*rows, _row("total", paths, split, one, two, three, None)]


def _weighted(criterion: Criterion, gradients: Gradients, names: Sequence[str]) -> list[Tensor]:
    """The gradient of the total of some terms."""
    num = len(next(iter(gradients.values())))
    weights = {name: float(criterion.weights[name]) for name in names}
    return [sum((gradients[name][i] * weights[name] for name in names), torch.zeros(())) for i in range(num)]


def _row(
    name: str,
    paths: Sequence[str],
    split: Split,
    whole: Sequence[Tensor],
    ours: Sequence[Tensor],
    usual: Sequence[Tensor],
    why: str | None,
) -> SplitRow:
    norm = _norm(whole)
    apart = [_norm([a - b]) for a, b in zip(ours, whole, strict=True)]
    error, mean_of_means = (
        _relative(_norm([a - b for a, b in zip(each, whole, strict=True)]), norm) for each in (ours, usual)
    )
    return SplitRow(name, error, mean_of_means, split, paths[apart.index(max(apart))], why)


def _norm(tensors: Sequence[Tensor]) -> float:
    return float(sum(float(tensor.double().square().sum()) for tensor in tensors) ** 0.5)


def _relative(difference: float, norm: float) -> float:
    if difference == 0:
        return 0.0
    return difference / norm if norm else float("inf")
