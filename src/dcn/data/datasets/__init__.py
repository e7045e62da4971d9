"""One module per format: readers of files, and the set that is generated."""

from dcn.class_names import VOC_CLASSES
from dcn.data.datasets.camvid import open_camvid
from dcn.data.datasets.cityscapes import open_cityscapes
from dcn.data.datasets.coco import Coco
from dcn.data.datasets.folder import open_folder
from dcn.data.datasets.synthetic import Synthetic
from dcn.data.datasets.voc import Voc
from dcn.data.datasets.voc_segmentation import open_voc_segmentation

__all__ = [
    "VOC_CLASSES",
    "Coco",
    "Synthetic",
    "Voc",
    "open_camvid",
    "open_cityscapes",
    "open_folder",
    "open_voc_segmentation",
]
