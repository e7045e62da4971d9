"""What a recipe may say: one frozen dataclass per section, each checking itself.

The unit of ``schedule`` (epochs or steps) is the unit of every length in a recipe: milestones, ``eval.every`` and
``checkpoint_every``. A step is one update of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

WINDOW_GRID = 16
"""Windows of `SegmentConfig` start at multiples of this: the stride of the networks, whose cells then lie as before."""


@dataclass(frozen=True)
class ModelConfig:
    """Which network, and what it starts from.

    Attributes:
        name: a name of ``dcn models``.
        options: keyword options of its builder.
        weights: file with weights of the whole network to start from.
        backbone_weights: file with weights of the backbone alone; either may be the name of a file that comes with the
            recipes (``synthetic_r18.safetensors``).
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    weights: str | None = None
    backbone_weights: str | None = None


@dataclass(frozen=True)
class DataConfig:
    """Which images.

    Attributes:
        format: ``voc``, ``coco``, ``synthetic``...
        root: folder of the data, relative to the working directory; ``None`` for data that is drawn.
        train: name of the split to train on.
        val: name of the split evaluated while training.
        test: name of the split that ``dcn eval`` takes.
        classes: class names in order; ``None`` takes those of the training split.
        options: keyword options of the data set's reader.
    """

    format: str
    root: str | None = None
    train: str = "train"
    val: str = "val"
    test: str = "test"
    classes: tuple[str, ...] | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TransformsConfig:
    """What happens to an image before the network sees it.

    Attributes:
        short: shorter side in pixels; one of these is drawn for every training image.
        long: the longer side never exceeds this.
        test_short: shorter side in evaluation and prediction; ``None``: the largest of ``short``.
        flip: probability of a left-right flip in training.
        scale: smallest and largest factor that both sides are then multiplied by in training; ``None``: none.
        crop: ``(height, width)`` of the window that is then cut out in training where the image is larger; ``None``:
            the whole image.
    """

    short: tuple[int, ...] = (800,)
    long: int = 1333
    test_short: int | None = None
    flip: float = 0.5
    scale: tuple[float, float] | None = None
    crop: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale: expected two positive factors, the smaller first, got {self.scale}")
        if self.crop is not None and min(self.crop) < 1:
            raise ValueError(f"crop: expected a positive height and width, got {self.crop}")
        if not self.short or min(self.short) < 1:
            raise ValueError(f"short: expected at least one size of 1 pixel or more, got {self.short}")
        if self.long < max(self.test_size[0], *self.short):
            raise ValueError(f"long: expected at least the largest shorter side {max(self.short)}, got {self.long}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip: expected a probability in [0, 1], got {self.flip}")

    @property
    def test_size(self) -> tuple[int, int]:
        """``(shorter side, largest longer side)`` for evaluation and prediction."""
        return (self.test_short or max(self.short), self.long)


@dataclass(frozen=True)
class WarmupConfig:
    """Lower learning rate at the start.

    Attributes:
        steps: number of updates; 0 switches it off.
        factor: the learning rate starts at ``factor * lr``.
        kind: ``constant`` stays at that factor (original code), ``linear`` climbs to 1 (mmdet).
    """

    steps: int = 0
    factor: float = 0.1
    kind: Literal["constant", "linear"] = "linear"


@dataclass(frozen=True)
class ScheduleConfig:
    """Length, batch and optimiser.

    Attributes:
        epochs: passes over the training images (fractions are fine); or
        steps: updates of the weights. Exactly one of the two is given.
        batch_size: images of one update, over all processes and accumulated parts together.
        accumulate: a batch is computed in this many parts, one after another, to save memory.
        lr: learning rate.
        lr_batch_size: the batch size that ``lr`` is for: the rate used is ``lr * batch_size / lr_batch_size``.
            ``None``: ``lr`` is used as it stands.
        momentum: of the gradient.
        momentum_form: ``torch``: the rate multiplies the momentum buffer; ``mxnet``: it goes into the buffer, as in the
            original code, which differs at every change of the rate.
        weight_decay: L2 penalty.
        decay_bias: ``True`` decays every parameter (mmdet), ``False`` only those named ``...weight`` (original code).
        warmup: see :class:`WarmupConfig`.
        milestones: after each of these (in epochs or steps, as the schedule) the rate is multiplied by ``gamma``.
        gamma: see ``milestones``.
        lr_multipliers: glob pattern on parameter names -> factor on the rate; the first match counts. Networks of the
            original code bring their published factors along; a pattern here comes before those.
        clip_norm: largest norm of the whole gradient; ``None``: no clipping.
    """

    epochs: float | None = None
    steps: int | None = None
    batch_size: int = 16
    accumulate: int = 1
    lr: float = 0.02
    lr_batch_size: int | None = None
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
            raise ValueError(
                f"steps: give either steps or epochs (the unit of milestones and eval.every too), got "
                f"steps={self.steps} and epochs={self.epochs}; set one of them to null"
            )
        if (self.epochs or self.steps or 0) <= 0:
            raise ValueError(f"steps: expected a positive length, got {self.epochs or self.steps}")
        if self.batch_size < 1 or self.accumulate < 1 or self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size: expected a positive multiple of accumulate ({self.accumulate}), got {self.batch_size}"
            )
        if list(self.milestones) != sorted(self.milestones):
            raise ValueError(f"milestones: expected rising numbers, got {list(self.milestones)}")

    @property
    def scaled_lr(self) -> float:
        """The learning rate after the scale rule of ``lr_batch_size``."""
        return self.lr if self.lr_batch_size is None else self.lr * self.batch_size / self.lr_batch_size

    def in_steps(self, length: float, steps_per_epoch: int) -> int:
        """A length in the unit of the schedule as a number of updates."""
        return int(length) if self.epochs is None else round(length * steps_per_epoch)

    def total_steps(self, steps_per_epoch: int) -> int:
        """Updates of the whole run, at least one."""
        return max(1, self.in_steps(self.epochs or self.steps or 1, steps_per_epoch))


@dataclass(frozen=True)
class InferenceConfig:
    """Test-time options: several scales, mirror images, and how their detections are put together.

    Without any of them the network is asked once, at its test size, and chooses by its own rule.

    Attributes:
        scales: ``(shorter side, largest longer side)`` of each pass; empty: one pass at the test size.
        flip: every pass also on the mirror image.
        suppression: ``nms``, or soft-NMS with either decay.
        iou: overlap above which a box suppresses another of its class; ``None``: the network's own.
        sigma: width of the decay of ``soft_nms_gaussian`` (original FPN: 0.6).
        box_voting: overlap from which boxes vote in iterative box averaging; ``None``: off.
        class_thresholds: least score by class name.
        max_per_image: detections kept; ``None``: the network's own number.
    """

    scales: tuple[tuple[int, int], ...] = ()
    flip: bool = False
    suppression: Literal["nms", "soft_nms_linear", "soft_nms_gaussian"] = "nms"
    iou: float | None = None
    sigma: float = 0.5
    box_voting: float | None = None
    class_thresholds: dict[str, float] = field(default_factory=dict)
    max_per_image: int | None = None

    def __post_init__(self) -> None:
        for short, long in self.scales:
            if not 1 <= short <= long:
                raise ValueError(f"scales: expected pairs (shorter, longer) such as [800, 1333], got {[short, long]}")
        for name, overlap in (("iou", self.iou), ("box_voting", self.box_voting)):
            if overlap is not None and not 0 <= overlap <= 1:
                raise ValueError(f"{name}: expected an overlap in [0, 1], got {overlap}")
        if not self.sigma > 0:
            raise ValueError(f"sigma: expected a number above 0, got {self.sigma}")
        if self.max_per_image is not None and self.max_per_image < 1:
            raise ValueError(f"max_per_image: expected 1 or more, got {self.max_per_image}")
        for name, threshold in self.class_thresholds.items():
            if not 0 <= threshold <= 1:
                raise ValueError(f"class_thresholds.{name}: expected a score in [0, 1], got {threshold}")


@dataclass(frozen=True)
class EvalConfig:
    """How the network is judged.

    Attributes:
        every: evaluate the validation split this often (unit of the schedule) and at the end.
        metric: ``coco``, ``voc``, or ``miou`` for label maps.
        voc_method: area under the curve, or the 11 points of VOC 2007; for ``metric: voc``.
        best: the figure that decides which weights are kept as ``best``; ``None``: AP, or AP50 for ``voc``,
            or mIoU.
        images: evaluate only this many images while training (spread over the split); ``None``: all.
        pictures: validation images drawn into the run folder at each evaluation.
        batch_size: images of one forward pass.
        testing: test-time options of ``dcn eval``; evaluation while training does without.
    """

    every: float = 1.0
    metric: Literal["coco", "voc", "miou"] = "coco"
    voc_method: Literal["area", "11point"] = "area"
    best: str | None = None
    images: int | None = None
    pictures: int = 4
    batch_size: int = 1
    testing: InferenceConfig = field(default_factory=InferenceConfig)

    def __post_init__(self) -> None:
        if self.every <= 0:
            raise ValueError(f"every: expected a positive length, got {self.every}")


@dataclass(frozen=True)
class SegmentConfig:
    """How a network for label maps is tested.

    Attributes:
        scales: the image is seen at each of these factors, and the probabilities are averaged.
        flip: see each of them mirrored too.
        window: ``(height, width)`` of the windows that a larger image is cut into, in pixels of the resized image;
            memory then does not grow with the image. ``None``: the whole image at once.
        overlap: pixels that neighbouring windows share; each pixel is taken from the window that has it further inside.
        compare_at: which size is compared: ``annotation`` resizes the prediction (Cityscapes), ``prediction`` resizes
            the annotation (the original code for Pascal VOC); both nearest.
        absent: what a class counts that is neither annotated nor predicted: ``zero`` (the original code) or ``skip``
            (the scripts of Cityscapes).
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: tuple[int, int] | None = None
    overlap: int = 128
    compare_at: Literal["annotation", "prediction"] = "annotation"
    absent: Literal["skip", "zero"] = "zero"

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales: expected at least one positive factor, got {list(self.scales)}")
        if self.window is not None and not 0 <= self.overlap <= min(self.window) - WINDOW_GRID:
            raise ValueError(
                f"window: expected sides at least {WINDOW_GRID} pixels longer than overlap={self.overlap}, "
                f"got {list(self.window)}"
            )


@dataclass(frozen=True)
class Recipe:
    """A whole training run.

    Attributes:
        model: see :class:`ModelConfig`.
        data: see :class:`DataConfig`.
        schedule: see :class:`ScheduleConfig`.
        transforms: see :class:`TransformsConfig`.
        eval: see :class:`EvalConfig`.
        segment: see :class:`SegmentConfig`; only for networks for label maps.
        amp: mixed precision: ``off``, ``bf16`` (CPU and GPU) or ``fp16`` (GPU).
        seed: of weights, order of the images and everything random.
        workers: processes that load images; 0 loads in the training process.
        log_every: updates between two lines of the log.
        checkpoint_every: how often the state is saved (unit of the schedule); ``None``: at every evaluation.
    """

    model: ModelConfig
    data: DataConfig
    schedule: ScheduleConfig
    transforms: TransformsConfig = field(default_factory=TransformsConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    segment: SegmentConfig = field(default_factory=SegmentConfig)
    amp: Literal["off", "bf16", "fp16"] = "off"
    seed: int = 0
    workers: int = 2
    log_every: int = 20
    checkpoint_every: float | None = None

    def __post_init__(self) -> None:
        if self.workers < 0 or self.log_every < 1:
            raise ValueError(
                f"workers: expected 0 or more, and log_every 1 or more, got {self.workers} and {self.log_every}"
            )
