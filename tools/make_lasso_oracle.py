"""Write tests/oracles/lasso.npz: non-negative weights under an L1 bound from a solver that shares nothing with ours.

SPAMS (the solver of the authors) where it can be imported, and cvxpy's interior-point solver otherwise.

    python tools/make_lasso_oracle.py -o tests/oracles/lasso.npz
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

BOUNDS = (0.5, 1.0, 3.0, 5.0, 10.0, 50.0)
CLASSES = 4


def responses(seed: int, samples: int = 200, tensors: int = 3, filters: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Planted responses, each tensor's shares summing to 1, and the classes."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, CLASSES, samples)
    x = np.abs(rng.standard_normal((samples, tensors * filters)))
    planted = rng.permutation(tensors * filters)[: 5 * CLASSES].reshape(CLASSES, 5)
    for row, own in zip(x, planted[classes], strict=True):
        row[own] *= 3
    shares = x.reshape(samples, tensors, filters)
    shares = shares / shares.sum(axis=2, keepdims=True)
    return shares.reshape(samples, -1).astype(np.float32), classes


def by_spams(x: np.ndarray, labels: np.ndarray, mu: float) -> np.ndarray:
    import spams

    dictionary, signals = (np.asfortranarray(each, np.float64) for each in (x, labels))
    return np.asarray(spams.lasso(signals, D=dictionary, lambda1=mu, mode=0, pos=True).toarray())


def by_cvxpy(x: np.ndarray, labels: np.ndarray, mu: float) -> np.ndarray:
    import cvxpy

    found = np.zeros((x.shape[1], labels.shape[1]))
    for place in range(labels.shape[1]):
        w: Any = cvxpy.Variable(x.shape[1], nonneg=True)
        problem = cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(x @ w - labels[:, place])), [cvxpy.sum(w) <= mu])
        problem.solve(solver="CLARABEL", tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
        found[:, place] = w.value
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    x, classes = responses(0)
    labels = np.eye(CLASSES)[classes]
    arrays: dict[str, Any] = {"x": x, "classes": classes, "bounds": np.array(BOUNDS)}
    versions = {"numpy": np.__version__}
    for solver, package in ((by_cvxpy, "cvxpy"), (by_spams, "spams")):
        try:
            arrays[package] = np.stack([solver(x.astype(np.float64), labels, mu) for mu in BOUNDS])
            versions[package] = version("spams-bin" if package == "spams" else package)
        except ImportError:
            print(f"{package} is not installed: its weights are left out")
    np.savez_compressed(arguments.output, made_by=np.array(json.dumps(versions)), **arrays)


if __name__ == "__main__":
    main()
