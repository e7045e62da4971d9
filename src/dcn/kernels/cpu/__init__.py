"""CPU backend: thin ctypes callers of one C++ library (``csrc/``), one module per operator."""
