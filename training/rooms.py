"""The way from the instrument to the recording: equaliser, room, microphone noise, hum, level.

Nothing here delays the sound: a disturbed clip lines up sample by sample with the clean one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import signal

FloatArray = NDArray[np.float32]


def smooth_eq(rng: np.random.Generator, sample_rate: int, depth_db: float) -> NDArray[np.float64]:
    """A random, smooth, minimum-phase equaliser.

    A few cosines over log frequency (40 Hz to Nyquist), `depth_db` standard deviation.

    Returns: (512,) impulse response.
    """
    n_fft = 2048
    f = np.maximum(np.fft.rfftfreq(n_fft, 1 / sample_rate), 40.0)
    u = np.log(f / 40.0) / np.log(sample_rate / 80.0)
    weights = rng.normal(size=6) / np.array([1, 1, 1.5, 2, 2.5, 3])
    gain_db = depth_db * sum(w * np.cos(np.pi * k * u) for k, w in enumerate(weights, start=1))
    # Minimum phase through the cepstrum: a zero-phase filter would ring before the attack.
    cepstrum = np.fft.irfft(np.asarray(gain_db) * np.log(10) / 20, n_fft)
    fold = np.zeros(n_fft)
    fold[0], fold[1 : n_fft // 2], fold[n_fft // 2] = 1, 2, 1
    response = np.fft.irfft(np.exp(np.fft.rfft(cepstrum * fold)), n_fft)
    return np.asarray(response[:512])


def room_response(
    rng: np.random.Generator, sample_rate: int, rt60_s: float, wet: float
) -> NDArray[np.float64]:
    """Direct sound at sample 0 plus an exponentially decaying noise tail.

    Args:
        rng: generator.
        sample_rate: Hz.
        rt60_s: time in which the tail falls by 60 dB.
        wet: energy of the tail relative to the direct sound.
    """
    n = round(rt60_s * sample_rate)
    tail = rng.normal(size=n) * 10 ** (-3 * np.arange(n) / n)
    start = round(rng.uniform(0.001, 0.012) * sample_rate)
    tail[:start] = 0
    # Air and walls eat the highs first.
    b, a = signal.butter(1, rng.uniform(1500, 6000), fs=sample_rate)
    tail = signal.lfilter(b, a, tail)
    tail *= np.sqrt(wet / max(float(tail @ tail), 1e-12))
    tail[0] += 1.0
    return np.asarray(tail)


def coloured_noise(rng: np.random.Generator, n_samples: int, slope: float) -> NDArray[np.float64]:
    """Unit-RMS noise with power proportional to f^-slope (0 white, 1 pink, 2 brown)."""
    # A fast FFT length, cut afterwards: prime lengths are slow.
    n_fft = 1 << (n_samples - 1).bit_length()
    spectrum = np.fft.rfft(rng.normal(size=n_fft))
    # Flat below 30 Hz at 16 kHz, else brown noise is nothing but a wandering offset.
    k = np.maximum(np.arange(len(spectrum)), max(n_fft * 30 // 16000, 1))
    noise = np.fft.irfft(spectrum * k ** (-slope / 2), n_fft)[:n_samples]
    return np.asarray(noise / max(float(np.sqrt(np.mean(noise**2))), 1e-12))


def degrade(
    rng: np.random.Generator, clean: FloatArray, sample_rate: int, *, badly: bool = False
) -> FloatArray:
    """Record `clean` from afar: in a room, over a phone, in noise, or all three.

    A quarter of the clips come out untouched, a third get all three, the others each in half of
    the cases. Rooms are about as loud as the direct sound, half of them with early reflections;
    some players use an echo.

    Args:
        rng: the recording's generator.
        clean: (n_samples,) float32.
        sample_rate: Hz.
        badly: all three in any case.

    Returns: (n_samples,) float32, not delayed, within +-1.
    """
    x = clean.astype(np.float64)
    kind = rng.random()
    share = 1.0 if badly or kind >= 0.65 else 0.5 if kind >= 0.25 else 0.0
    room, phone, noise = rng.random(3) < share
    if rng.random() < 0.15:
        delay, gain = round(float(rng.uniform(0.12, 0.6)) * sample_rate), rng.uniform(0.1, 0.7)
        comb = np.zeros(delay + 1)
        comb[[0, -1]] = 1.0, -gain
        x = signal.lfilter([1.0], comb, x)
    if room:
        wet = 10 ** (rng.uniform(-8, 4) / 10)
        rt60_s = float(np.exp(rng.uniform(np.log(0.2), np.log(1.0))))
        tail = room_response(rng, sample_rate, rt60_s, wet)
        if rng.random() < 0.5:
            at = (rng.uniform(0.003, 0.05, 6) * sample_rate).astype(int)
            tail[at] += rng.uniform(-0.5, 0.5, 6)
        x = signal.oaconvolve(x, tail)[: len(x)]
    if phone:
        band = (rng.uniform(200, 400), rng.uniform(3000, 3800))
        sos = signal.butter(2, band, "bandpass", fs=sample_rate, output="sos")
        x = signal.sosfilt(sos, x)
    if noise:
        hiss = coloured_noise(rng, len(x), float(rng.uniform(0.0, 2.0)))
        x += np.sqrt(np.mean(x**2)) * 10 ** (-rng.uniform(9, 32) / 20) * hiss
    peak = 10 ** (rng.uniform(-20, -1) / 20)
    return (x * peak / max(float(np.abs(x).max()), 1e-9)).astype(np.float32)


def disturb(
    rng: np.random.Generator, clean: FloatArray, sample_rate: int
) -> tuple[FloatArray, dict[str, Any]]:
    """Record `clean` in a random room with a random microphone.

    About a third of the clips come out nearly untouched, so that the model also knows good sound.

    Args:
        rng: the clip's generator.
        clean: (n_samples,) float32.
        sample_rate: Hz.

    Returns: (n_samples,) float32 within +-1, and what was done as JSON values.
    """
    n = len(clean)
    x = clean.astype(np.float64)
    untouched = rng.random() < 0.33
    done: dict[str, Any] = {"untouched": untouched}

    depth_db = rng.uniform(0, 1.5) if untouched else rng.uniform(1.0, 7.0)
    x = signal.oaconvolve(x, smooth_eq(rng, sample_rate, depth_db))[:n]
    done["eq_depth_db"] = round(depth_db, 2)

    if rng.random() < 0.5:
        rt60_s = float(rng.uniform(0.1, 0.6)) * (0.5 if untouched else 1.0)
        wet_db = float(rng.uniform(-18, -8)) if untouched else float(rng.uniform(-14, 2))
        x = signal.oaconvolve(x, room_response(rng, sample_rate, rt60_s, 10 ** (wet_db / 10)))[:n]
        done |= {"rt60_s": round(rt60_s, 3), "wet_db": round(wet_db, 1)}

    band = rng.random()
    if not untouched and band < 0.1:
        b, a = signal.butter(2, (rng.uniform(150, 350), 3400), "bandpass", fs=sample_rate)
        x = signal.lfilter(b, a, x)
        done["band"] = "phone"
    elif not untouched and band < 0.25:
        cutoff_hz = float(rng.uniform(1800, 6000))
        b, a = signal.butter(1, cutoff_hz, fs=sample_rate)
        x = signal.lfilter(b, a, x)
        done["band"] = f"lowpass {cutoff_hz:.0f} Hz"

    x *= 0.9 / max(float(np.abs(x).max()), 1e-9)
    squeeze = rng.random()
    if not untouched and squeeze < 0.1:
        drive = float(rng.uniform(1.2, 4.0))
        x = np.tanh(drive * x) / np.tanh(drive)
        done["drive"] = round(drive, 2)
    elif not untouched and squeeze < 0.2:
        x = _compress(x, sample_rate, float(rng.uniform(0.3, 0.7)))
        done["compressed"] = True

    level = np.sqrt(np.mean(x**2)) + 1e-9
    snr_db = float(rng.uniform(45, 65) if untouched else rng.uniform(12, 60))
    slope = float(rng.choice((0.0, 1.0, 2.0)))
    x = x + level * 10 ** (-snr_db / 20) * coloured_noise(rng, n, slope)
    done |= {"snr_db": round(snr_db, 1), "noise_slope": slope}

    if not untouched and rng.random() < 0.25:
        mains_hz = float(rng.choice((50.0, 60.0)))
        hum_db = float(rng.uniform(-55, -20))
        t = np.arange(n) / sample_rate
        amplitudes = rng.random(8) / np.arange(1, 9) ** rng.uniform(0.3, 1.5)
        phases = rng.uniform(0, 2 * np.pi, 8)
        hum = sum(
            a * np.sin(2 * np.pi * mains_hz * k * t + p)
            for k, (a, p) in enumerate(zip(amplitudes, phases, strict=True), start=1)
        )
        x = x + level * 10 ** (hum_db / 20) * hum / np.sqrt(np.mean(np.square(hum)))
        done |= {"hum_hz": mains_hz, "hum_db": round(hum_db, 1)}

    level_db = float(rng.uniform(-12, 0) if untouched else rng.uniform(-30, 0))
    x *= 10 ** (level_db / 20) / max(float(np.abs(x).max()), 1e-9)
    done["peak_db"] = round(level_db, 1)
    return x.astype(np.float32), done


def _compress(x: NDArray[np.float64], sample_rate: int, amount: float) -> NDArray[np.float64]:
    """Even out loudness: gain = envelope^-amount, with a floor so that silence stays silent."""
    b, a = signal.butter(1, 8.0, fs=sample_rate)
    envelope = np.sqrt(np.maximum(signal.lfilter(b, a, x**2), 0))
    y = x * np.maximum(envelope, 0.02) ** -amount
    return np.asarray(y * 0.9 / max(float(np.abs(y).max()), 1e-9))
