"""Detectors on a feature pyramid in mmdetection's form: Faster, Mask, Cascade and Cascade Mask R-CNN."""
