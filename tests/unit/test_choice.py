"""Which jobs must have one encoder, and what is refused."""

import pytest

from vidcloud.errors import UsageError
from vidcloud.media.settings import EncodeSettings
from vidcloud.planes.choice import check_asked, must_be_frames, one_encoder


def settings(codec="libx264", passes=1, crf=None, **options):
    return EncodeSettings(codec, crf, options={k.replace("_", "-"): v for k, v in options.items()}, passes=passes)


@pytest.mark.parametrize(
    "options",
    [
        {"b": "4M"},
        {"maxrate": "8M", "bufsize": "16M"},
        {"x264_params": "keyint=50:bitrate=2000"},
        {"x264_params": "vbv-maxrate=5000:vbv-bufsize=5000"},
        {"x264opts": "bitrate=800"},
    ],
)
def test_bits_that_are_spread_over_the_video_need_one_encoder(options):
    asked = settings(**options)
    assert one_encoder(asked)
    assert must_be_frames(asked, "fail")
    with pytest.raises(UsageError, match=r"--plane segments: .*use --plane frames"):
        check_asked("segments", "auto", asked, "fail")
    check_asked("frames", "auto", asked, "fail")
    check_asked("auto", "auto", asked, "fail")


@pytest.mark.parametrize(
    "options", [{}, {"crf": "20"}, {"x264_params": "keyint=50:bframes=2"}, {"b": "0"}, {"g": "50"}]
)
def test_constant_quality_does_not(options):
    assert one_encoder(settings(**options)) == ""
    check_asked("segments", "auto", settings(**options), "fail")


def test_damage_is_concealed_by_a_decoder_that_sees_all():
    assert must_be_frames(settings(), "conceal")
    with pytest.raises(UsageError, match="can't conceal damage"):
        check_asked("segments", "auto", settings(), "conceal")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"flags": "+pass1"}, "-e flags=+pass1: "),
        ({"flags": "+pass2", "b": "4M"}, "-e flags=+pass2: "),
        ({"x264_params": "stats=a.log:pass=2"}, "pass=2 in x264-params: "),
        ({"x265_params": "pass=3"}, "pass=3 in x265-params: "),
        ({"svtav1_params": "pass=1"}, "pass=1 in svtav1-params: "),
        ({"passlogfile": "a.log", "passes": 2, "b": "4M"}, "-e passlogfile=a.log: "),
        ({"x265_params": "stats=a.log", "passes": 2, "b": "4M"}, "stats=a.log in x265-params: "),
    ],
)
@pytest.mark.parametrize("plane", ["auto", "frames", "segments"])
def test_passes_by_hand_are_refused_with_what_to_do(options, told, plane):
    with pytest.raises(UsageError, match=r"use --passes 2") as refused:
        check_asked(plane, "auto", settings(**options), "fail")
    assert str(refused.value).startswith(told)


@pytest.mark.parametrize(
    "asked",
    [
        settings(passes=2, b="4M"),
        settings("libx264rgb", passes=2, b="4M"),
        settings("libx265", passes=2, x265_params="bitrate=4000"),
        settings(passes=2, b="4M", maxrate="5M", bufsize="9M", x264_params="keyint=50"),
    ],
)
def test_two_passes_need_one_encoder_that_sees_all(asked):
    check_asked("auto", "auto", asked, "fail")
    check_asked("frames", "coded", asked, "fail")
    assert must_be_frames(asked, "fail") == "two passes: one encoder must see the whole video twice"
    with pytest.raises(UsageError, match=r"--plane segments: two passes: .*: use --plane frames"):
        check_asked("segments", "auto", asked, "fail")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (
            settings("libsvtav1", passes=2, b="4M"),
            "--passes 2: libsvtav1 does not keep.*use --codec libx264 or libx265",
        ),
        (settings("ffv1", passes=2), "--passes 2: ffv1 does not keep"),
        (settings(passes=2), "--passes 2 needs a rate.*-e b=4M"),
        (settings(passes=2, b="0"), "--passes 2 needs a rate"),
        (settings(passes=2, maxrate="4M", bufsize="8M"), "--passes 2 needs a rate"),
        (settings(passes=2, crf=20), "constant quality has none: give -e b=4M"),
        (settings(passes=2, b="4M", crf=20), "constant quality has none"),
        (settings(passes=2, b="4M", qp="20"), "constant quality has none"),
        (settings(passes=2, x264_params="crf=20:bitrate=4000"), "constant quality has none"),
    ],
)
def test_two_passes_that_have_nothing_to_spread_are_refused(asked, told):
    with pytest.raises(UsageError, match=told):
        check_asked("auto", "auto", asked, "fail")


def test_settings_of_jobs_from_before_two_passes_still_load():
    record = settings(b="4M").to_json()
    assert record.pop("passes") == 1
    assert EncodeSettings.from_json(record) == settings(b="4M")
    assert EncodeSettings.from_json(settings(passes=2, b="4M").to_json()).passes == 2


@pytest.mark.parametrize(
    "codec", ["libx264", "libx265", "libsvtav1", "libvpx-vp9", "ffv1", "prores_ks", "mjpeg", "mpeg4"]
)
def test_codecs_that_join(codec):
    assert must_be_frames(settings(codec), "fail") == ""
    check_asked("segments", "auto", settings(codec), "fail")


@pytest.mark.parametrize("codec", ["msmpeg4v2", "snow", "gif"])
def test_other_codecs_stay_with_one_encoder(codec):
    assert "not known to join" in must_be_frames(settings(codec), "fail")
    with pytest.raises(UsageError, match=r"not known to join: use --plane frames"):
        check_asked("segments", "auto", settings(codec), "fail")
    check_asked("auto", "auto", settings(codec), "fail")


def test_damage_is_concealed_by_who_decodes_all_of_it():
    with pytest.raises(UsageError, match=r"--pack coded can't conceal .*use --pack auto"):
        check_asked("frames", "coded", settings(), "conceal")
    check_asked("frames", "coded", settings(), "fail")
