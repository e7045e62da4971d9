"""How the operators are computed: one folder per backend, one file per operator, the same functions in each.

Every module offers ``unsupported(...) -> str | None`` (why it cannot take this call), ``forward(...)`` and, where the
operator has gradients, ``backward(...)``. Nothing here knows autograd or modules; arguments were checked by
:mod:`dcn.ops`.
"""
