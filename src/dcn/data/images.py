"""Where users import image files from; the reading itself is in `dcn.formats.images`."""

from dcn.formats.images import image_size, read_image, to_rgb, write_image
from dcn.formats.names import SUFFIXES

__all__ = ["SUFFIXES", "image_size", "read_image", "to_rgb", "write_image"]
