"""Where users import image files from; the reading itself is in `dcn.formats.images`."""

from dcn.formats.file_names import SUFFIXES
from dcn.formats.images import image_size, read_image, to_rgb, write_image

__all__ = ["SUFFIXES", "image_size", "read_image", "to_rgb", "write_image"]
