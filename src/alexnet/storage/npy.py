"""Headers of NumPy's array files, for arrays whose rows are appended one after the other."""

import io

import numpy as np


def npy_header(dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> bytes:
    """The .npy header (version 1.0) of an array in C order; NumPy makes it equally long for any number of rows."""
    header = io.BytesIO()
    facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, facts)
    return header.getvalue()
