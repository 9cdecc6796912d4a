"""The protocol that judges a model: a quick look at every checkpoint, and the whole measurement on the test tracks."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import asdict, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from src import paths, runtime
from src.audio import classifier as stem_classifier
from src.audio import generate, metrics, show, spectrogram, vae
from src.audio.data import SILENCE, STEMS, Tracks, load_musdb18, resample, write_audio
from src.config import OPERATING_SDR_DB, AudioEvaluationConfig

CHECKPOINT_SDRS_DB = (12.0, 18.2)  # at which checkpoints are compared
# Shown at every checkpoint: of the validation tracks, one with all four stems that may be passed on (CC BY-NC-SA 4.0,
# from MedleyDB).
CHECKPOINT_EXAMPLE = "Alexander Ross - Goodbye Bolero"
CHECKPOINT_SECONDS = 4.0

Row = dict[str, float]
Scores = dict[str, float | int | None]


class Judge:
    """Compares checkpoints on the validation tracks: always the same sound, water levels and noise."""

    def __init__(self, tracks: Tracks):
        named = CHECKPOINT_EXAMPLE if CHECKPOINT_EXAMPLE in tracks.names else tracks.names[0]
        samples = int(CHECKPOINT_SECONDS * tracks.sample_rate)
        self.example = tracks.waveforms[tracks.names.index(named)][:, :samples]
        shortest = min(30 * tracks.sample_rate, *(stems.shape[1] for stems in tracks.waveforms))
        self.stems = [torch.stack([stems[stem, :shortest] for stems in tracks.waveforms]) for stem in range(len(STEMS))]

    @torch.inference_mode()
    def rank(self, model: vae.StemVAE) -> dict:
        """`objective_kbit_s`, the negative evidence lower bound, mean over stems, tracks and two SDRs: lower is better.
        Then of each stem at the higher SDR the medians of both rates in kbit/s, of the SDR and of the mel's error."""
        where = next(model.parameters()).device
        scores, total = {}, 0.0
        for stem, name in enumerate(STEMS):
            heard = self.stems[stem]
            waveforms = heard[heard.square().mean(1) > SILENCE].to(where)
            kbit = waveforms.shape[1] / model.config.sample_rate * vae.NATS_PER_KBIT
            for sdr_db in CHECKPOINT_SDRS_DB:
                wanted = torch.full((len(waveforms),), sdr_db, device=where)
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(0)
                    coded = model(waveforms, stem, vae.water_level(model.log_mel(waveforms), wanted, model.config))
                rate = (coded.mel_divergence.sum(1) + coded.fine_divergence.sum(1)) / kbit
                total += (rate + coded.distortion.sum(1) / 2 / kbit).mean().item()
            decoded = spectrogram.imdct(coded.coefficients, waveforms.shape[1])
            scores[name] = {
                "rate_kbit_s": _median(rate.tolist()),
                "mel_rate_kbit_s": _median((coded.mel_divergence.sum(1) / kbit).tolist()),
                "sdr_global_db": _median(metrics.sdr_global(waveforms.cpu(), decoded.cpu()).tolist()),
                "mel_error_db": _median(metrics.log_mel_error(coded.log_mel, coded.decoded_mel).tolist()),
            }
        return {"objective_kbit_s": round(total / len(STEMS) / len(CHECKPOINT_SDRS_DB), 4), **scores}

    def illustrate(self, model: vae.StemVAE, where: paths.AudioPaths, epoch: int) -> None:
        """Write the example as the model regenerates it, stem by stem, and its spectrograms beside the originals'."""
        rate = model.config.sample_rate
        heard, decoded = {}, {}
        for stem, waveform in zip(STEMS, self.example, strict=True):
            result = generate.reconstruct(model, waveform.numpy(), rate, stem)
            write_audio(where.reconstruction(epoch, stem), result.waveform[None], rate)
            heard[stem] = model.log_mel(waveform[None].to(runtime.device()))[0].cpu().numpy()
            decoded[f"{stem}, from z_mel"] = result.decoded_mel
        show.save(show.spectrograms(heard | decoded, model.config), where.spectrogram(epoch))


def _median(values: list[float]) -> float:
    return round(float(np.nanmedian(values)), 4)


# --- regenerated stems ---


def evaluate(model: vae.StemVAE, config: AudioEvaluationConfig, split: str = "test") -> dict:
    """Everything that RESULTS.md says of a model: `protocol`, and stem by stem `final` (the operating point), `curve`,
    `closed_form`, `equal_sdr`, `perceptual`, `baselines`; then `resampled`, `generated` and `speed`."""
    tracks = load_musdb18(split, model.config.sample_rate).first(config.tracks)
    measured = {"protocol": describe_protocol(config, tracks, split), "calibration": calibrate(model, config)}
    parts = ("final", "curve", "closed_form", "equal_sdr", "perceptual", "baselines")
    measured |= {part: {} for part in parts}
    simple = closed_form(model)
    for stem, name in enumerate(STEMS):
        heard = audible(tracks, stem)
        operating = OPERATING_SDR_DB[stem]
        measured["final"][name] = measure(model, heard, name, operating)
        measured["curve"][name] = [
            measure(model, heard, name, sdr_db, listen=sdr_db in config.heard_sdr_db) for sdr_db in config.curve_sdr_db
        ]
        measured["closed_form"][name] = [measure(simple, heard, name, sdr_db) for sdr_db in config.curve_sdr_db]
        measured["equal_sdr"][name] = [
            compare(measured["curve"][name], measured["closed_form"][name], sdr_db) for sdr_db in config.equal_sdr_db
        ]
        measured["perceptual"][name] = [
            row
            for plain in measured["curve"][name]
            if plain["asked_sdr_db"] in config.heard_sdr_db
            for row in (plain, measure(model, heard, name, plain["asked_sdr_db"], config.fill, listen=True))
        ]
        measured["baselines"][name] = measure_baselines(model, heard, name)
    measured["resampled"] = measure_resampled(model, load_musdb18(split, 44_100).first(config.tracks))
    measured["generated"] = measure_generated(model, config, tracks)
    measured["speed"] = measure_speed(model, tracks)
    return measured


def calibrate(model: vae.StemVAE, config: AudioEvaluationConfig) -> dict[str, dict[str, list[Scores]]]:
    """What the operating points and `fill` are chosen by: scores on the validation tracks."""
    tracks = load_musdb18("validation", model.config.sample_rate).first(config.tracks)
    return {
        name: {
            "sdr": [measure(model, audible(tracks, stem), name, sdr_db) for sdr_db in config.calibration_sdr_db],
            "fill": [
                measure(model, audible(tracks, stem), name, config.heard_sdr_db[0], fill, listen=True)
                for fill in config.calibration_fills
            ],
        }
        for stem, name in enumerate(STEMS)
    }


def describe_protocol(config: AudioEvaluationConfig, tracks: Tracks, split: str) -> dict:
    return asdict(config) | {
        "data": tracks.source,
        "split": split,
        "tracks": len(tracks),
        "sample_rate": tracks.sample_rate,
        "aggregation": "median over the 1-second windows of a track (sdr_museval_db), then over tracks",
        "latents": "sampled from their posteriors",
        "operating_sdr_db": dict(zip(STEMS, OPERATING_SDR_DB, strict=True)),
        "machine": runtime.describe(),
    }


def audible(tracks: Tracks, stem: int) -> list[Tensor]:
    """Each track's waveform (samples,) of a stem, those that are silent throughout left out."""
    return [stems[stem] for stems in tracks.waveforms if stems[stem].square().mean() > SILENCE]


def closed_form(model: vae.StemVAE) -> vae.StemVAE:
    """The same model with the same `z_mel`, whose `z_fine` is plain reverse water-filling: nothing learned in it."""
    simple = deepcopy(model)
    for fine in simple.fine:
        for head in (fine.noise, fine.variance, fine.gain):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
    return simple


def measure(
    model: vae.StemVAE, heard: list[Tensor], stem: str, sdr_db: float, fill: float = 0.0, listen: bool = False
) -> Scores:
    """Regenerate waveforms (samples,) of a stem at one water level each; the medians of their scores."""
    rate = model.config.sample_rate

    def one(reference: Tensor) -> Row:
        result = generate.reconstruct(model, reference.numpy(), rate, stem, -sdr_db, fill)
        estimate = torch.from_numpy(result.waveform)
        mel_error = metrics.log_mel_error(model.log_mel(reference[None])[0], torch.from_numpy(result.decoded_mel))
        row = {"rate_kbit_s": result.rate, "mel_rate_kbit_s": result.mel_rate, "mel_error_db": mel_error.item()}
        return row | score(reference, estimate, rate, listen)

    rows = over_tracks(one, heard, f"{stem}, {sdr_db:g} dB")
    return {"asked_sdr_db": sdr_db, "fill": fill, **summarise(rows)}


def over_tracks(one: Callable[[Tensor], Row], heard: list[Tensor], name: str) -> list[Row]:
    """`one` of every waveform, as many at a time as there are threads, each with a single one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(tqdm(pool.map(one, heard), total=len(heard), desc=name, unit="track", leave=False))
    finally:
        torch.set_num_threads(threads)


def score(reference: Tensor, estimate: Tensor, sample_rate: int, listen: bool) -> Row:
    """Every metric of one regenerated waveform (samples,); the predicted opinion score only where asked for."""
    windows = metrics.sdr_museval(reference, estimate, sample_rate)
    row = {
        "sdr_museval_db": metrics.median(windows),
        "windows": len(windows),
        "windows_skipped": int(windows.isnan().sum()),
        "sdr_global_db": metrics.sdr_global(reference, estimate).item(),
        "si_sdr_db": metrics.si_sdr(reference, estimate).item(),
        "snr_db": metrics.snr(reference, estimate).item(),
        "mse": metrics.mse(reference, estimate).item(),
        "stft_distance": metrics.stft_distance(reference, estimate).item(),
    }
    if listen and (mos := metrics.zimtohrli_mos(reference.numpy(), estimate.numpy(), sample_rate)) is not None:
        row["zimtohrli_mos"] = mos
    return row


def summarise(rows: list[Row]) -> Scores:
    """Medians over tracks; of the rate also the mean; of windows the sum."""
    counts = ("windows", "windows_skipped")
    summary = {"tracks": len(rows)}
    for key in rows[0]:
        values = [row[key] for row in rows]
        if key in counts:
            summary[key] = sum(values)
        else:
            middle = float(np.nanmedian(values)) if not np.isnan(values).all() else None
            summary[key] = middle if middle is None else float(f"{middle:.5g}")
    if "rate_kbit_s" in rows[0]:
        summary["rate_mean_kbit_s"] = float(f"{np.mean([row['rate_kbit_s'] for row in rows]):.5g}")
    return summary


def compare(curve: list[Scores], other: list[Scores], sdr_db: float) -> Row:
    """Rates in kbit/s of two curves at one SDR, linearly between the measured points, and the share saved; None where
    a curve does not reach that SDR."""
    ours, theirs = (rate_at(sdr_db, rows) for rows in (curve, other))
    saved = None if ours is None or theirs is None else round(1 - ours / theirs, 4)
    return {"sdr_db": sdr_db, "rate_kbit_s": ours, "closed_form_rate_kbit_s": theirs, "saved": saved}


def rate_at(sdr_db: float, curve: list[Scores]) -> float | None:
    ratios, rates = ([row[key] for row in curve] for key in ("sdr_museval_db", "rate_kbit_s"))
    return round(float(np.interp(sdr_db, ratios, rates)), 4) if ratios[0] <= sdr_db <= ratios[-1] else None


def measure_baselines(model: vae.StemVAE, heard: list[Tensor], stem: str) -> dict[str, Scores]:
    """What the model's scores are to be seen beside, each named for what it is."""
    config = model.config
    sdr_db = OPERATING_SDR_DB[STEMS.index(stem)]
    form = (config.sample_rate, config.mel_window, config.mel_hop)

    @cache
    def decoded_mel(reference: Tensor) -> Tensor:
        result = generate.reconstruct(model, reference.numpy(), config.sample_rate, stem, -sdr_db)
        return torch.from_numpy(result.decoded_mel)

    def low_pass(reference: Tensor) -> Tensor:
        bins = config.mdct_bins[STEMS.index(stem)]
        coefficients = spectrogram.mdct(reference, bins)
        coefficients[..., bins // 4 :] = 0
        return spectrogram.imdct(coefficients, len(reference))

    makers = {
        "silence": torch.zeros_like,
        "low_pass": low_pass,
        "griffin_lim_true_mel": lambda x: spectrogram.griffin_lim(model.log_mel(x[None])[0], len(x), *form),
        "griffin_lim_decoded_mel": lambda x: spectrogram.griffin_lim(decoded_mel(x), len(x), *form),
        "oracle_phase": lambda x: spectrogram.with_phase_of(x, decoded_mel(x), *form),
    }
    measured = {}
    for name, make in makers.items():
        listen = name != "silence"
        rows = over_tracks(lambda x, m=make, h=listen: score(x, m(x), config.sample_rate, h), heard, f"{stem}, {name}")
        measured[name] = summarise(rows)
    return measured


def measure_resampled(model: vae.StemVAE, tracks: Tracks) -> dict[str, Scores]:
    """The operating point on tracks at another sample rate, and what resampling to the model's rate and back costs by
    itself."""
    sample_rate = tracks.sample_rate
    measured = {}
    for stem, name in enumerate(STEMS):
        heard = audible(tracks, stem)

        def one(reference: Tensor, name: str = name, stem: int = stem) -> Row:
            result = generate.reconstruct(model, reference.numpy(), sample_rate, name, -OPERATING_SDR_DB[stem])
            there = resample(reference.numpy(), sample_rate, model.config.sample_rate)
            back = generate.fit(resample(there, model.config.sample_rate, sample_rate), len(reference))
            alone = metrics.median(metrics.sdr_museval(reference, torch.from_numpy(back), sample_rate))
            row = score(reference, torch.from_numpy(result.waveform), sample_rate, listen=False)
            return {"rate_kbit_s": result.rate, "resampling_alone_sdr_museval_db": alone} | row

        measured[name] = summarise(over_tracks(one, heard, f"{name} at {sample_rate} Hz"))
    return measured


# --- generated stems ---


def measure_generated(model: vae.StemVAE, config: AudioEvaluationConfig, tracks: Tracks) -> dict:
    """How the stem classifier hears sound drawn from the prior: the share it names as was asked for, and the Frechet
    distance of its features from those of real excerpts of every second track. Beside it as many excerpts of the other
    tracks, as they are (the floor) and with a phase found by Griffin-Lim, which is how generated ones are made audible.
    """
    judge = stem_classifier.load_classifier()
    seconds = stem_classifier.SECONDS
    stream = runtime.random_stream(config.seed)
    second = tracks.waveforms[1::2] or tracks.waveforms  # of a single track there is no other half
    halves = [replace(tracks, waveforms=part) for part in (tracks.waveforms[::2], second)]
    reference, real = ([stem_classifier.excerpts(half, stem) for stem in range(len(STEMS))] for half in halves)
    real = [_some(part, config.generated, stream) for part in real]
    drawn = {
        "generated": [
            torch.from_numpy(generate.generate(model, stem, config.generated, seconds, config.seed)) for stem in STEMS
        ],
        "real": real,
        "real_through_griffin_lim": [
            torch.from_numpy(generate.make_audible(model, model.log_mel(part), part.shape[1])) for part in real
        ],
    }
    known, _ = stem_classifier.describe(judge, torch.cat(reference))
    measured = {"seconds": seconds, "count": config.generated * len(STEMS)}
    for name, parts in drawn.items():
        described = [stem_classifier.describe(judge, part) for part in parts]
        shares = [(logits.argmax(1) == stem).double().mean().item() for stem, (_, logits) in enumerate(described)]
        measured[name] = {
            "count": sum(map(len, parts)),
            "recognised": round(sum(shares) / len(shares), 4),
            "recognised_by_stem": dict(zip(STEMS, (round(share, 4) for share in shares), strict=True)),
            "frechet_distance": round(metrics.frechet_distance(known, torch.cat([f for f, _ in described])), 4),
        }
    return measured


def _some(rows: Tensor, count: int, stream: torch.Generator) -> Tensor:
    return rows[torch.randperm(len(rows), generator=stream)[:count]]


def measure_speed(model: vae.StemVAE, tracks: Tracks, seconds: float = 60.0) -> dict[str, float]:
    """Seconds of sound regenerated in a second, by stem, on a minute of the tracks one after another."""
    samples = int(seconds * tracks.sample_rate)
    sounds = [torch.cat([stems[stem] for stems in tracks.waveforms])[:samples].numpy() for stem in range(len(STEMS))]
    return {
        name: round(time_reconstruction(model, sound, tracks.sample_rate, name), 1)
        for name, sound in zip(STEMS, sounds, strict=True)
    }


def time_reconstruction(model: vae.StemVAE, sound: np.ndarray, sample_rate: int, stem: str) -> float:
    """How many times faster than real time a waveform (samples,) is regenerated: the median of 5 runs after a first."""
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        generate.reconstruct(model, sound, sample_rate, stem)
        seconds.append(time.perf_counter() - began)
    return len(sound) / sample_rate / float(np.median(seconds[1:]))
