"""Births in decompositions and solvers, forward and backward."""

from __future__ import annotations

from gradwatch.diagnosis.circumstances import Entry, ops
from gradwatch.diagnosis.wording import at, shape, span

SOLVERS = ops(
    "linalg_inv_ex linalg_inv inverse linalg_solve_ex linalg_solve linalg_lu_solve linalg_solve_triangular lu_solve"
    " triangular_solve linalg_lstsq linalg_ldl_solve cholesky_solve cholesky_inverse"
)
FACTORS = ops("linalg_cholesky_ex linalg_cholesky cholesky linalg_qr linalg_lu linalg_lu_factor_ex")
DETERMINANTS = ops("linalg_slogdet slogdet logdet linalg_det det")
SPECTRA = ops("linalg_svd svd linalg_eigh linalg_eig symeig")

SOLVING = (
    Entry(
        "singular matrix",
        SOLVERS | FACTORS,
        lambda b: not b.of_inf,
        lambda b: (
            f"{b.op} met a singular matrix{at(b)}, or one that is not positive definite: its input of shape"
            f" {shape(b.input(0))} has entries {span(b.input(0))}."
        ),
        "Add jitter to the diagonal: A + 1e-6 * torch.eye(n) (more in float32 for a large n), or compute this part in"
        " float64. For a least-squares problem use torch.linalg.lstsq or pinv.",
    ),
    Entry(
        "determinant of 0",
        DETERMINANTS,
        lambda b: not b.of_inf,
        lambda b: (
            f"The matrix is singular{at(b)}: its determinant is 0, whose logarithm is -inf (shape"
            f" {shape(b.input(0))}, entries {span(b.input(0))})."
        ),
        "Add jitter to the diagonal: A + 1e-6 * torch.eye(n). For a covariance take the log-determinant from a"
        " Cholesky factor: 2 * L.diagonal().log().sum().",
    ),
)

SPECTRAL_DERIVATIVES = (
    Entry(
        "equal singular values or eigenvalues",
        SPECTRA,
        lambda _: True,
        lambda b: (
            f"The derivative of {b.op} divides by the differences of singular values or eigenvalues{at(b)}, and two of"
            " them are equal."
        ),
        "If only the values matter use torch.linalg.svdvals or eigvalsh, whose derivatives are finite. Otherwise break"
        " the tie: add a small random diagonal (jitter of 1e-6), or stop the gradient through the vectors.",
    ),
    Entry(
        "derivative of a singular factorisation",
        SOLVERS | FACTORS | DETERMINANTS,
        lambda _: True,
        lambda b: f"The derivative of {b.op} solves with the matrix again, and that matrix is singular{at(b)}.",
        "Add jitter to the diagonal before the call: A + 1e-6 * torch.eye(n), or compute this part in float64.",
    ),
)
