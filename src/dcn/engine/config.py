"""The sections of a recipe: one frozen dataclass per section, and each checks itself.

The unit of ``schedule`` (epochs or steps) is the unit of every length in a recipe: milestones, ``eval.every`` and
``checkpoint_every``. A step is one update of the weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from dcn.tta import TTA


def _check_range(name: str, value: float, least: float, most: float = math.inf, *, above: bool = False) -> None:
    """Refuse a number outside of ``least .. most`` (``above``: ``least`` itself too), NaN and infinity."""
    if math.isfinite(value) and (value > least if above else value >= least) and value <= most:
        return
    bound = f"above {least:g}" if above else f"of {least:g} or more"
    upper = "" if most == math.inf else f" and at most {most:g}"
    raise ValueError(f"{name}: expected a number {bound}{upper}, got {value:g}")


@dataclass(frozen=True)
class ModelConfig:
    """The model, and the weights it starts from.

    Attributes:
        name: a name of ``dcn models``.
        options: keyword options of its builder.
        weights: file or run folder with weights of the whole model to start from.
        backbone_weights: file with weights of the backbone alone. Either may be the name of a file that comes with the
            recipes (``synthetic_r18.safetensors``).
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    backbone_weights: str | None = None


@dataclass(frozen=True)
class DataConfig:
    """The images.

    Attributes:
        format: ``voc``, ``coco``, ``yolo``, ``synthetic``... ; ``auto``: told from the layout of the folder, and split
            where the folder is not.
        root: folder of the data, relative to the working directory; ``None`` for generated data.
        train: name of the split for training.
        val: name of the split that is evaluated during training.
        test: name of the split that ``dcn eval`` evaluates.
        classes: class names in order; ``None``: those of the training split.
        options: keyword options of the format's reader.
        broken: what happens at an image that cannot be decoded. ``refuse``: the run stops and names the file; ``skip``:
            the next readable image replaces it; ``repair``: a JPEG without its end is decoded as far as it goes, any
            other damaged image is skipped.
        outside: what happens at a box that reaches outside of its image by more than a pixel. ``refuse``: the run stops
            and names the entry; ``clip``: the box is cut to the image.
        allow_shared: permit images that are in the training split and in the validation split.
    """

    format: str = "auto"
    root: str | None = None
    train: str = "train"
    val: str = "val"
    test: str = "test"
    classes: tuple[str, ...] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    broken: Literal["refuse", "skip", "repair"] = "refuse"
    outside: Literal["refuse", "clip"] = "refuse"
    allow_shared: bool = False


@dataclass(frozen=True)
class ColorConfig:
    """Random changes of color in training; all zero: none.

    Attributes:
        brightness: the values are multiplied by a random factor in ``1 - brightness .. 1 + brightness``.
        contrast: likewise the distance from the mean gray.
        saturation: likewise the distance from the gray of the same pixel.
        hue: largest rotation of the hue in degrees, either way.
    """

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        for name in ("brightness", "contrast", "saturation"):
            _check_range(name, getattr(self, name), 0, 1)
        _check_range("hue", self.hue, 0, 180)

    @property
    def is_default(self) -> bool:
        """Whether colors stay as they are."""
        return self == ColorConfig()


@dataclass(frozen=True)
class TransformsConfig:
    """What happens to an image before the model sees it.

    Attributes:
        short: shorter side in pixels; each training image gets a random one of these.
        long: upper limit of the longer side.
        test_short: shorter side in evaluation and prediction; ``None``: the largest of ``short``.
        flip: probability of a horizontal flip in training.
        scale: smallest and largest random factor on both sides in training; ``None``: none.
        crop: ``(height, width)`` of the window that is cut out of a larger image in training; ``None``: none.
        color: random changes of color in training, see :class:`ColorConfig`.
        rotation: largest random rotation in training, in degrees either way; 0: none.
        quarter_turns: rotate training images by a random multiple of 90 degrees.
    """

    short: tuple[int, ...] = (800,)
    long: int = 1333
    test_short: int | None = None
    flip: float = 0.5
    scale: tuple[float, float] | None = None
    crop: tuple[int, int] | None = None
    color: ColorConfig = field(default_factory=ColorConfig)
    rotation: float = 0.0
    quarter_turns: bool = False

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise ValueError(f"scale: expected two positive factors, the smaller first, got {self.scale}")
        if self.crop is not None and min(self.crop) < 1:
            raise ValueError(f"crop: expected a positive height and width, got {self.crop}")
        if not self.short or min(self.short) < 1:
            raise ValueError(f"short: expected at least one size of 1 pixel or more, got {self.short}")
        if self.test_short is not None:
            _check_range("test_short", self.test_short, 1)
        largest = max(self.test_size[0], *self.short)
        if self.long < largest:
            raise ValueError(
                f"long: expected at least the largest shorter side, {largest}, got {self.long}; set transforms.long too"
            )
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip: expected a probability in [0, 1], got {self.flip}")
        _check_range("rotation", self.rotation, 0, 180)

    @property
    def test_size(self) -> tuple[int, int]:
        """``(shorter side, largest longer side)`` for evaluation and prediction."""
        return (self.test_short or max(self.short), self.long)


@dataclass(frozen=True)
class WarmupConfig:
    """Lower learning rate at the start.

    Attributes:
        steps: number of steps; 0 switches the warm-up off.
        factor: the learning rate starts at ``factor * lr``.
        kind: ``constant`` keeps that factor (original code), ``linear`` raises it to 1 (mmdetection).
    """

    steps: int = 0
    factor: float = 0.1
    kind: Literal["constant", "linear"] = "linear"

    def __post_init__(self) -> None:
        _check_range("steps", self.steps, 0)
        _check_range("factor", self.factor, 0, 1)


@dataclass(frozen=True)
class ScheduleConfig:
    """Length, batch and optimizer.

    Attributes:
        epochs: passes over the training images (fractions are fine); or
        steps: updates of the weights. Exactly one of the two is given.
        batch_size: images of one step, over all processes and accumulated parts together; ``"auto"``: as many as fit
            the memory, at most ``lr_batch_size`` or 16. It is measured before the first step, and the run's recipe has
            the number.
        accumulate: a batch is computed in this many parts, one after another, to save memory.
        lr: learning rate.
        lr_batch_size: the batch size that ``lr`` is for: the rate used is ``lr * batch_size / lr_batch_size``.
            ``None``: ``lr`` is used as it stands.
        optimizer: ``sgd`` (the papers), or ``adamw`` (Adam with decoupled weight decay; ``momentum`` is its first beta,
            the second is 0.999), which needs a rate of about a hundredth and learns faster where much is trained from
            random weights.
        momentum: of the gradient.
        momentum_form: ``torch``: the rate multiplies the momentum buffer; ``mxnet``: the rate goes into the buffer, as
            in the original code, which differs at every change of the rate.
        weight_decay: L2 penalty.
        decay_bias: ``True`` decays every parameter (mmdetection), ``False`` only those named ``...weight`` (original).
        warmup: see :class:`WarmupConfig`.
        milestones: after each of these (in epochs or steps, as the schedule) the rate is multiplied by ``gamma``.
        gamma: see ``milestones``.
        lr_multipliers: glob pattern on parameter names -> factor on the rate; the first match counts. Models of the
            original code carry their published factors; a pattern here comes before those.
        clip_norm: largest norm of the whole gradient; ``None``: no clipping.
    """

    epochs: float | None = None
    steps: int | None = None
    batch_size: int | Literal["auto"] = 16
    accumulate: int = 1
    lr: float = 0.02
    lr_batch_size: int | None = None
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = 0.9
    momentum_form: Literal["torch", "mxnet"] = "torch"
    weight_decay: float = 1e-4
    decay_bias: bool = True
    warmup: WarmupConfig = field(default_factory=WarmupConfig)
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    lr_multipliers: dict[str, float] = field(default_factory=dict)
    clip_norm: float | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            advice = "give one of them" if self.steps is None else "set one of them to null (schedule.epochs=null)"
            raise ValueError(
                f"steps: give either steps or epochs (the unit of milestones and eval.every too), got "
                f"steps={self.steps} and epochs={self.epochs}; {advice}"
            )
        if self.epochs is not None:
            _check_range("epochs", self.epochs, 0, above=True)
        if self.steps is not None:
            _check_range("steps", self.steps, 1)
        count = self.accumulate if self.batch_size == "auto" else self.batch_size
        if count < 1 or self.accumulate < 1 or count % self.accumulate:
            raise ValueError(
                f"batch_size: expected a positive multiple of accumulate ({self.accumulate}), got {self.batch_size}"
            )
        self._check_optimizer()
        for milestone in self.milestones:
            _check_range("milestones", milestone, 0, above=True)
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"milestones: expected rising numbers, got {list(self.milestones)}")

    def _check_optimizer(self) -> None:
        _check_range("lr", self.lr, 0, above=True)
        if self.lr_batch_size is not None:
            _check_range("lr_batch_size", self.lr_batch_size, 1)
        _check_range("momentum", self.momentum, 0, 1)
        if self.optimizer == "adamw" and (self.momentum_form == "mxnet" or self.momentum == 1):
            raise ValueError(
                f"optimizer: adamw expects momentum_form=torch and a momentum below 1, got "
                f"momentum_form={self.momentum_form} and momentum={self.momentum:g}"
            )
        _check_range("weight_decay", self.weight_decay, 0)
        _check_range("gamma", self.gamma, 0, 1, above=True)
        for pattern, factor in self.lr_multipliers.items():
            _check_range(f"lr_multipliers.{pattern}", factor, 0)
        if self.clip_norm is not None:
            _check_range("clip_norm", self.clip_norm, 0, above=True)

    @property
    def images_per_step(self) -> int:
        """``batch_size`` as a number.

        Raises:
            ValueError: it is ``"auto"`` and was not measured.
        """
        if self.batch_size == "auto":
            raise ValueError("batch_size: expected a number, got auto, which dcn.train measures before the first step")
        return self.batch_size

    @property
    def scaled_lr(self) -> float:
        """The learning rate after the scale rule of ``lr_batch_size``."""
        return self.lr if self.lr_batch_size is None else self.lr * self.images_per_step / self.lr_batch_size

    def in_steps(self, length: float, steps_per_epoch: int) -> int:
        """A length in the unit of the schedule as a number of steps."""
        return int(length) if self.epochs is None else round(length * steps_per_epoch)

    def total_steps(self, steps_per_epoch: int) -> int:
        """Steps of the whole run, at least one."""
        return max(1, self.in_steps(self.epochs or self.steps or 1, steps_per_epoch))


@dataclass(frozen=True)
class EvalConfig:
    """How the model is evaluated.

    Attributes:
        every: the validation split is evaluated this often (unit of the schedule) and at the end.
        metric: ``coco`` or ``voc`` for detections, ``miou`` for segmentation masks.
        voc_method: area under the curve, or the 11 points of VOC 2007; for ``metric: voc``.
        best: the metric that decides which weights are kept as ``best``; ``None``: AP, or AP50 for ``voc``, or mIoU.
        images: number of images evaluated during training, spread over the split; ``None``: all.
        pictures: validation images drawn into the run folder at each evaluation.
        report: write ``report.html`` about the best weights into the run folder when training has ended.
        batch_size: images of one forward pass.
        compare_at: segmentation: at which size masks are compared. ``annotation`` resizes the prediction (Cityscapes),
            ``prediction`` resizes the annotation (the original code for Pascal VOC); both nearest.
        absent: segmentation: how a class counts that is neither annotated nor predicted: ``zero`` (the original code)
            or ``skip`` (the scripts of Cityscapes).
    """

    every: float = 1.0
    metric: Literal["coco", "voc", "miou"] = "coco"
    voc_method: Literal["area", "11point"] = "area"
    best: str | None = None
    images: int | None = None
    pictures: int = 4
    report: bool = True
    batch_size: int = 1
    compare_at: Literal["annotation", "prediction"] = "annotation"
    absent: Literal["skip", "zero"] = "zero"

    def __post_init__(self) -> None:
        _check_range("every", self.every, 0, above=True)
        if self.images is not None:
            _check_range("images", self.images, 1)
        _check_range("pictures", self.pictures, 0)
        _check_range("batch_size", self.batch_size, 1)


@dataclass(frozen=True)
class Recipe:
    """A whole training run.

    Attributes:
        model: see :class:`ModelConfig`.
        data: see :class:`DataConfig`.
        schedule: see :class:`ScheduleConfig`.
        transforms: see :class:`TransformsConfig`.
        eval: see :class:`EvalConfig`.
        tta: test-time augmentation of ``dcn eval``, see :class:`dcn.tta.TTA`; evaluation during training of a detector
            does without.
        amp: mixed precision: ``off``, ``bf16`` (CPU and GPU) or ``fp16`` (GPU).
        seed: of weights, order of the images and everything random.
        workers: processes that load images; 0 loads in the training process.
        log_every: steps between two lines of the log.
        checkpoint_every: how often a checkpoint is saved (unit of the schedule); ``None``: at every evaluation.
        plugins: modules of your own whose models, data formats, recipes and weights are known by name, see
            :func:`dcn.plugins.use_plugins`. Weights files hold their names.
    """

    model: ModelConfig
    data: DataConfig
    schedule: ScheduleConfig
    transforms: TransformsConfig = field(default_factory=TransformsConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    tta: TTA = field(default_factory=TTA)
    amp: Literal["off", "bf16", "fp16"] = "off"
    seed: int = 0
    workers: int = 2
    log_every: int = 20
    checkpoint_every: float | None = None
    plugins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_range("seed", self.seed, 0, 2**63 - 1)
        _check_range("workers", self.workers, 0)
        _check_range("log_every", self.log_every, 1)
        if self.checkpoint_every is not None:
            _check_range("checkpoint_every", self.checkpoint_every, 0, above=True)
