"""The evaluation protocol of generated stems: likeness to real stems, memorisation, a minute of sound, variations."""

import time
from collections.abc import Iterator
from dataclasses import asdict, fields, replace

import librosa
import numpy as np
import torch
import torchaudio.functional
from torch import Tensor

from src import files, metrics, paths, runtime
from src.audio import classifier, display, generate
from src.audio.data import Tracks, load_musdb18
from src.audio.flow import StemFlow, load_flow
from src.audio.sound_files import write_audio
from src.classifiers import accuracy
from src.config import MEL_RANGE_DB, STEMS, FlowEvaluationConfig
from src.figures import save_themes
from src.metric_tables import CLIP_METRICS, COVERAGE_OF_CLIPS, FRECHET, PRECISION_OF_CLIPS, RECALL_OF_CLIPS, RECOGNISED

SECONDS = classifier.SECONDS  # of a clip
LONG_SECONDS = 60.0
EXAMPLE_SEEDS = (1, 2)  # of the clips in generated_audio
EXAMPLE_SECONDS = 4.0
JOINT_SECONDS = 0.25  # on each side of the point where a continuation begins
JOINT_CLIPS = 20  # recordings of each stem that are varied and continued
MEL_SHIFT = 8  # mel frames between the training excerpts to which a clip is compared
LAG_SECONDS = (0.25, 1.5)  # of the repetitions that `repetition` looks for

Clips = list[Tensor]  # for each stem, waveforms (count, samples)


def evaluate(
    flow: StemFlow, config: FlowEvaluationConfig, split: str = "test", keep: files.Keep = files.compute
) -> dict:
    """Measure a flow against the tracks of `split` by the full protocol.

    `keep` is called for each part, which takes a few minutes at most.

    Returns `protocol`, `scores`, `first_seed` (its scores, for `remeasure`), `nearest`, `character`, `minute`,
    `variations`, `joints` and `speed`.
    """
    rate = flow.config.sample_rate
    training = load_musdb18("train", rate).first(config.tracks)
    tracks = load_musdb18(split, rate).first(config.tracks)
    rows = [keep(f"clips of seed {seed}", score_clips, flow, config, training, tracks, seed) for seed in config.seeds]
    return {
        "protocol": describe_protocol(config, tracks, split),
        "scores": {name: summarise([row[name] for row in rows]) for name in rows[0]},
        "first_seed": rows[0]["generated"],
        "nearest": keep("nearest", measure_nearest, flow, config, training, tracks),
        "character": keep("character", measure_character, flow, config, tracks),
        "minute": {stem: keep(f"a minute of {stem}", measure_minute, flow, config, stem) for stem in STEMS},
        "variations": keep("variations", measure_variations, flow, config, tracks),
        "joints": keep("joints", measure_joints, flow, tracks),
        "speed": keep("speed", measure_speed, flow),
    }


def remeasure(run_paths: paths.FlowPaths = paths.FLOW) -> Iterator[tuple[str, float, float, float]]:
    """Measure the clips of the first seed of the published flow again. Yields the metric, the recorded and the new
    value, and the allowed difference, which is the recorded standard deviation over seeds."""
    recorded = files.load_json(run_paths.metrics)
    flow = load_flow(run_paths.weights)
    config = FlowEvaluationConfig(
        **{field.name: recorded["protocol"][field.name] for field in fields(FlowEvaluationConfig)}
    )
    training, tracks = (
        load_musdb18(split, flow.config.sample_rate) for split in ("train", recorded["protocol"]["split"])
    )
    measured = score_clips(flow, config, training, tracks, config.seeds[0])["generated"]
    for metric in CLIP_METRICS:
        deviation = recorded["scores"]["generated"][metric][1]
        yield f"generated {metric}", recorded["first_seed"][metric], measured[metric], deviation


def describe_protocol(config: FlowEvaluationConfig, tracks: Tracks, split: str) -> dict:
    """Counts, seeds and machine of a measurement."""
    return asdict(config) | {
        "data": tracks.source,
        "split": split,
        "tracks": len(tracks),
        "seconds": SECONDS,
        "machine": runtime.describe_machine(),
    }


def save_examples(flow: StemFlow, run_paths: paths.FlowPaths) -> None:
    """Write generated clips of each stem, one for each of `EXAMPLE_SEEDS`, and the spectrograms of the first ones."""
    rate, log_mels = flow.config.sample_rate, {}
    for stem in STEMS:
        for seed in EXAMPLE_SEEDS:
            clip = generate.sample(flow, stem, 1, EXAMPLE_SECONDS, seed)
            write_audio(run_paths.generated / f"{stem}_seed{seed}.flac", clip, rate)
            if seed == EXAMPLE_SEEDS[0]:
                log_mels[f"{stem}, generated"] = flow.log_mel(torch.from_numpy(clip))[0].numpy()
    picture = run_paths.spectrograms / "generated.png"
    save_themes(picture, lambda: display.spectrogram_figure(log_mels, flow.spectrogram))


# --- likeness to real stems ---


def score_clips(flow: StemFlow, config: FlowEvaluationConfig, training: Tracks, tracks: Tracks, seed: int) -> dict:
    """Scores of the clips of one seed, and of three kinds of real excerpts, against one random half of the tracks.

    `real`: excerpts of the other half; `real_through_griffin_lim`: the same with estimated phase; `training`: excerpts
    of the training tracks, as a model that copies would return them. Only the second has an estimated phase.
    """
    stream = runtime.random_stream(seed)
    order = torch.randperm(len(tracks), generator=stream).tolist()
    half = (len(order) + 1) // 2
    reference, others = (_choose(tracks, part or order) for part in (order[:half], order[half:]))
    real = _draw_excerpts(others, config.count, stream)
    clips = {
        "generated": generate_clips(flow, config.count, seed),
        "real": real,
        "real_through_griffin_lim": [_griffin_lim(flow, flow.log_mel(part), part.shape[1]) for part in real],
        "training": _draw_excerpts(training, config.count, stream),
    }
    network = classifier.load_classifier()
    features, _ = classifier.describe(network, torch.cat(all_excerpts(reference)))
    return {name: _clip_scores(network, part, features, config.neighbours) for name, part in clips.items()}


def generate_clips(flow: StemFlow, count: int, seed: int) -> Clips:
    """`count` generated clips of each stem."""
    return [torch.from_numpy(generate.sample(flow, stem, count, SECONDS, seed)) for stem in STEMS]


def all_excerpts(tracks: Tracks) -> Clips:
    """All excerpts of each stem that are not silent, one after the other."""
    return [classifier.excerpts(tracks, stem_index) for stem_index in range(len(STEMS))]


def _draw_excerpts(tracks: Tracks, count: int, stream: torch.Generator) -> Clips:
    return [part[torch.randperm(len(part), generator=stream)[:count]] for part in all_excerpts(tracks)]


def _choose(tracks: Tracks, positions: list[int]) -> Tracks:
    return replace(
        tracks,
        waveforms=tuple(tracks.waveforms[position] for position in positions),
        names=tuple(tracks.names[position] for position in positions),
    )


def _griffin_lim(flow: StemFlow, log_mels: Tensor, samples: int) -> Tensor:
    waveforms = [generate.mel_to_waveform(flow.spectrogram, log_mel, samples) for log_mel in log_mels]
    return torch.from_numpy(np.stack(waveforms))


def _copies(flow: StemFlow, training: Tracks, count: int, stream: torch.Generator) -> Clips:
    """Training excerpts as a flow that has memorised them would draw them: through the latent, with values of the
    coefficients that it leaves out drawn around their estimate, and an estimated phase."""
    copies = []
    for stem_index, clips in enumerate(_draw_excerpts(training, count, stream)):
        log_mels = flow.log_mel(clips.to(flow.mean.device))
        latents, own_rest = flow.encode(log_mels)
        noise = torch.randn(own_rest.shape, generator=stream).to(latents)
        rest = flow.draw_rest(stem_index, latents, noise)
        copies.append(_griffin_lim(flow, flow.decode(latents, rest, log_mels.shape[1]), clips.shape[1]))
    return copies


def _clip_scores(network: classifier.StemClassifier, clips: Clips, reference: Tensor, neighbours: int) -> dict:
    """Scores of clips against the features of real excerpts."""
    outputs = [classifier.describe(network, part) for part in clips]
    shares = [accuracy(logits, stem_index) for stem_index, (_, logits) in enumerate(outputs)]
    features = torch.cat([part for part, _ in outputs])
    precision, recall = metrics.precision_recall(reference, features, neighbours)
    _, coverage = metrics.density_coverage(reference, features, neighbours)
    return {
        FRECHET: metrics.frechet_distance(reference, features),
        RECOGNISED: sum(shares) / len(shares),
        PRECISION_OF_CLIPS: precision,
        RECALL_OF_CLIPS: recall,
        COVERAGE_OF_CLIPS: coverage,
        **{f"{RECOGNISED}_{stem}": share for stem, share in zip(STEMS, shares, strict=True)},
    }


def summarise(rows: list[dict]) -> dict[str, list[float]]:
    """Mean and standard deviation of each score over the seeds."""
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    deviations = {name: values.std(ddof=1) if len(values) > 1 else 0.0 for name, values in columns.items()}
    return {name: [_round(values.mean()), _round(deviations[name])] for name, values in columns.items()}


def _round(value: float) -> float:
    return round(float(value), 4)


# --- memorisation ---


def measure_nearest(flow: StemFlow, config: FlowEvaluationConfig, training: Tracks, tracks: Tracks) -> dict:
    """Distance of generated clips, of real excerpts of `tracks`, and of copies of training excerpts, to the nearest
    excerpt of the training tracks of the same stem: median and 1st percentile over all stems, in the classifier's
    features (Euclidean) and in the log-mel spectrogram (root mean square, dB); and the generated clip of each stem that
    is closest in the latter."""
    network = classifier.load_classifier()
    clips = {
        "generated": generate_clips(flow, config.count, config.seeds[0]),
        "real": _draw_excerpts(tracks, config.count, runtime.random_stream(config.seeds[0])),
        "copies": _copies(flow, training, config.count, runtime.random_stream(config.seeds[0])),
    }
    distances: dict = {name: {"features": [], "log_mel_db": []} for name in clips}
    closest = {}
    for stem_index, stem in enumerate(STEMS):
        trained, _ = classifier.describe(network, classifier.excerpts(training, stem_index))
        for name, parts in clips.items():
            features, _ = classifier.describe(network, parts[stem_index])
            distances[name]["features"].append(torch.cdist(features, trained).amin(1))
            rows = nearest_log_mels(flow, parts[stem_index], training, stem_index)
            distances[name]["log_mel_db"].append(torch.tensor([distance for distance, _, _ in rows]))
            if name == "generated":
                distance, track, frame = min(rows)
                closest[stem] = {
                    "clip": rows.index((distance, track, frame)),
                    "distance_db": round(distance, 2),
                    "track": training.names[track],
                    "seconds": round(frame * flow.config.mel_hop / flow.config.sample_rate, 2),
                }
    return {"closest": closest} | {
        name: {space: _quantiles(torch.cat(values)) for space, values in row.items()} for name, row in distances.items()
    }


def nearest_log_mels(flow: StemFlow, clips: Tensor, training: Tracks, stem_index: int) -> list[tuple[float, int, int]]:
    """For each clip (samples,), the nearest excerpt of the training tracks of a stem, of the clip's length: distance in
    dB, track, first mel frame. Excerpts begin at every `MEL_SHIFT` frames."""
    log_mels = flow.log_mel(clips).clamp(min=MEL_RANGE_DB[0])
    found = [(float("inf"), 0, 0)] * len(clips)
    frames = log_mels.shape[1]
    for track, stems in enumerate(training.waveforms):
        trained = flow.log_mel(stems[stem_index : stem_index + 1])[0].clamp(min=MEL_RANGE_DB[0])
        if len(trained) < frames:
            continue
        windows = trained.unfold(0, frames, MEL_SHIFT).transpose(1, 2)  # (windows, frames, bands)
        indices, distances = metrics.nearest_neighbours(log_mels, windows)
        for row, (index, distance) in enumerate(zip(indices.tolist(), distances.tolist(), strict=True)):
            found[row] = min(found[row], (distance, track, index * MEL_SHIFT))
    return found


def _quantiles(values: Tensor) -> dict[str, float]:
    return {"median": _round(values.quantile(0.5)), "percentile_1": _round(values.quantile(0.01))}


# --- character ---


def measure_character(flow: StemFlow, config: FlowEvaluationConfig, tracks: Tracks) -> dict[str, dict]:
    """`character` of generated clips of each stem and of real excerpts: for each quantity the mean of both."""
    generated = generate_clips(flow, config.count, config.seeds[0])
    real = _draw_excerpts(tracks, config.count, runtime.random_stream(config.seeds[0]))
    return {
        stem: {"generated": character(flow, generated[index]), "real": character(flow, real[index])}
        for index, stem in enumerate(STEMS)
    }


def character(flow: StemFlow, clips: Tensor) -> dict[str, float]:
    """Properties of clips (count, samples), means over clips: level in dB re full scale (root mean square), loudness in
    LUFS (ITU-R BS.1770-4, of the clips above its gate), spectral centroid in Hz, onsets per second, modulation
    (standard deviation of the level of mel frames in dB), and the largest `repetition`."""
    rate = flow.config.sample_rate
    log_mels = flow.log_mel(clips).clamp(min=MEL_RANGE_DB[0])
    levels = 10 * flow.spectrogram.power(log_mels).log10()
    rows = []
    for clip in clips.numpy():
        centroid = librosa.feature.spectral_centroid(y=clip, sr=rate)
        onsets = librosa.onset.onset_detect(y=clip, sr=rate)
        rows.append([level_db(clip), np.median(centroid), len(onsets) / (len(clip) / rate)])
    level, centroid, onsets = np.mean(rows, axis=0)
    loudness = torch.stack([torchaudio.functional.loudness(clip[None], rate) for clip in clips])
    return {
        "level_db": _round(level),
        "loudness_lufs": _round(loudness[loudness.isfinite()].mean()),
        "centroid_hz": _round(centroid),
        "onsets_per_second": _round(onsets),
        "modulation_db": _round(levels.std(dim=1).mean()),
        "repetition": _round(repetition(log_mels, rate / flow.config.mel_hop).mean()),
    }


def level_db(waveform: np.ndarray) -> float:
    """Root mean square of a waveform (samples,) in dB re full scale."""
    return 10 * np.log10(np.mean(np.square(waveform, dtype=np.float64)) + 1e-12)


def repetition(log_mels: Tensor, frame_rate: float) -> Tensor:
    """Largest autocorrelation (count,) of log-mel spectrograms (count, frames, bands), without each band's mean, over
    the lags of `LAG_SECONDS`. A loop has 1."""
    centred = log_mels - log_mels.mean(dim=1, keepdim=True)
    low, high = (round(seconds * frame_rate) for seconds in LAG_SECONDS)
    found = []
    for lag in range(low, min(high, log_mels.shape[1] // 2) + 1):
        before, after = centred[:, :-lag].flatten(1), centred[:, lag:].flatten(1)
        found.append(torch.cosine_similarity(before, after, dim=1))
    return torch.stack(found).amax(dim=0)


# --- a minute ---


def measure_minute(flow: StemFlow, config: FlowEvaluationConfig, stem: str) -> dict:
    """Clips of 60 s of a stem: how many have a sample that is not finite or above full scale, the change of level from
    the first to the last 10 s (median), and how many of the 3-s windows of the first and of the last 20 s are
    recognised."""
    network, rate = classifier.load_classifier(), flow.config.sample_rate
    rows = []
    for seed in range(config.minutes):
        clip = generate.sample(flow, stem, 1, LONG_SECONDS, seed)[0]
        ends = clip[: 20 * rate], clip[-20 * rate :]
        windows = [torch.from_numpy(end).unfold(0, int(SECONDS * rate), int(SECONDS * rate)) for end in ends]
        shares = [accuracy(classifier.describe(network, part)[1], STEMS.index(stem)) for part in windows]
        peak = float(np.abs(clip).max())  # NaN if a sample is
        rows.append(
            [not np.isfinite(peak), peak > 1, level_db(clip[-10 * rate :]) - level_db(clip[: 10 * rate]), *shares]
        )
    columns = np.array(rows, dtype=np.float64).T
    return {
        "clips": config.minutes,
        "not_finite": int(columns[0].sum()),
        "above_full_scale": int(columns[1].sum()),
        "level_change_db": _round(np.median(columns[2])),
        "recognised_first": _round(columns[3].mean()),
        "recognised_last": _round(columns[4].mean()),
    }


# --- variations and continuations ---


def measure_variations(flow: StemFlow, config: FlowEvaluationConfig, tracks: Tracks) -> list[dict]:
    """Distance of variations to their sources, in the log-mel spectrogram (dB), for each strength: medians over stems
    and recordings."""
    rows = []
    for strength in config.strengths:
        distances = []
        for stem, recording in _recordings(tracks):
            variation = torch.from_numpy(generate.vary(flow, recording, stem, strength))
            pair = flow.log_mel(torch.stack([recording, variation])).clamp(min=MEL_RANGE_DB[0])
            distances.append((pair[0] - pair[1]).square().mean().sqrt().item())
        rows.append({"strength": strength, "distance_db": _round(np.median(distances))})
    return rows


def measure_joints(flow: StemFlow, tracks: Tracks) -> dict[str, dict[str, float]]:
    """The change of level (dB) and of spectrum (root mean square over bands, dB) from the last `JOINT_SECONDS` of a
    recording to the first of its continuation, and at the same point of the uncut recording: medians of the absolute
    values."""
    rows: dict[str, list] = {"continued": [], "uncut": []}
    for stem, recording in _recordings(tracks):
        cut = len(recording) * 2 // 3
        continued = torch.from_numpy(generate.extend(flow, recording[:cut], stem, 2.0))
        rows["continued"].append(_change(flow, continued, cut))
        rows["uncut"].append(_change(flow, recording, cut))
    return {
        name: dict(zip(("level_db", "spectrum_db"), map(_round, np.median(row, axis=0)), strict=True))
        for name, row in rows.items()
    }


def _recordings(tracks: Tracks) -> Iterator[tuple[str, Tensor]]:
    """The first tracks of each stem in which it does not pause at the point where `measure_joints` cuts."""
    for stem_index, stem in enumerate(STEMS):
        sounding = []
        for stems in tracks.waveforms:
            recording = stems[stem_index, : 10 * tracks.sample_rate]
            around = recording[len(recording) // 2 :]
            if around.square().mean() > 1e-5:
                sounding.append(recording)
        yield from ((stem, recording) for recording in sounding[:JOINT_CLIPS])


def _change(flow: StemFlow, waveform: Tensor, cut: int) -> tuple[float, float]:
    samples = int(JOINT_SECONDS * flow.config.sample_rate)
    before, after = waveform[cut - samples : cut], waveform[cut : cut + samples]
    spectra = flow.log_mel(torch.stack([before, after])).clamp(min=MEL_RANGE_DB[0]).mean(dim=1)
    level = abs(level_db(after.numpy()) - level_db(before.numpy()))
    return level, (spectra[0] - spectra[1]).square().mean().sqrt().item()


def measure_speed(flow: StemFlow, seconds: float = LONG_SECONDS) -> float:
    """Seconds of sound generated in a second, phase included, after a warm-up."""
    generate.sample(flow, STEMS[0], 1, SECONDS)
    began = time.perf_counter()
    generate.sample(flow, STEMS[0], 1, seconds)
    return round(seconds / (time.perf_counter() - began), 1)
