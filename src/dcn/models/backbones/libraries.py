"""Backbones of timm and transformers: their configuration as plain data, so that recipes and weights files hold it.

Both libraries are imported when such a backbone is built. Nothing is downloaded then: weights are loaded by
``model.backbone_weights``, under the names that the library publishes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, get_args

from torch import Tensor, nn

from dcn.extras import is_installed, missing_package
from dcn.models.backbones.freezing import NormRule, freeze, keep_statistics
from dcn.models.backbones.specs import BackboneSpec
from dcn.suggest import suggest


class LibraryBackbone(nn.Module):
    """A backbone of another library as one of this package: a batch to its last maps, finest first.

    Args:
        inner: the library's module.
        maps: how many of its last maps are returned.
        channels: of all its maps.
        norm: what happens to batch norm, see :class:`DeformableSpec`; other norms are trained.

    Attributes:
        out_channels: of the maps.
    """

    def __init__(self, inner: nn.Module, maps: int, channels: list[int], norm: NormRule) -> None:
        super().__init__()
        if norm not in get_args(NormRule):
            raise ValueError(f"norm: expected {', '.join(map(repr, get_args(NormRule)))}, got {norm!r}")
        if not 1 <= maps <= len(channels):
            raise ValueError(f"maps: expected 1 to {len(channels)}, as many as {type(inner).__name__} has, got {maps}")
        self.inner, self.norm = inner, norm
        self.out_channels = channels[-maps:]
        freeze(self, (), norm)

    def train(self, mode: bool = True) -> LibraryBackbone:
        """Training mode, in which the statistics of batch norm stay fixed unless ``norm`` is ``"train"``."""
        super().train(mode)
        keep_statistics(self, (), self.norm)
        return self

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """``[N, 3, H, W]`` to maps."""
        output = self.inner(pixels)
        maps = list(getattr(output, "feature_maps", output))
        return maps[-len(self.out_channels) :]

    def from_published(self, published: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a published file of the library under the names of this module.

        Names fit if they differ in dots and underscores, or in the prefix of the whole model (``resnet.``). Heads of
        the file are left out. Norms that transformers puts behind the stages of a backbone are in no published file;
        they keep their values.

        Raises:
            ValueError: no name fits.
        """
        prefix = str(getattr(self.inner, "base_model_prefix", ""))
        by_name = {_plain(name, prefix): value for name, value in published.items()}
        own = {name: _plain(name.removeprefix("inner."), prefix) for name in self.state_dict()}
        found = {name: by_name[plain] for name, plain in own.items() if plain in by_name}
        if not found:
            raise ValueError(
                f"expected weights of {type(self.inner).__name__} (names such as "
                f"{', '.join(list(self.inner.state_dict())[:3])}), got names such as {', '.join(list(published)[:3])}"
            )
        added = {name: value for name, value in self.state_dict().items() if ".hidden_states_norms." in name}
        return added | found


def _plain(name: str, prefix: str) -> str:
    for start in (f"{prefix}.", "model."):
        name = name.removeprefix(start)
    return name.replace(".", "_")


@dataclass(frozen=True, kw_only=True)
class TimmSpec(BackboneSpec):
    """A model of timm as a backbone: ``timm.create_model(name, features_only=True, **options)``.

    Attributes:
        name: of ``timm.list_models()``.
        maps: how many of its last maps the detector or the segmentation model gets.
        norm: what happens to batch norm, see :class:`DeformableSpec`.
        options: further arguments of ``timm.create_model``, such as ``output_stride``.
    """

    name: str
    maps: int = 4
    norm: NormRule = "eval"
    options: dict[str, Any] = field(default_factory=dict)

    def build(self) -> LibraryBackbone:
        """The backbone with random weights.

        Raises:
            ValueError: timm is not installed, or does not make such a backbone.
        """
        if not is_installed("timm"):
            raise missing_package("timm")
        import timm

        try:
            inner = timm.create_model(self.name, pretrained=False, features_only=True, **self.options)
        except (RuntimeError, TypeError, AttributeError, AssertionError, ValueError) as error:
            raise ValueError(f"backbone: timm makes no backbone {self.name!r} with {self.options}: {error}") from error
        return LibraryBackbone(inner, self.maps, list(inner.feature_info.channels()), self.norm)


@dataclass(frozen=True, kw_only=True)
class TransformersSpec(BackboneSpec):
    """A model of transformers as a backbone: ``AutoBackbone.from_config``.

    Attributes:
        config: its configuration: ``model_type`` (``"resnet"``, ``"swin"``, ``"convnext"`` ...) and what differs from
            that type's defaults.
        maps: how many of its last maps the detector or the segmentation model gets.
        norm: what happens to batch norm, see :class:`DeformableSpec`.
    """

    config: dict[str, Any]
    maps: int = 4
    norm: NormRule = "eval"

    def build(self) -> LibraryBackbone:
        """The backbone with random weights.

        Raises:
            ValueError: transformers is not installed, or does not make such a backbone.
        """
        if not is_installed("transformers"):
            raise missing_package("transformers")
        from transformers import AutoBackbone, AutoConfig

        settings = dict(self.config)
        kind = settings.pop("model_type", None)
        try:
            config = AutoConfig.for_model(kind, **settings)
            config.out_features = list(config.stage_names[-self.maps :])
            inner = AutoBackbone.from_config(config)
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ValueError(f"backbone: transformers makes no backbone of {self.config}: {reason}") from error
        return LibraryBackbone(inner, self.maps, list(inner.channels), self.norm)


def library_spec(given: Mapping[str, Any]) -> BackboneSpec:
    """The spec that ``model.options.backbone`` of a recipe means.

    Args:
        given: ``{"timm": NAME}`` or ``{"transformers": MODEL_TYPE or CONFIG}``, and further fields of
            :class:`TimmSpec` or :class:`TransformersSpec`.

    Raises:
        ValueError: neither or both, or an unknown field.
    """
    libraries: dict[str, tuple[type[BackboneSpec], str]] = {
        "timm": (TimmSpec, "name"),
        "transformers": (TransformersSpec, "config"),
    }
    named = [library for library in libraries if library in given]
    if len(named) != 1:
        raise ValueError(
            f"backbone: expected one of timm and transformers, such as {{'timm': 'resnet50d'}}, got {dict(given)}"
        )
    spec, own = libraries[named[0]]
    known = [each.name for each in fields(spec) if each.name != own]
    rest = {name: value for name, value in given.items() if name != named[0]}
    for name in rest:
        if name not in known:
            raise ValueError(f"backbone: expected options of {named[0]}, got {name!r}; {suggest(name, known)}")
    value = given[named[0]]
    if own == "config" and isinstance(value, str):
        value = {"model_type": value}
    if not isinstance(value, dict if own == "config" else str):
        raise ValueError(f"backbone: {named[0]}: expected a name, got {value!r}")
    return spec(**{own: value}, **rest)
