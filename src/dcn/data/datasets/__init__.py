"""One module per format: readers of files, and the set that is drawn."""

from dcn.data.datasets.coco import Coco
from dcn.data.datasets.synthetic import Synthetic
from dcn.data.datasets.voc import VOC_CLASSES, Voc

__all__ = ["VOC_CLASSES", "Coco", "Synthetic", "Voc"]
