"""GPU kernels in Triton: compiled on first use by the driver's compiler, for NVIDIA and, where Triton runs, AMD.

A module per operator offers ``unsupported``, ``forward`` and ``backward`` as the other backends do and imports no
Triton; files that begin with an underscore and end in ``_kernels`` hold the kernels and are imported on first use.
"""
