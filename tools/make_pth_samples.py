"""Write the .pth files that tests/models reads, in both forms, and their values (developers only: needs torch).

python tools/make_pth_samples.py        # made with torch 2.13.0
"""

from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parents[1] / "tests" / "models"


def tensors() -> "OrderedDict[str, torch.Tensor]":
    torch.manual_seed(0)
    shared = torch.randn(4, 3)
    return OrderedDict(
        plain=torch.randn(2, 3, 2, 2),
        turned=shared.T,
        part=shared[1:, 2],
        parameter=torch.nn.Parameter(torch.randn(5)),
        half=torch.randn(3).half(),
        double=torch.randn(3).double(),
        steps=torch.tensor(7),
        empty=torch.zeros(0, 3),
    )


def main() -> None:
    values = tensors()
    torch.save(values, FOLDER / "zipped.pth")
    torch.save(values, FOLDER / "sequence.pth", _use_new_zipfile_serialization=False)
    torch.save(torch.nn.Linear(2, 2), FOLDER / "module.pth")
    np.savez(FOLDER / "pth_values.npz", **{name: value.detach().numpy() for name, value in values.items()})


if __name__ == "__main__":
    main()
