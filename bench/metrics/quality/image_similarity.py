"""How alike two images are, pixel by pixel (mean squared error, PSNR) and window by window (SSIM), in float64."""

import math

import numpy as np
import numpy.typing as npt

from bench.samples.image_set import ImageSetError, Pixels

PEAK = 255.0
SIGMA = 1.5
RADIUS = 5
K1, K2 = 0.01, 0.03

_Plane = npt.NDArray[np.float64]


def mean_squared_error(one: Pixels, two: Pixels) -> float:
    """Over all values of two (height, width, 3) uint8 images, on the scale 0 to 255."""
    return float(np.mean((one.astype(np.float64) - two.astype(np.float64)) ** 2))


def psnr(squared_error: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error above 0."""
    return 10.0 * math.log10(PEAK**2 / squared_error)


def ssim(one: Pixels, two: Pixels) -> float:
    """Structural similarity of two (height, width, 3) uint8 images: 1 for equal ones, mean over colors and windows.

    Gaussian windows of 11 x 11 with sigma 1.5 that lie wholly inside, variances that divide by the sum of the weights.
    Source: Wang, Bovik, Sheikh, Simoncelli, Image Quality Assessment, IEEE TIP 13(4), 2004, equation 13.

    Raises:
        ImageSetError: the images are smaller than a window.
    """
    from scipy.ndimage import gaussian_filter

    if min(one.shape[:2]) <= 2 * RADIUS:
        raise ImageSetError(f"SSIM is given images of the shape {one.shape}; its windows are of 11 x 11 pixels.")

    def mean(values: _Plane) -> _Plane:
        blurred: _Plane = gaussian_filter(values, sigma=(SIGMA, SIGMA, 0), radius=(RADIUS, RADIUS, 0))
        return blurred[RADIUS:-RADIUS, RADIUS:-RADIUS]  # where no window hangs over the edge

    x, y = one.astype(np.float64), two.astype(np.float64)
    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = (K1 * PEAK) ** 2, (K2 * PEAK) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return float(np.mean(luminance * structure))
