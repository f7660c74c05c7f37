"""Views of sequences: they keep order and time, stay within their limits, and know nothing of padding."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.interpolate import interp1d

from weigher.errors import RequestError
from weigher.pairs import sequence_views
from weigher.pairs.sequence_views import (
    LineViewConfig,
    SpeechViewConfig,
    check_aligned,
    furthest,
    line_view,
    speech_view,
    speech_views,
    stretched,
)

STILL_LINE = LineViewConfig(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
STILL_SPEECH = SpeechViewConfig(0.0, 0.0, 0.0, 0, 0, 0.0, 0.0)
WIDTHS = torch.tensor([20, 31])


def rng(seed=0):
    return np.random.default_rng(seed)


def lines(b=2, h=9, w=31):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(b, 1, h, w, dtype=torch.float64, generator=generator)


def with_only(still, **changed):
    return type(still)(**{**still.__dict__, **changed})


def column_of_mass(images):
    mass = images.sum((1, 2))
    return (mass * torch.arange(images.shape[3])).sum(1) / mass.sum(1)


def row_of_mass(images):
    mass = images.sum((1, 3))
    return (mass * torch.arange(images.shape[2])).sum(1) / mass.sum(1)


def bar(b=200, h=11, w=41):
    """A blurred upright bar in the middle of each image."""
    x = torch.arange(w, dtype=torch.float64) - w // 2
    return torch.exp(-(x**2) / 4).expand(b, 1, h, w).clone()


def test_a_line_is_not_moved_further_than_is_said():
    config = with_only(STILL_LINE, shift_pixels=1.5)
    views = [line_view(bar(), None, config, generator) for generator in (rng(0), rng(1))]
    places = [column_of_mass(view) - 20 for view in views]
    assert all(place.abs().max() < 1.5 + 1e-6 for place in places)
    assert all(place.abs().max() > 1.3 and place.std() > 0.5 for place in places)
    assert (places[0] - places[1]).abs().max() < config.apart(11) == 3.0
    slanted = line_view(bar(), None, with_only(STILL_LINE, slant=0.2), rng())
    torch.testing.assert_close(
        column_of_mass(slanted), torch.full((200,), 20.0, dtype=torch.float64), atol=1e-6, rtol=0
    )
    top, bottom = (column_of_mass(slanted[:, :, [row]]) - 20 for row in (0, 10))
    torch.testing.assert_close(top, -bottom, atol=1e-6, rtol=0)
    assert 0.8 < top.abs().max() < 1.0 + 1e-6  # 0.2 for each of the five rows from the middle
    assert with_only(STILL_LINE, slant=0.2).apart(11) == pytest.approx(2.0)


def test_other_changes_of_a_line_move_nothing_along_it():
    config = LineViewConfig(shift_pixels=0.0, slant=0.0, noise=0.0)
    place = column_of_mass(line_view(bar(), None, config, rng()))
    torch.testing.assert_close(place, torch.full((200,), 20.0, dtype=torch.float64), atol=0.05, rtol=0)
    blob = bar(h=41).mT.mT * bar(h=41, w=41).mT  # round, in the middle
    moved = row_of_mass(line_view(blob, None, with_only(STILL_LINE, shift_down=0.1), rng())) - 20
    assert 3.8 < moved.abs().max() < 4.1 + 1e-6
    assert moved.std() > 2
    swung = row_of_mass(line_view(blob, None, with_only(STILL_LINE, wave=0.05), rng())) - 20
    assert 1 < swung.abs().max() < 0.05 * 41 + 1e-6


def test_contrast_keeps_the_mean_and_blur_softens_or_sharpens():
    x = lines(b=100)
    view = line_view(x, None, with_only(STILL_LINE, contrast=0.4), rng())
    torch.testing.assert_close(view.mean((1, 2, 3)), x.mean((1, 2, 3)), atol=1e-5, rtol=0)
    ratio = view.std((1, 2, 3)) / x.std((1, 2, 3))
    assert 0.6 - 1e-4 < ratio.min() < 0.65
    assert 1.35 < ratio.max() < 1.4 + 1e-4
    view = line_view(x, None, with_only(STILL_LINE, blur=1.0), rng())
    ratio = view.std((1, 2, 3)) / x.std((1, 2, 3))
    assert ratio.min() < 0.6
    assert ratio.max() > 1.4
    kernel = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 4
    wide = F.pad(x, (1, 1, 1, 1), mode="replicate")
    expected = F.conv2d(wide, (kernel[:, None] * kernel)[None, None])
    torch.testing.assert_close(sequence_views._blurred(x), expected)
    noisy = line_view(x, None, with_only(STILL_LINE, noise=0.3), rng()) - x
    assert noisy.std().item() == pytest.approx(0.3, rel=0.05)


def test_padding_of_lines_is_invisible():
    config = LineViewConfig(noise=0.0)
    x = lines()
    x[0, ..., 20:] = math.nan
    view = line_view(x, WIDTHS, config, rng())
    longer = line_view(F.pad(x, (0, 7), value=math.nan), WIDTHS, config, rng())
    torch.testing.assert_close(longer[..., :31], view, atol=1e-5, rtol=0)
    assert not view[0, ..., 20:].any()
    both = line_view(x[[0, 0], ..., :20], None, config, rng())
    torch.testing.assert_close(view[0, ..., :20], both[0], atol=1e-5, rtol=0)


def test_no_line_reads_its_padding_whatever_its_width():
    widths = torch.arange(1, 32)
    x = torch.rand(31, 1, 9, 31)
    spoiled = x.masked_fill((torch.arange(31) >= widths[:, None])[:, None, None], math.nan)
    view = line_view(spoiled, widths, STILL_LINE, rng())
    expected = x.masked_fill(spoiled.isnan(), 0)
    torch.testing.assert_close(view, expected, atol=1e-4, rtol=0)


def test_lines_are_drawn_apart_and_again_from_a_seed():
    x = lines(b=1).expand(2, -1, -1, -1)
    view = line_view(x, None, LineViewConfig(), rng())
    assert not torch.allclose(view[0], view[1], atol=0.01)
    assert torch.equal(view, line_view(x, None, LineViewConfig(), rng()))
    assert not torch.equal(view, line_view(x, None, LineViewConfig(), rng(1)))
    point = torch.rand(3, 1, 1, 1)
    assert line_view(point, None, LineViewConfig(), rng()).shape == (3, 1, 1, 1)


def speech(b=2, t=30, f=12):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(b, t, f, dtype=torch.float64, generator=generator)


def test_stretching_is_interpolation_between_frames():
    x, lengths, new = speech(), torch.tensor([30, 17]), torch.tensor([41, 15])
    made = stretched(x.masked_fill((torch.arange(30) >= lengths[:, None])[..., None], math.nan), lengths, new)
    assert made.shape == (2, 41, 12)
    for row, (n, m) in enumerate(zip(lengths.tolist(), new.tolist(), strict=True)):
        place = ((np.arange(m) + 0.5) * n / m - 0.5).clip(0, n - 1)
        expected = interp1d(np.arange(n), x[row, :n].numpy(), axis=0)(place)
        np.testing.assert_allclose(made[row, :m], expected, atol=1e-5)
        assert not made[row, m:].any()
    assert torch.equal(stretched(x, torch.tensor([30, 30]), torch.tensor([30, 30])), x)


def test_both_views_of_speech_are_stretched_alike_and_kept_in_time():
    x = speech(b=40, t=100)
    config = SpeechViewConfig(band_mask=0.0, time_masks=0, noise=0.0)
    first, second, lengths = speech_views(x, None, config, rng())
    assert 90 <= lengths.min() < 93
    assert 107 < lengths.max() <= 110
    apart = first - second  # level and channel alone: the same at all times
    for row, n in enumerate(lengths.tolist()):
        torch.testing.assert_close(apart[row, :n], apart[row, :1].expand(n, -1), atol=1e-5, rtol=0)
        assert apart[row, 0].abs().max() > 0.01
    _, _, same = speech_views(x, None, with_only(config, stretch=0.0), rng())
    assert (same == 100).all()


def test_level_and_channel_are_the_same_at_all_times_and_within_their_limits():
    x = speech(b=300)
    change = speech_view(x, None, with_only(STILL_SPEECH, gain=0.7), rng()) - x
    torch.testing.assert_close(change, change[:, :1, :1].expand_as(change))
    assert 0.65 < change.abs().max() <= 0.7 + 1e-6
    change = speech_view(x, None, with_only(STILL_SPEECH, colour=0.9), rng()) - x
    torch.testing.assert_close(change, change[:, :1].expand_as(change))
    assert 0.5 < change.abs().max() <= 0.9 + 1e-6
    assert change[:, 0].diff(dim=1).abs().max() < 0.9 / 3 * (1 + 2 + 3) * math.pi / 12  # smooth over the bands
    noise = speech_view(x, None, with_only(STILL_SPEECH, noise=0.4), rng()) - x
    assert noise.std().item() == pytest.approx(0.4, rel=0.02)


def test_what_is_hidden_is_one_stretch_of_the_mean():
    x, lengths = speech(b=300), torch.randint(1, 31, (300,), generator=torch.Generator().manual_seed(0))
    real = torch.arange(30) < lengths[:, None]
    x = x.masked_fill(~real[..., None], math.nan)
    mean = torch.stack([row[:n].mean(0) for row, n in zip(x, lengths, strict=True)])
    view = speech_view(x, lengths, with_only(STILL_SPEECH, band_mask=0.3), rng())
    hidden = (view - mean[:, None]).abs().lt(1e-6) & real[..., None]
    bands = hidden[:, 0]
    assert bands[lengths > 1].sum(1).unique().tolist() == [0, 1, 2, 3]  # of 12 bands at most 3
    assert (bands.int().diff(dim=1).clamp(min=0).sum(1) + bands[:, 0] <= 1)[lengths > 1].all()
    assert (hidden == (bands[:, None] & real[..., None])).all()
    config = with_only(STILL_SPEECH, time_masks=2, time_mask_frames=4)
    view = speech_view(x, lengths, config, rng())
    frames = ((view - mean[:, None]).abs().lt(1e-6) & real[..., None]).all(2)
    counts = frames.sum(1)[lengths > 1]
    assert counts.min() == 0
    assert 6 <= counts.max() <= 8
    assert (frames.int().diff(dim=1).clamp(min=0).sum(1) + frames[:, 0] <= 2).all()
    assert torch.equal(view[real & ~frames], x[real & ~frames])
    assert frames[:, 0].any()
    assert frames[lengths > 8].any(1).double().mean() > 0.9  # 24 of 25 are hit at all; of shorter ones see below
    assert frames[torch.arange(300), lengths - 1].any()


def test_what_is_hidden_has_the_level_and_colour_of_its_view():
    """A recording that is the same at all times: so is its view, whatever is hidden."""
    x, lengths = speech(b=50)[:, :1].expand(50, 30, 12).clone(), torch.arange(50) % 30 + 1
    real = (torch.arange(30) < lengths[:, None])[..., None]
    x = x.masked_fill(~real, math.nan)
    config = with_only(SpeechViewConfig(), noise=0.0, gain=2.0)
    view = speech_view(x, lengths, config, rng())
    torch.testing.assert_close(view, view[:, :1].expand_as(view).masked_fill(~real, 0))
    x, lengths = speech(b=50), None  # where a front end takes each band's mean off, level and colour are gone
    views = [speech_view(x, lengths, with_only(config, gain=gain, colour=gain), rng()) for gain in (0.0, 2.0)]
    one, two = (view - view.mean(1, keepdim=True) for view in views)
    torch.testing.assert_close(one, two, atol=1e-5, rtol=0)
    noisy = speech_view(x, lengths, with_only(STILL_SPEECH, noise=1.0, band_mask=1.0), rng())
    hidden = (noisy == noisy[:, :1]).all(1)
    assert hidden.any()
    assert (noisy.mean(1) - x.mean(1))[hidden].abs().max() > 0.01  # the mean of what was heard, noise included


def test_a_hidden_stretch_ends_where_the_recording_does():
    start, size = torch.meshgrid(torch.linspace(0, 0.999, 50), torch.linspace(0, 0.999, 50), indexing="ij")
    lengths = torch.full((2500,), 7)
    hidden = sequence_views._within(torch.arange(9), start.flatten(), size.flatten(), lengths, 4)
    assert (hidden.sum(1) == (size.flatten() * 5).floor()).all()  # none is cut short
    assert not hidden[:, 7:].any()
    assert hidden[:, 0].any()
    assert hidden[:, 6].any()


def test_of_short_recordings_no_more_is_hidden_than_an_instance():
    """4 parts: stretches of at most 10 frames in 40 and more, of 3 in 15, of none in 3."""
    lengths = torch.tensor([60, 40, 15, 3]).repeat(300)
    config = with_only(STILL_SPEECH, time_masks=1, time_mask_frames=10)
    x = speech(b=len(lengths), t=60)
    views = speech_views(x, lengths, config, rng(), instances=4)[:2]
    for view in views:
        hidden = (view != x).all(2) & (torch.arange(60) < lengths[:, None])
        assert hidden.sum(1).view(-1, 4).amax(0).tolist() == [10, 10, 3, 0]


def test_a_frame_of_a_short_recording_is_left_whatever_may_be_hidden():
    lengths = torch.arange(1, 9).repeat_interleave(500)
    x = torch.randn(len(lengths), 8, 3, generator=torch.Generator().manual_seed(0))
    config = SpeechViewConfig(gain=0, colour=0, noise=0, band_mask=0, time_masks=2, time_mask_frames=90)
    view = speech_view(x, lengths, config, np.random.default_rng(0))
    real = torch.arange(8) < lengths[:, None]
    shown = (view == x).all(2) & real
    assert shown.any(1).all()
    share = (real & ~shown).any(1).view(8, 500).double().mean(1)
    longest = (torch.arange(1, 9) - 1) // 2  # of each of the two stretches, whose length is drawn from 0 to that
    torch.testing.assert_close(share, 1 - 1 / (longest + 1.0).double() ** 2, atol=0.05, rtol=0)


def test_padding_of_speech_is_invisible():
    config = with_only(SpeechViewConfig(), noise=0.0)
    x, lengths = speech(), torch.tensor([30, 19])
    x[1, 19:] = math.nan
    found = speech_views(x, lengths, config, rng())
    longer = speech_views(F.pad(x, (0, 0, 0, 9), value=math.nan), lengths, config, rng())
    for one, two in zip(found, longer, strict=True):
        assert one.isfinite().all()
        torch.testing.assert_close(one, two)
    assert not found[0][1, int(found[2][1]) :].any()


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: check_aligned(6.5, furthest(60, "window", 5)), "half an instance is 6"),
        (lambda: check_aligned(LineViewConfig().apart(12), furthest(60, "frame", stride=2)), "fewer windows"),
        (lambda: LineViewConfig(noise=-1.0), "noise = -1.0"),
        (lambda: LineViewConfig(zoom_down=1.0), "zoom_down"),
        (lambda: LineViewConfig(shift_pixels=math.inf), "shift_pixels"),
        (lambda: SpeechViewConfig(stretch=1.0), "stretch"),
        (lambda: SpeechViewConfig(time_masks=-1), "time_masks"),
        (lambda: line_view(torch.zeros(2, 5, 9), None, STILL_LINE, rng()), "colours, height, width"),
        (lambda: line_view(lines(), torch.tensor([31, 0]), STILL_LINE, rng()), "row 1 has the length 0"),
        (lambda: speech_views(torch.zeros(5, 9), None, STILL_SPEECH, rng()), "batch, time, feature"),
        (lambda: speech_views(speech(), torch.tensor([31, 3]), STILL_SPEECH, rng()), "row 0 has the length 31"),
    ],
)
def test_bad_inputs_are_said(call, said):
    with pytest.raises(RequestError, match=said):
        call()


def test_half_an_instance():
    assert furthest(60, "window", 10) == 3
    assert furthest(60, "frame", 10, stride=4) == 2
    check_aligned(3.0, furthest(60, "window", 10))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("line_view", (lines(), WIDTHS, LineViewConfig(), rng())),
        ("speech_views", (speech(), torch.tensor([30, 3]), SpeechViewConfig(), rng())),
        ("speech_view", (speech(), None, SpeechViewConfig(), rng())),
        ("stretched", (speech(), torch.tensor([30, 3]), torch.tensor([33, 3]))),
    ],
)
def test_shapes_are_as_written(checked, name, arguments):
    checked(sequence_views, name)(*arguments)
