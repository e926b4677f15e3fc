"""Whether an encoder gives every bit back: then a verification can compare pixels."""

from vidcloud.media.settings import EncodeSettings, Resolved

_ALWAYS = frozenset({"ffv1", "ffvhuff", "huffyuv", "magicyuv", "png", "apng", "qtrle", "rawvideo", "utvideo", "v210"})


def is_lossless(settings: EncodeSettings, resolved: Resolved) -> bool:
    """Whether the settings make the encoder lossless. False where that is not certain."""
    options = {k: str(v) for k, v in settings.options.items()}
    if resolved.encoder in _ALWAYS:
        return True
    if resolved.encoder in ("libx264", "libx264rgb"):
        deep = "10" in resolved.pix_fmt  # CRF 0 is lossless for 8 bits alone
        return options.get("qp") == "0" or (settings.crf == 0 and "qp" not in options and not deep)
    if resolved.encoder == "libx265":
        return "lossless=1" in options.get("x265-params", "").split(":")
    return resolved.encoder == "libvpx-vp9" and options.get("lossless") == "1"
