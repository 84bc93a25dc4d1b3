"""Headers of .npy files, for arrays whose rows are appended."""

import io

import numpy as np


def npy_header(dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> bytes:
    """The .npy header (version 1.0) of an array in C order; NumPy makes it equally long for any number of rows."""
    header = io.BytesIO()
    description = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, description)
    return header.getvalue()
