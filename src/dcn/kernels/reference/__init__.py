"""Plain PyTorch, any device, any float type: the executable specification of the operators.

Clear before fast. Half precision data are computed in float32, coordinates too; float64 stays float64.
"""
