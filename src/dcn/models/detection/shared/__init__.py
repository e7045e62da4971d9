"""What the families of detectors share: anchors, matching, sampling, selection, and records of fixed size."""
