"""The evaluation protocol of the stem VAE: scores of a checkpoint, the full measurement, and the one of `verify`."""

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from src import files, paths, runtime
from src.audio import display, metrics, vae
from src.audio.data import Tracks, load_musdb18
from src.audio.reconstruct import Reconstruction, reconstruct
from src.audio.sound_files import pad_or_trim, resample, write_audio
from src.audio.spectrogram import imdct, mdct
from src.audio.summaries import PER_TRACK, Row, Summary, bd_rate, keep_per_track, summarise
from src.audio.water_filling import water_level
from src.config import (
    BOOTSTRAP_RESAMPLES,
    CHECKPOINT_SDR_DB,
    OPERATING_SDR_DB,
    SILENT_EXCERPT_POWER,
    STEMS,
    AudioEvaluationConfig,
)
from src.errors import DataError
from src.figures import save_themes
from src.metric_tables import (
    AUDIO_METRICS,
    MEL_ERROR,
    MEL_RATE,
    MSE,
    NEGATIVE_ELBO,
    OPINION,
    RATE,
    SDR,
    SDR_GLOBAL,
    SI_SDR,
    SNR,
    STFT_DISTANCE,
)

# The excerpt of each checkpoint: of a validation track that has all four stems and may be shared (CC BY-NC-SA 4.0, from
# MedleyDB).
CHECKPOINT_EXAMPLE = "Alexander Ross - Goodbye Bolero"
CHECKPOINT_SECONDS = 4.0
CHECKPOINT_MAX_SECONDS = 30  # longest part of a validation track that is used
CHECKPOINT_DPI = 80  # of the spectrograms of a checkpoint
PICTURED_STEMS = ("drums", "vocals")  # in the picture of regenerated stems
CURVE_METRICS = (RATE, SDR_GLOBAL)  # kept for each track: from them the BD-rate is computed

Result = TypeVar("Result")


class Scorer:
    """Scores checkpoints on the validation tracks, always with the same excerpts, water levels and noise."""

    def __init__(self, tracks: Tracks):
        name = CHECKPOINT_EXAMPLE if CHECKPOINT_EXAMPLE in tracks.names else tracks.names[0]
        samples = int(CHECKPOINT_SECONDS * tracks.sample_rate)
        self.example = tracks.waveforms[tracks.names.index(name)][:, :samples]  # (stems, samples)
        # Excerpts of equal length, that of the shortest track; tracks of less than half the longest one's are left out.
        lengths = [min(stems.shape[1], CHECKPOINT_MAX_SECONDS * tracks.sample_rate) for stems in tracks.waveforms]
        kept = [stems for stems, length in zip(tracks.waveforms, lengths, strict=True) if 2 * length >= max(lengths)]
        shortest = min(length for length in lengths if 2 * length >= max(lengths))
        excerpts = torch.stack([stems[:, :shortest] for stems in kept], dim=1)  # (stems, tracks, samples)
        audible = excerpts.square().mean(2) > SILENT_EXCERPT_POWER
        for stem, any_track in zip(STEMS, audible.any(1).tolist(), strict=True):
            if not any_track:
                raise DataError(f"the {stem} of all validation tracks are silent: a checkpoint cannot be scored")
        self.stems = [of_stem[heard] for of_stem, heard in zip(excerpts, audible, strict=True)]

    @torch.inference_mode()
    def score_checkpoint(self, model: vae.StemVAE) -> dict:
        """`objective_kbit_s`, the negative ELBO, mean over stems, tracks and `CHECKPOINT_SDR_DB`; and for each stem, at
        the last of these SDRs, the medians over tracks of both rates, the SDR and the error of the decoded mel."""
        scores, total = {}, 0.0
        for stem_index, stem in enumerate(STEMS):
            waveforms = self.stems[stem_index].to(runtime.device())
            log_mel = model.log_mel(waveforms)
            kbit = waveforms.shape[1] / model.config.sample_rate * vae.NATS_PER_KBIT
            for sdr_db in CHECKPOINT_SDR_DB:
                target = torch.full((len(waveforms),), sdr_db, device=waveforms.device)
                with runtime.seeded(0):
                    output = model(waveforms, log_mel, stem_index, water_level(log_mel, target, model.spectrogram))
                rate = (output.mel_divergence.sum(1) + output.fine_divergence.sum(1)) / kbit
                total += (rate + output.distortion.sum(1) / 2 / kbit).mean().item()
                scores[stem] = _checkpoint_row(waveforms, output, rate, kbit)  # the last SDR's row stays
        return {NEGATIVE_ELBO: round(total / len(STEMS) / len(CHECKPOINT_SDR_DB), 4), **scores}

    def save_examples(self, model: vae.StemVAE, run_paths: paths.AudioPaths, epoch: int) -> None:
        """Write the example, the same as the checkpoint reconstructs it, and the spectrograms of the original and of
        `z_mel`."""
        sample_rate = model.config.sample_rate
        log_mels = {}
        for stem, waveform in zip(STEMS, self.example, strict=True):
            result = reconstruct(model, waveform.numpy(), sample_rate, stem)
            write_audio(run_paths.original(stem), waveform.numpy()[None], sample_rate)
            write_audio(run_paths.reconstruction(epoch, stem), result.waveform[None], sample_rate)
            log_mels[f"{stem}, original"] = model.log_mel(waveform[None].to(runtime.device()))[0].cpu().numpy()
            log_mels[f"{stem}, from z_mel"] = result.decoded_mel
        save_themes(
            run_paths.spectrogram(epoch),
            lambda: display.spectrogram_figure(log_mels, model.spectrogram),
            CHECKPOINT_DPI,
        )


def save_pictures(model: vae.StemVAE, run_paths: paths.AudioPaths) -> None:
    """Write the spectrograms of the example's `PICTURED_STEMS`, original and reconstructed."""
    example = Scorer(load_musdb18("validation", model.config.sample_rate)).example
    log_mels = {}
    for stem in PICTURED_STEMS:
        waveform = example[STEMS.index(stem)]
        result = reconstruct(model, waveform.numpy(), model.config.sample_rate, stem)
        for name, sound in (("original", waveform), ("regenerated", torch.from_numpy(result.waveform))):
            log_mels[f"{stem}, {name}"] = model.log_mel(sound[None].to(runtime.device()))[0].cpu().numpy()
    picture = run_paths.spectrograms / "regenerated.png"
    save_themes(picture, lambda: display.spectrogram_figure(log_mels, model.spectrogram))


def _checkpoint_row(waveforms: Tensor, output: vae.StemOutput, rate: Tensor, kbit: float) -> Row:
    decoded = imdct(output.coefficients, waveforms.shape[1])
    values = {
        RATE: rate,
        MEL_RATE: output.mel_divergence.sum(1) / kbit,
        SDR_GLOBAL: metrics.sdr_global(waveforms.cpu(), decoded.cpu()),
        MEL_ERROR: metrics.log_mel_error(output.log_mel, output.decoded_mel),
    }
    return {name: round(float(np.nanmedian(value.tolist())), 4) for name, value in values.items()}


# --- the full measurement ---


def evaluate(
    model: vae.StemVAE, config: AudioEvaluationConfig, split: str = "test", keep: files.Keep = files.compute
) -> dict:
    """Measure a model on the tracks of `split` by the full protocol.

    `keep` is called for each part, which takes a few minutes at most; a `files.PartialResults` computes only those that
    an interrupted measurement did not finish.

    Returns `protocol`, `calibration`; for each stem `final` (the operating point), `curve`, `closed_form`, `bd_rate`,
    `perceptual` and `baselines`; then `resampled`.
    """
    tracks = load_musdb18(split, model.config.sample_rate).first(config.tracks)
    measured = {"protocol": describe_protocol(config, tracks, split), "calibration": calibrate(model, config, keep)}
    stems = {stem: measure_stem(model, config, tracks, stem_index, keep) for stem_index, stem in enumerate(STEMS)}
    for part in stems[STEMS[0]]:
        measured[part] = {stem: row[part] for stem, row in stems.items()}
    measured["resampled"] = measure_resampled(model, load_musdb18(split, 44_100).first(config.tracks), keep)
    return measured


def remeasure(run_paths: paths.AudioPaths = paths.AUDIO) -> Iterator[tuple[str, float, float, float]]:
    """Measure the published stem VAE again at its operating point. Yields the stem and the metric, the recorded and the
    new value, and the allowed difference. The data are checked at once, before the first value is asked for. Warns that
    opinion scores are left out if Zimtohrli is not installed.

    Raises:
        DataError: MUSDB18 is not available, or is not the variant that the recorded numbers were measured on.
    """
    recorded = files.load_json(run_paths.metrics)
    model = vae.load_model(run_paths.weights)
    tracks = load_musdb18("test", model.config.sample_rate)
    source = recorded["protocol"]["data"]
    if not tracks.complete:
        raise DataError(f"the recorded numbers were measured on {source}, which is not here: run python -m src data")
    if tracks.source != source:
        folder = paths.relative(paths.MUSDB18)
        raise DataError(
            f"the recorded numbers were measured on {source}, and {folder} holds {tracks.source}: move it elsewhere "
            "and run python -m src data"
        )
    return _remeasured(recorded["final"], model, tracks)


def _remeasured(recorded: dict, model: vae.StemVAE, tracks: Tracks) -> Iterator[tuple[str, float, float, float]]:
    for stem_index, stem in enumerate(STEMS):
        measured = measure(model, non_silent(tracks, stem_index), stem, OPERATING_SDR_DB[stem_index], perceptual=True)
        if OPINION not in measured:
            warnings.warn(f"{stem}: the opinion score is not measured, zimtohrli is not installed", stacklevel=2)
        for metric in AUDIO_METRICS:
            if metric.tolerance is not None and metric in measured:
                value = recorded[stem][metric]
                yield f"{stem} {metric}", value, measured[metric], metric.allowed_difference(value)


def describe_protocol(config: AudioEvaluationConfig, tracks: Tracks, split: str) -> dict:
    """Definitions, counts, seeds and machine of a measurement."""
    return asdict(config) | {
        "data": tracks.source,
        "split": split,
        "tracks": len(tracks),
        "sample_rate": tracks.sample_rate,
        "aggregation": "median over the 1-second windows of a track (sdr_museval_db), then over tracks",
        "intervals": f"95 %, percentile bootstrap over tracks with {BOOTSTRAP_RESAMPLES:,} resamples",
        "latents": "sampled from their posteriors",
        "operating_sdr_db": dict(zip(STEMS, OPERATING_SDR_DB, strict=True)),
        "machine": runtime.describe_machine(),
    }


def calibrate(
    model: vae.StemVAE, config: AudioEvaluationConfig, keep: files.Keep = files.compute
) -> dict[str, dict[str, list[Summary]]]:
    """Scores on the validation tracks from which the operating points and `fill` are chosen."""
    tracks = load_musdb18("validation", model.config.sample_rate).first(config.tracks)
    return {
        stem: keep(f"{stem}, calibration", _calibrate_stem, model, config, non_silent(tracks, stem_index), stem)
        for stem_index, stem in enumerate(STEMS)
    }


def _calibrate_stem(
    model: vae.StemVAE, config: AudioEvaluationConfig, waveforms: list[Tensor], stem: str
) -> dict[str, list[Summary]]:
    by_sdr = [measure(model, waveforms, stem, sdr_db) for sdr_db in config.calibration_sdr_db]
    by_fill = [
        measure(model, waveforms, stem, config.perceptual_sdr_db[0], fill, perceptual=True)
        for fill in config.calibration_fills
    ]
    return {"sdr": [keep_per_track(row, ()) for row in by_sdr], "fill": [keep_per_track(row, ()) for row in by_fill]}


def measure_stem(
    model: vae.StemVAE, config: AudioEvaluationConfig, tracks: Tracks, stem_index: int, keep: files.Keep = files.compute
) -> dict:
    """All scores of one stem: `final`, `curve`, `closed_form`, `bd_rate`, `perceptual` and `baselines`.

    `final` keeps every score of every track, both curves the rates and SDRs.
    """
    stem, waveforms = STEMS[stem_index], non_silent(tracks, stem_index)
    names = [name for name, stems in zip(tracks.names, tracks.waveforms, strict=True) if is_audible(stems[stem_index])]

    def point(network: vae.StemVAE, sdr_db: float, fill: float = 0.0) -> Summary:
        coder = "model" if network is model else "closed form"
        perceptual = sdr_db in (*config.perceptual_sdr_db, OPERATING_SDR_DB[stem_index])
        name = f"{stem}, {coder}, {sdr_db} dB, fill {fill}"
        return keep(name, measure, network, waveforms, stem, sdr_db, fill, perceptual)

    final = point(model, OPERATING_SDR_DB[stem_index])
    filled = point(model, OPERATING_SDR_DB[stem_index], config.fill)
    plain = vae.closed_form(model)
    curve, closed_form = ([point(network, sdr_db) for sdr_db in config.curve_sdr_db] for network in (model, plain))
    perceptual = []
    for row in curve:
        if row["target_sdr_db"] in config.perceptual_sdr_db:
            perceptual += [row, point(model, row["target_sdr_db"], config.fill)]
    baselines = keep(f"{stem}, baselines", measure_baselines, model, waveforms, stem)
    baselines |= {"closed_form": at_rate(closed_form, final[RATE]), "model": final, "model_filled": filled}
    return {
        "final": {"names": names, **final},
        "curve": [keep_per_track(row, CURVE_METRICS) for row in curve],
        "closed_form": [keep_per_track(row, CURVE_METRICS) for row in closed_form],
        "bd_rate": bd_rate(curve, closed_form),
        "perceptual": [keep_per_track(row, ()) for row in perceptual],
        "baselines": {name: keep_per_track(row, ()) for name, row in baselines.items()},
    }


def at_rate(curve: list[Summary], rate: float) -> Summary:
    """Global SDR and opinion score of a curve at a rate in kbit/s, by linear interpolation between the points that have
    them."""
    row: Summary = {RATE: rate, PER_TRACK: {}}
    for metric in (SDR_GLOBAL, OPINION):
        points = [(point[RATE], point[metric]) for point in curve if metric in point]
        if points:
            row[metric] = round(float(np.interp(rate, *zip(*points, strict=True))), 4)
    return row


def non_silent(tracks: Tracks, stem_index: int) -> list[Tensor]:
    """Each track's waveform (samples,) of a stem, without the tracks in which it is silent."""
    return [stems[stem_index] for stems in tracks.waveforms if is_audible(stems[stem_index])]


def is_audible(waveform: Tensor) -> bool:
    """True if the mean power of a stem's waveform (samples,) is above `SILENT_EXCERPT_POWER`."""
    return bool(waveform.square().mean() > SILENT_EXCERPT_POWER)


def measure(
    model: vae.StemVAE,
    waveforms: list[Tensor],
    stem: str,
    sdr_db: float,
    fill: float = 0.0,
    perceptual: bool = False,
) -> Summary:
    """Scores of waveforms (samples,) of a stem, reconstructed at one target SDR; `perceptual` adds opinion scores."""
    sample_rate = model.config.sample_rate

    def measure_track(reference: Tensor) -> Row:
        result = reconstruct(model, reference.numpy(), sample_rate, stem, sdr_db, fill)
        mel_error = metrics.log_mel_error(model.log_mel(reference[None])[0], torch.from_numpy(result.decoded_mel))
        scores = score(reference, torch.from_numpy(result.waveform), sample_rate, perceptual)
        return {RATE: result.rate, MEL_RATE: result.mel_rate, MEL_ERROR: mel_error.item()} | scores

    rows = map_tracks(measure_track, waveforms, f"{stem}, {sdr_db:g} dB")
    return {"target_sdr_db": sdr_db, "fill": fill, **summarise(rows)}


def map_tracks(function: Callable[[Tensor], Result], waveforms: list[Tensor], description: str) -> list[Result]:
    """Apply `function` to each waveform in a thread pool, one intra-op thread for each worker."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            results = pool.map(function, waveforms)
            return list(tqdm(results, total=len(waveforms), desc=description, unit="track", leave=False))
    finally:
        torch.set_num_threads(threads)


def score(reference: Tensor, estimate: Tensor, sample_rate: int, perceptual: bool) -> Row:
    """Every metric of one reconstructed waveform (samples,); `perceptual` adds the opinion score, which is slow."""
    windows = metrics.sdr_museval(reference, estimate, sample_rate)
    row = {
        SDR: metrics.median(windows),
        "windows": len(windows),
        "windows_skipped": int(windows.isnan().sum()),
        SDR_GLOBAL: metrics.sdr_global(reference, estimate).item(),
        SI_SDR: metrics.si_sdr(reference, estimate).item(),
        SNR: metrics.snr(reference, estimate).item(),
        MSE: metrics.mse(reference, estimate).item(),
        STFT_DISTANCE: metrics.stft_distance(reference, estimate).item(),
    }
    if perceptual and (mos := metrics.zimtohrli_mos(reference.numpy(), estimate.numpy(), sample_rate)) is not None:
        row[OPINION] = mos
    return row


def measure_baselines(model: vae.StemVAE, waveforms: list[Tensor], stem: str) -> dict[str, Summary]:
    """Baselines at the operating point: silence, low-pass, Griffin-Lim, oracle phase."""
    config, mel = model.config, model.spectrogram
    bins = config.mdct_bins[STEMS.index(stem)]

    def measure_track(reference: Tensor) -> dict[str, Row]:
        samples = len(reference)
        coefficients = mdct(reference, bins)
        coefficients[..., bins // 4 :] = 0
        decoded_mel = torch.from_numpy(reconstruct(model, reference.numpy(), config.sample_rate, stem).decoded_mel)
        estimates = {
            "silence": torch.zeros_like(reference),
            "low_pass": imdct(coefficients, samples),
            "griffin_lim_true_mel": mel.griffin_lim(model.log_mel(reference[None])[0], samples),
            "griffin_lim_decoded_mel": mel.griffin_lim(decoded_mel, samples),
            "oracle_phase": mel.with_phase_of(reference, decoded_mel),
        }
        return {
            name: score(reference, estimate, config.sample_rate, perceptual=name != "silence")
            for name, estimate in estimates.items()
        }

    rows = map_tracks(measure_track, waveforms, f"{stem}, baselines")
    return {name: summarise([row[name] for row in rows]) for name in rows[0]}


def measure_resampled(model: vae.StemVAE, tracks: Tracks, keep: files.Keep = files.compute) -> dict[str, Summary]:
    """Scores at the operating point for tracks at another sample rate, and the SDR of resampling to the model's rate
    and back alone."""
    return {
        stem: keep(f"{stem}, resampled", _resample_stem, model, tracks, stem_index)
        for stem_index, stem in enumerate(STEMS)
    }


def _resample_stem(model: vae.StemVAE, tracks: Tracks, stem_index: int) -> Summary:
    stem, sample_rate, model_rate = STEMS[stem_index], tracks.sample_rate, model.config.sample_rate

    def measure_track(reference: Tensor) -> Row:
        result: Reconstruction = reconstruct(model, reference.numpy(), sample_rate, stem)
        lowered = resample(reference.numpy(), sample_rate, model_rate)
        restored = torch.from_numpy(pad_or_trim(resample(lowered, model_rate, sample_rate), len(reference)))
        alone = metrics.median(metrics.sdr_museval(reference, restored, sample_rate))
        scores = score(reference, torch.from_numpy(result.waveform), sample_rate, perceptual=False)
        return {RATE: result.rate, f"resampling_alone_{SDR}": alone} | scores

    rows = map_tracks(measure_track, non_silent(tracks, stem_index), f"{stem} at {sample_rate} Hz")
    return keep_per_track(summarise(rows), ())
