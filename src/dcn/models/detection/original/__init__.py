"""Detectors in the form of the original MXNet code: R-FCN, Faster R-CNN, FPN, and the class-aware RPN of the paper."""
