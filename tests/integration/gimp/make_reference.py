"""Make the reference pictures of this folder with GIMP 2.10: all filters, two sets of parameters, three pictures.

To stay small, the first frame gets the first set but for the negative, the second frame gets the second set, and the
drawn picture gets all.

Run ``python make_reference.py`` after installing ``gimp``; the tests need neither. The inputs are two frames of the
example video and a drawn one, at 320x180. ``references.json`` says which filter must give which picture.
"""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import av
import cv2
import numpy as np

HERE = Path(__file__).parent
VIDEO = HERE.parents[2] / "examples/bigbuckbunny.mp4"
WIDTH, HEIGHT = 320, 180
SMALL = [
    cv2.IMWRITE_PNG_COMPRESSION, 9,
    cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_ALL_FILTERS,
    cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_FILTERED,
]  # fmt: skip

GAUSS = "(plug-in-gauss 1 image layer {0} {1} 0)"  # method 0 is IIR, as the prototype's scripts had it
MBLUR = "(plug-in-mblur 1 image layer {0} {1} {2} 160 90)"  # 0 linear, 1 radial, 2 zoom; around the centre
NEON = "(plug-in-neon 1 image layer {0} {1})"
EDGE = "(plug-in-edge 1 image layer {0} 2 0)"  # 2 smears the border outwards, 0 is Sobel
GLOW = "(plug-in-softglow 1 image layer {0} {1} {2})"
THRESHOLD = "(gimp-drawable-threshold layer 0 (/ {0} 255) (/ {1} 255))"  # channel 0 is the value
# GIMP compares 140/255 in single with 140/255 in double precision: halves keep the second set clear of the rounding.

# Name of the picture: the filter as a user writes it, and GIMP's procedures.
FILTERS = {
    "invert": ("invert", ["(gimp-drawable-invert layer FALSE)"]),
    "threshold": ("threshold", [THRESHOLD.format(170, 255)]),
    "threshold-2": ("threshold:low=60,high=140", [THRESHOLD.format(59.5, 140.5)]),
    "gaussian-blur": ("gaussian-blur", [GAUSS.format(5, 5)]),
    "gaussian-blur-2": ("gaussian-blur:horizontal=24,vertical=9", [GAUSS.format(24, 9)]),
    "edge": ("edge", [GAUSS.format(5, 5), EDGE.format(2)]),
    "edge-2": ("edge:amount=6,blur=2", [GAUSS.format(2, 2), EDGE.format(6)]),
    "edge-3": ("edge:amount=1.5,blur=0", [EDGE.format(1.5)]),
    "soft-glow": ("soft-glow", [GLOW.format(10, 0.75, 0.85)]),
    "soft-glow-2": ("soft-glow:radius=30,brightness=0.4,sharpness=0.3", [GLOW.format(30, 0.4, 0.3)]),
    "motion-blur-linear": ("motion-blur:type=linear,length=5,angle=5", [MBLUR.format(0, 5, 5)]),
    "motion-blur-linear-2": ("motion-blur:type=linear,length=25,angle=130", [MBLUR.format(0, 25, 130)]),
    "motion-blur-radial": ("motion-blur:type=radial,length=5,angle=5", [MBLUR.format(1, 5, 5)]),
    "motion-blur-radial-2": ("motion-blur:type=radial,length=5,angle=25", [MBLUR.format(1, 5, 25)]),
    "motion-blur-zoom": ("motion-blur:type=zoom,length=20,angle=5", [MBLUR.format(2, 20, 5)]),
    "motion-blur-zoom-2": ("motion-blur:type=zoom,length=60,angle=5", [MBLUR.format(2, 60, 5)]),
    "neon": ("neon", [MBLUR.format(2, 20, 5), NEON.format("15.0", "0.0")]),
    "neon-2": ("neon:radius=6,amount=1", [MBLUR.format(2, 20, 5), NEON.format("6.0", "1.0")]),
    "neon-alone": ("neon:blur=0", [NEON.format("15.0", "0.0")]),
    "neon-alone-2": ("neon:blur=0,radius=6,amount=1", [NEON.format("6.0", "1.0")]),
}


def wanted(name: str) -> dict[str, tuple[str, list[str]]]:
    """The filters for one picture."""
    if name == "drawn":
        return FILTERS
    if name == "bunny2":  # many pixels, and nothing that the drawn picture and the first frame do not show
        return {key: value for key, value in FILTERS.items() if key[-2:] == "-2"}
    return {key: value for key, value in FILTERS.items() if not key[-1:].isdigit() and key != "invert"}


def inputs() -> dict[str, np.ndarray]:
    """The pictures to filter, BGR."""
    found = {}
    with av.open(str(VIDEO)) as container:
        frames = list(container.decode(video=0))
    for name, at in (("bunny1", 0.2), ("bunny2", 0.75)):
        picture = frames[int(at * len(frames))].to_ndarray(format="bgr24")
        found[name] = cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    return found | {"drawn": drawn()}


def drawn() -> np.ndarray:
    """Pure colours, hard edges, thin lines and slopes: what tells colour spaces and borders apart."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    x = np.linspace(0, 255, WIDTH).astype(np.uint8)
    picture[:60, :, 0], picture[:60, :, 2] = x, x[::-1]
    picture[60:90] = x[:, None]
    for n, colour in enumerate(((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255), (0, 255, 255))):
        cv2.rectangle(picture, (n * 54, 90), (n * 54 + 40, 125), colour, -1)
        cv2.line(picture, (n * 54, 179), (n * 54 + 53, 130), colour, 1 + n % 3)
    cv2.circle(picture, (160, 90), 34, (255, 255, 255), -1)
    cv2.circle(picture, (160, 90), 20, (40, 90, 200), -1)
    cv2.rectangle(picture, (280, 20), (319, 60), (255, 255, 255), -1)
    return picture


def script(folder: Path, names: list[str]) -> str:
    """What GIMP shall do, as a Scheme program."""
    lines = []
    for name in names:
        for key, (_, calls) in wanted(name).items():
            lines += [
                f'(let* ((image (car (gimp-file-load 1 "{folder}/{name}.png" "{name}.png")))',
                "       (layer (car (gimp-image-get-active-layer image))))",
                *calls,
                f'(file-png-save 1 image layer "{folder}/{name}.{key}.png" "out.png" 0 9 0 0 0 0 0)',
                "(gimp-image-delete image))",
            ]
    return "\n".join(lines)


def main() -> None:
    """Write inputs, reference pictures and ``references.json``."""
    gimp = shutil.which("gimp")
    if gimp is None:
        raise SystemExit("gimp is not installed")
    references = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        pictures = inputs()
        for name, picture in pictures.items():
            cv2.imwrite(str(folder / f"{name}.png"), picture)
        (folder / "all.scm").write_text(script(folder, list(pictures)), "utf-8")
        command = [gimp, "-i", "-d", "-f", "-b", f'(load "{folder}/all.scm")', "-b", "(gimp-quit 0)"]
        # GIMP gives each tile to gegl:edge-neon as if it were a picture: with tiles of 128 pixels there are seams.
        one_tile = os.environ | {"GEGL_TILE_SIZE": "1024x1024"}
        subprocess.run(command, check=True, timeout=500, env=one_tile)
        for name in pictures:
            _keep(folder / f"{name}.png")
            for key, (text, _) in wanted(name).items():
                _keep(folder / f"{name}.{key}.png")
                references[f"{name}.{key}.png"] = [f"{name}.png", text]
    (HERE / "references.json").write_text(json.dumps(references, indent=1) + "\n", "utf-8")


def _keep(path: Path) -> None:
    """Write it here again as small as PNG gets: GIMP's own has comments and profiles."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise SystemExit(f"GIMP made no {path.name}: see its messages above")
    cv2.imwrite(str(HERE / path.name), picture, SMALL)


if __name__ == "__main__":
    main()
