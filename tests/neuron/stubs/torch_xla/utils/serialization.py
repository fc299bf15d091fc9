"""The file names and the class of torch_xla's serialization format, "xser".

Source: https://github.com/pytorch/xla/blob/v2.8.0/torch_xla/utils/serialization.py
"""

from __future__ import annotations


class TensorReference:
    """A placeholder in the saved object for a tensor in a separate file."""

    def __init__(self, tid):
        self.tid = tid


def _get_tensors_folder(path):
    return path + ".tensors"


def _get_tensor_file(path, tid):
    return f"{path}/tensor_{tid}.pt"
