"""What a filter is: a pure function of frames, its parameters, the neighbours it needs, and chains of filters.

The short form is a function with a decorator::

    @frame_filter(formats=("bgr24",))
    def sepia(frame, *, strength: float = param(1.0, low=0, high=1, help="how brown")):
        ...
        return picture            # same shape and dtype as frame

The long form, for neighbours (a halo), own buffers, or speed, is a dataclass::

    @dataclass
    class Denoise(Filter):
        \"\"\"Average each pixel with its past and future.\"\"\"

        formats: ClassVar = ("bgr24", "bgr48")
        radius: int = param(2, low=1, high=8, help="frames before and after")

        @property
        def halo(self) -> Halo:
            return Halo(self.radius, self.radius)

        def apply(self, window, out, at):
            out[...] = np.mean(window, axis=0)
"""

import dataclasses
import inspect
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from vidcloud.errors import PluginError
from vidcloud.pixels import Frame, PixelFormat, pixel_format, planes_of

YUV = ("yuv420p", "yuv422p", "yuv444p", "yuv440p", "yuv411p", "yuv410p")
"""Planar YUV of 8 bits, every subsampling. A filter that lists these sees the pixels as they were decoded."""
YUV16 = ("yuv420p16", "yuv422p16", "yuv444p16", "yuv440p16")
"""Planar YUV of 16 bits. Sources of 9 to 14 bits are scaled up to all 16, and back with rounding afterwards."""
WORK_FORMATS = (*YUV, *YUV16, "bgr24", "rgb24", "gray", "bgr48", "rgb48", "gray16")
"""All formats a filter may ask for. ``uint8`` has values 0…255, ``uint16`` full scale 0…65535."""


class Halo(NamedTuple):
    """How many frames before and after a frame a filter needs to make that frame."""

    before: int = 0
    after: int = 0

    def __add__(self, other: "Halo") -> "Halo":  # type: ignore[override]
        """Chained filters need the sum."""
        return Halo(self.before + other.before, self.after + other.after)


@dataclass(frozen=True)
class FrameSpec:
    """What the frames of a video have in common, told to a filter once before its first frame.

    Attributes:
        format: how the frames given to `Filter.apply` lie in memory.
        width: in pixels.
        height: in pixels.
        full_range: True if YUV luma uses 0…255 (of 8 bits), False for 16…235; always True for RGB and gray.
        matrix: FFmpeg's name of the YUV matrix (``bt709``, ``smpte170m``, …).
    """

    format: PixelFormat
    width: int
    height: int
    full_range: bool
    matrix: str


class At(NamedTuple):
    """Where a frame stands in the video: its index from 0 and its presentation time in seconds."""

    frame: int
    time_s: float


def param(
    default: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[str] = (),
    help: str = "",  # noqa: A002
) -> Any:
    """Declare a filter's parameter: its default, inclusive bounds or choices, and a line of help."""
    return dataclasses.field(
        default=default, metadata={"low": low, "high": high, "choices": tuple(choices), "help": help}
    )


class Filter(ABC):
    """A pure function of frames.

    Subclasses are dataclasses whose fields are the parameters (`param`; types ``int``, ``float``, ``bool``, ``str``).
    One instance serves one processor, is called for one frame at a time and in rising order within a chunk, and may
    keep buffers between calls but no pictures: what it writes may depend only on ``window``, ``at`` and its parameters.
    It must give the same bits wherever its buffers lie (``cv2.magnitude``, for one, does not). It must not change
    ``window``, nor keep references to it, and it should not start threads: chunks run in parallel already.
    """

    formats: ClassVar[tuple[str, ...]] = ("bgr24",)
    """Pixel formats it works in, the preferred first; see `WORK_FORMATS`."""

    @property
    def halo(self) -> Halo:
        """The neighbouring frames it needs; may depend on parameters."""
        return Halo()

    def setup(self, spec: FrameSpec) -> None:  # noqa: B027 - most filters have nothing to set up
        """Called once before the first frame: check parameters against the picture, build tables, allocate buffers.

        Raises:
            ValueError: a parameter makes no sense for these frames.
        """

    @abstractmethod
    def apply(self, window: Sequence[Frame], out: Frame, at: At) -> None:
        """Make one frame.

        Args:
            window: ``before + 1 + after`` frames, the one to filter at index ``halo.before``. At the video's ends the
                first or last frame is repeated. Packed RGB is ``(h, w, 3)``, gray ``(h, w)``, YUV a `Planes`.
            out: where the result goes, the same layout; its old contents are undefined.
            at: where the frame stands in the video.
        """


class _FunctionFilter(Filter):
    """The base of what `frame_filter` makes."""

    function: ClassVar[Callable[..., Any]]
    wants_at: ClassVar[bool]

    def apply(self, window: Sequence[Frame], out: Frame, at: At) -> None:
        kwargs = {f.name: getattr(self, f.name) for f in dataclasses.fields(typing.cast("Any", self))}
        if self.wants_at:
            kwargs["at"] = at
        result = type(self).function(window[0], **kwargs)
        parts = result if isinstance(result, tuple) else (result,)
        wanted = planes_of(out)
        if [_told(part) for part in parts] != [_told(want) for want in wanted]:
            returned, must = (", ".join(map(_told, arrays)) or "nothing" for arrays in (parts, wanted))
            raise ValueError(f"returned {returned}; must be {must}")
        for got, want in zip(parts, wanted, strict=True):
            np.copyto(want, got)


def _told(thing: object) -> str:
    return f"array {thing.shape} {thing.dtype}" if isinstance(thing, np.ndarray) else type(thing).__name__


def frame_filter(*, formats: Sequence[str] = ("bgr24",)) -> Callable[[Callable[..., Frame]], type[Filter]]:
    """Make a filter of a pure function of one frame.

    The function takes the frame, then keyword-only parameters with defaults (plain or `param`); one named ``at`` gets
    the frame's place (`At`). It returns a picture of the same shape and dtype (three planes for planar YUV), and must
    not write into its argument.

    Raises:
        TypeError: a parameter is not keyword-only or has no default or type.
    """

    def decorate(function: Callable[..., Frame]) -> type[Filter]:
        hints = typing.get_type_hints(function)
        fields: list[tuple[str, Any, Any]] = []
        wants_at = False
        for name, p in list(inspect.signature(function).parameters.items())[1:]:
            if name == "at":
                wants_at = True
                continue
            if p.kind is not p.KEYWORD_ONLY or p.default is p.empty or not (name in hints or _plain(p.default)):
                raise TypeError(f"{function.__name__}: parameter {name} must be keyword-only with a default and a type")
            declared = isinstance(p.default, dataclasses.Field)
            kind = hints.get(name) or type(p.default)
            fields.append((name, kind, p.default if declared else param(p.default)))
        made = dataclasses.make_dataclass(
            function.__name__,
            fields,
            bases=(_FunctionFilter,),
            namespace={"formats": tuple(formats), "function": staticmethod(function), "wants_at": wants_at},
        )
        made.__module__ = function.__module__
        made.__doc__ = function.__doc__
        return typing.cast("type[Filter]", made)

    return decorate


def _plain(value: object) -> bool:
    return isinstance(value, (bool, int, float, str))


@dataclass(frozen=True)
class Parameter:
    """A filter's parameter as the command line shows it."""

    name: str
    type: type
    default: Any
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    help: str

    def parse(self, text: str) -> Any:
        """The value that ``text`` means.

        Raises:
            ValueError: it is not of the type, or out of bounds.
        """
        value: Any
        if self.type is bool:
            low = text.lower()
            if low not in ("true", "false", "1", "0", "yes", "no"):
                raise ValueError(f"{self.name}={text}: must be true or false")
            value = low in ("true", "1", "yes")
        else:
            try:
                value = self.type(text)
            except ValueError:
                raise ValueError(f"{self.name}={text}: must be {_NOUN.get(self.type, self.type.__name__)}") from None
        self.check(value)
        return value

    def check(self, value: Any) -> None:
        """Check a value against the bounds.

        Raises:
            ValueError: it is out of bounds, not finite, or not one of the choices.
        """
        if self.choices and value not in self.choices:
            raise ValueError(f"{self.name}={value}: must be one of {', '.join(self.choices)}")
        if isinstance(value, float) and not np.isfinite(value):
            raise ValueError(f"{self.name}={value}: must be a finite number")
        if self.low is not None and value < self.low:
            raise ValueError(f"{self.name}={value}: must be at least {self.low:g}")
        if self.high is not None and value > self.high:
            raise ValueError(f"{self.name}={value}: must be at most {self.high:g}")


_NOUN = {int: "a whole number", float: "a number", str: "text"}


def parameters(cls: type[Filter]) -> tuple[Parameter, ...]:
    """A filter class's parameters in the order of declaration.

    Raises:
        PluginError: the class is not a dataclass, or a parameter has no default or a type other than
            ``int``, ``float``, ``bool``, ``str``.
    """
    made: Any = cls
    if not dataclasses.is_dataclass(made):
        raise PluginError(f"filter class {cls.__name__} must be a dataclass (put @dataclass above it)")
    hints = typing.get_type_hints(cls)
    found = []
    for field in dataclasses.fields(made):
        if not field.init:
            continue
        kind = hints[field.name]
        if kind not in (int, float, bool, str):
            raise PluginError(f"parameter {field.name} of {cls.__name__} must be int, float, bool or str")
        if field.default is MISSING:
            raise PluginError(f"parameter {field.name} of {cls.__name__} needs a default")
        meta = field.metadata
        found.append(
            Parameter(
                field.name,
                kind,
                field.default,
                meta.get("low"),
                meta.get("high"),
                meta.get("choices", ()),
                meta.get("help", ""),
            )
        )
    return tuple(found)


def configure(cls: type[Filter], values: Mapping[str, str], name: str) -> Filter:
    """Make a filter from its class and the parameters as text.

    Raises:
        PluginError: an unknown parameter or a bad value; the line names what there is.
    """
    known = {p.name.replace("_", "-"): p for p in parameters(cls)}
    parsed: dict[str, Any] = {}
    for key, text in values.items():
        p = known.get(key.replace("_", "-"))
        if p is None:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise PluginError(f"filter {name} has no parameter {key}: {has}")
        try:
            parsed[p.name] = p.parse(text)
        except ValueError as e:
            raise PluginError(f"filter {name}: {e}") from None
    try:
        made = cls(**parsed)
    except (TypeError, ValueError) as e:
        raise PluginError(f"filter {name}: {e}") from e
    unknown = [f for f in cls.formats if f not in WORK_FORMATS]
    if unknown or not cls.formats:
        raise PluginError(f"filter {name} asks for pixel format {unknown}: there are {', '.join(WORK_FORMATS)}")
    return made


def negotiate(native: PixelFormat, formats: Sequence[str]) -> PixelFormat:
    """Choose the format a filter works in for frames that come as ``native``.

    RGB never becomes YUV where the filter takes RGB, not even for depth; gray stays gray. Depth is kept before colour,
    and colour before subsampling. A 16-bit format is not chosen for an 8-bit source where one of 8 bits is offered: it
    would cost twice and show the same. The source's order of channels is kept. Among equals the filter's own order
    decides.
    """
    deep = native.bits > 8
    keeps_rgb = native.family == "rgb" and any(pixel_format(f).family == "rgb" for f in formats)

    def loss(order: int) -> tuple[bool | int, ...]:
        fmt = pixel_format(formats[order])
        return (
            keeps_rgb and fmt.family != "rgb",
            deep and fmt.bits == 8,
            (native.family == "gray") != (fmt.family == "gray"),
            fmt.family == "yuv" and (native.family != "yuv" or fmt.log2_chroma != native.log2_chroma),
            not deep and fmt.bits > 8,
            fmt.channels == native.channels == 3 and fmt.name[:3] != native.name[:3],
            order,
        )

    return pixel_format(formats[min(range(len(formats)), key=loss)])
