"""How the operators are computed: one folder per backend, one file per operator, the same functions in each.

Every module offers ``unsupported(...) -> str | None`` (why it cannot take this call), ``forward(...)`` and, where the
operator has gradients, ``backward(...)``; those of RoI poolings say whether ``forward`` refuses boxes of images that do
not exist (``CHECKS_IMAGES``). Every folder offers ``only_if_named() -> str | None`` (why it does not run
unless the caller names it) and ``recordable(tensor) -> bool`` (whether a compiler can trace its launches). Nothing here
knows autograd or modules; arguments were checked by :mod:`dcn.ops`.
"""
