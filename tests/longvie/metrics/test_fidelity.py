from __future__ import annotations

import cv2
import numpy as np
import piq
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

from longvie.metrics.fidelity import MS_SSIM_MIN_SIDE, PSNR_CAP, fidelity, undefined_at
from longvie.video import fit_frames, read_frames
from tests.longvie.metrics.frames import FILM, blurred, noisy, shifted


@pytest.fixture(scope="module")
def film() -> torch.Tensor:
    """Four real frames that are far apart, 176x192."""
    frames = torch.cat([read_frames(FILM, at, at + 1) for at in (0, 40, 80, 120)])
    return fit_frames(frames, 176, 192)


def test_equal_frames_are_perfect(film: torch.Tensor) -> None:
    scores = fidelity(film, film)
    assert set(scores) == {"psnr", "ssim", "ms_ssim", "vif"}
    assert (scores["psnr"] == PSNR_CAP).all()
    for name in ("ssim", "ms_ssim", "vif"):
        assert scores[name].numpy() == pytest.approx(1, abs=1e-4)


def test_one_score_a_frame_whatever_the_batch(film: torch.Tensor) -> None:
    worse = noisy(film, 12)
    together = fidelity(worse, film)
    for at in range(len(film)):
        alone = fidelity(worse[at : at + 1], film[at : at + 1])
        for name, scores in together.items():
            assert scores.shape == (len(film),)
            assert float(alone[name][0]) == pytest.approx(float(scores[at]), rel=1e-4), name


@pytest.mark.parametrize("worsen", [blurred, noisy, shifted])
def test_more_of_a_fault_is_worse(film: torch.Tensor, worsen) -> None:
    previous = fidelity(film, film)
    for amount in (2, 5, 11):
        scores = fidelity(worsen(film, amount), film)
        for name, value in scores.items():
            assert value.mean() < previous[name].mean(), f"{name} at {amount}"
        previous = scores


def test_frames_in_another_order_are_worse(film: torch.Tensor) -> None:
    scores = fidelity(film.flip(0), film)
    assert all(value.mean() < 0.9 for name, value in scores.items() if name != "psnr")
    assert scores["psnr"].mean() < 30


def test_psnr_and_ssim_are_those_of_scikit_image(film: torch.Tensor) -> None:
    for worse in (blurred(film, 5), noisy(film, 20)):
        scores = fidelity(worse, film)
        for at in (0, 2):
            one, two = worse[at].numpy(), film[at].numpy()
            psnr = peak_signal_noise_ratio(two, one, data_range=255)
            options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
            _, ssim = structural_similarity(two, one, data_range=255, channel_axis=-1, full=True, **options)
            assert float(scores["psnr"][at]) == pytest.approx(psnr, abs=1e-3)
            pair = [frame[at : at + 1].permute(0, 3, 1, 2).float() for frame in (worse, film)]
            _, own = structural_similarity_index_measure(*pair, data_range=255.0, return_full_image=True)
            inner = slice(5, -5)  # the window fits: beyond, one library mirrors with the last pixel, the other without
            assert own[0, :, inner, inner].numpy() == pytest.approx(ssim.transpose(2, 0, 1)[:, inner, inner], abs=2e-3)
            assert float(scores["ssim"][at]) == pytest.approx(float(own.mean()), abs=1e-6)
            assert float(scores["ssim"][at]) == pytest.approx(ssim.mean(), abs=2e-3)


def test_vif_is_that_of_the_paper(film: torch.Tensor) -> None:
    """Against the published algorithm (Sheikh & Bovik's vifp_mscale), written here with OpenCV and numpy alone."""
    for worse in (blurred(film, 5), noisy(film, 20)):
        scores = fidelity(worse, film)["vif"]
        for at in range(len(film)):
            channels = [vifp(film[at, ..., c].numpy(), worse[at, ..., c].numpy()) for c in range(3)]
            assert float(scores[at]) == pytest.approx(np.mean(channels), rel=2e-3)


def test_vif_is_that_of_piq(film: torch.Tensor) -> None:
    """A second library, channel by channel: of colours it would take the luminance."""
    for worse in (blurred(film, 5), noisy(film, 20)):
        scores = fidelity(worse, film)["vif"]
        one, two = (frames.permute(0, 3, 1, 2).float() for frames in (worse, film))
        channels = [
            piq.vif_p(one[:, c : c + 1], two[:, c : c + 1], data_range=255.0, reduction="none") for c in range(3)
        ]
        assert scores.numpy() == pytest.approx(torch.stack(channels).mean(0).numpy(), rel=5e-3)


def test_vif_on_another_range_is_refused(film: torch.Tensor) -> None:
    with pytest.raises(TypeError, match="give uint8"):
        fidelity(film.float() / 255, film.float() / 255)


def test_other_shapes_are_refused(film: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="give the same shape"):
        fidelity(film[:2], film)


def test_small_frames_have_no_vif_and_no_ms_ssim() -> None:
    small = torch.zeros(1, 32, 48, 3, dtype=torch.uint8)
    assert set(fidelity(small, small)) == {"psnr", "ssim"}
    assert set(undefined_at(32, 48)) == {"vif", "ms_ssim"}
    assert not undefined_at(MS_SSIM_MIN_SIDE, MS_SSIM_MIN_SIDE)


def vifp(truth: np.ndarray, made: np.ndarray) -> float:
    noise, numerator, denominator = 2.0, 0.0, 0.0
    truth, made = truth.astype(np.float64), made.astype(np.float64)
    for scale in range(1, 5):
        size = 2 ** (4 - scale + 1) + 1
        kernel = cv2.getGaussianKernel(size, size / 5)
        edge = size // 2

        def blur(image, kernel=kernel, edge=edge):
            return cv2.sepFilter2D(image, -1, kernel, kernel)[edge:-edge, edge:-edge]

        if scale > 1:
            truth, made = blur(truth)[::2, ::2], blur(made)[::2, ::2]
        mu1, mu2 = blur(truth), blur(made)
        s1, s2 = np.maximum(blur(truth**2) - mu1**2, 0), np.maximum(blur(made**2) - mu2**2, 0)
        s12 = blur(truth * made) - mu1 * mu2
        g = s12 / (s1 + 1e-10)
        sv = s2 - g * s12
        g[s1 < 1e-10], sv[s1 < 1e-10], s1[s1 < 1e-10] = 0, s2[s1 < 1e-10], 0
        g[s2 < 1e-10], sv[s2 < 1e-10] = 0, 0
        sv[g < 0], g[g < 0] = s2[g < 0], 0
        sv = np.maximum(sv, 1e-10)
        numerator += np.log10(1 + g**2 * s1 / (sv + noise)).sum()
        denominator += np.log10(1 + s1 / noise).sum()
    return numerator / denominator
