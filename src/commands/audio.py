"""`python -m src audio ...`: the VAE of MUSDB18's stems."""

import argparse
from pathlib import Path

from src import paths
from src.commands.options import (
    add_command,
    add_evaluation,
    add_model,
    add_overwrite,
    add_training,
    open_partial_results,
    overridden,
    positive,
    prepare_run,
    print_accuracy,
    print_training,
    refuse_existing,
)
from src.config import (
    AUDIO_PROFILES,
    CHECKPOINT_SDR_DB,
    FLOW_PROFILES,
    SPLITS,
    STEMS,
    AudioConfig,
    FlowConfig,
    StemClassifierConfig,
    audio_profile,
    flow_profile,
)
from src.errors import UsageError
from src.files import PartialResults, compute, delete, save_json, sha256
from src.metric_tables import FLOW_LOSS, FRECHET, NEGATIVE_ELBO, RATE, SDR

READABLE_HELP = "WAV, FLAC, MP3, MP4 ...: any sample rate and number of channels"
WRITABLE_HELP = "WAV, FLAC, OGG or MP3"


def build_parser(program: str) -> argparse.ArgumentParser:
    """The parser of all audio commands."""
    parser = argparse.ArgumentParser(prog=program, description="The VAE of MUSDB18's stems.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = add_command(commands, "train", train, "train the stem VAE, or resume from its latest checkpoint")
    add_training(command, AudioConfig().epochs, "a small model, in minutes", "the training tracks")

    command = add_command(commands, "train-flow", train_flow, "train the stem flow, or resume from its latest state")
    add_training(command, FlowConfig().epochs, "a small flow, in minutes", "the training tracks, times 5")

    command = add_command(commands, "train-classifier", train_classifier, "train the stem classifier (about 5 minutes)")
    add_overwrite(command, "replace the published classifier, which changes the meaning of generated stems' scores")

    command = add_command(commands, "evaluate", evaluate, "measure a model, or resume that (about 20 minutes)")
    add_evaluation(command, "full: all tracks (default); quick: 2 tracks")

    command = add_command(commands, "evaluate-flow", evaluate_flow, "measure a flow, or resume that (about 40 minutes)")
    add_evaluation(command, "full: all tracks (default); quick: 2 tracks")

    command = add_command(commands, "reconstruct", reconstruct, "encode a recording into the latents and decode it")
    command.add_argument("input", metavar="IN", help=READABLE_HELP)
    command.add_argument("output", metavar="OUT", help=WRITABLE_HELP)
    command.add_argument("--stem", choices=STEMS, help="stem (default: the one with the lowest negative ELBO)")
    command.add_argument(
        "--sdr",
        type=float,
        metavar="DB",
        help="signal-to-distortion ratio to aim for, 0 to 60 dB (default: the recorded operating point)",
    )
    command.add_argument(
        "--fill", type=float, default=0.0, help="amplitude of the noise that replaces lost sound, 0 to 1 (default: 0)"
    )
    command.add_argument("--mean", action="store_true", help="use the posteriors' means instead of samples")
    command.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    add_model(command)
    add_overwrite(command)

    add_generate(add_command(commands, "generate", generate, "generate, vary or continue sound of a stem"))

    command = add_command(commands, "interpolate", interpolate, "interpolate between two recordings in z_mel")
    command.add_argument("first", metavar="A", help=READABLE_HELP)
    command.add_argument("second", metavar="B", help="as A; both are trimmed to the shorter one")
    command.add_argument("--first-stem", choices=STEMS, help="instrument of A (default: the best fit)")
    command.add_argument("--second-stem", choices=STEMS, help="instrument of B (default: the best fit)")
    command.add_argument("--steps", type=int, default=5, help="number of sounds, both ends included (default: 5)")
    command.add_argument("--output", help=f"{WRITABLE_HELP} (default: generated_audio/interpolation.wav)")
    add_model(command)
    add_overwrite(command)

    command = add_command(commands, "bench", bench, "print the speed of reconstruction for each stem")
    add_model(command)
    return parser


def add_generate(command: argparse.ArgumentParser) -> None:
    """Arguments of `generate`."""
    command.add_argument("--stem", choices=STEMS, help="instrument; with a recording, default: the best fit")
    command.add_argument("--seconds", type=positive(float), help="duration of the new sound, up to 600 (default: 6)")
    command.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    recording = command.add_mutually_exclusive_group()
    recording.add_argument("--like", metavar="RECORDING", help=f"draw a variation of a recording: {READABLE_HELP}")
    recording.add_argument("--continue", dest="continued", metavar="RECORDING", help="go on where a recording ends")
    command.add_argument(
        "--strength", type=float, help="of --like: 0 keeps the recording's spectrogram, 1 its style (default: 0.5)"
    )
    command.add_argument("--output", help=f"{WRITABLE_HELP} (default: generated_audio/STEM_seedSEED.wav)")
    command.add_argument("--model", help="file of a flow: .safetensors or .pt (default: the published flow)")
    add_overwrite(command)


def train(options: argparse.Namespace) -> None:
    """Train the stem VAE in this process, or in several started by torchrun."""
    from src import distributed
    from src.audio import data, evaluation, training

    with distributed.process_group():
        tracks = distributed.main_first(lambda: data.load_musdb18("train", AudioConfig().sample_rate))
        config, _ = audio_profile(options.profile, len(tracks))
        config = overridden(config, options)
        run_paths = prepare_run(paths.AudioPaths(options.run or options.profile), options, tracks.complete)
        validation = data.load_musdb18("validation", config.sample_rate) if distributed.is_main() else None
        scorer = evaluation.Scorer(validation) if validation else None

        def on_checkpoint(run: training.Run) -> None:
            scorer.save_examples(run.average, run_paths, run.epoch)
            scores = run.scores[-1]
            rates = ", ".join(f"{stem} {RATE.format(scores[stem][RATE])}" for stem in STEMS)
            print(
                f"\nepoch {run.epoch}: {NEGATIVE_ELBO.label} {NEGATIVE_ELBO.format(scores[NEGATIVE_ELBO])} "
                f"{NEGATIVE_ELBO.unit}; rates near {CHECKPOINT_SDR_DB[-1]:g} dB: {rates} {RATE.unit}"
            )

        score = scorer.score_checkpoint if scorer else None
        print_training(training.train(config, tracks, run_paths, score, on_checkpoint), run_paths)


def train_flow(options: argparse.Namespace) -> None:
    """Train the stem flow in this process, or in several started by torchrun."""
    from src import distributed
    from src.audio import data, flow_training

    with distributed.process_group():
        tracks = distributed.main_first(lambda: data.load_musdb18("train", FlowConfig().sample_rate))
        config = overridden(flow_profile(options.profile, len(tracks))[0], options)
        run_paths = prepare_run(paths.FlowPaths(options.run or options.profile), options, tracks.complete)
        validation = data.load_musdb18("validation", config.sample_rate) if distributed.is_main() else None
        scorer = flow_training.Scorer(config, validation) if validation else None

        def on_checkpoint(run: flow_training.Run) -> None:
            loss = run.scores[-1][FLOW_LOSS]
            print(f"\nepoch {run.epoch}: flow-matching loss {FLOW_LOSS.format(loss)} on the validation tracks")

        score = scorer.score_checkpoint if scorer else None
        print_training(flow_training.train(config, tracks, run_paths, score, on_checkpoint), run_paths)


def train_classifier(options: argparse.Namespace) -> None:
    """Train, measure and publish the reference stem classifier."""
    path = paths.AUDIO.classifier
    refuse_existing(path, options.overwrite)
    from src import classifiers
    from src.audio import classifier, data

    splits = {split: data.load_musdb18(split, AudioConfig().sample_rate) for split in SPLITS}
    accuracies = classifiers.train_and_publish(
        classifier.train, classifier.accuracy, StemClassifierConfig(), splits, path
    )
    print_accuracy(path, accuracies)


def evaluate(options: argparse.Namespace) -> None:
    """Print the scores of a model; those of a run are recorded too, and an interrupted evaluation goes on."""
    run_paths = paths.AudioPaths(options.run)
    if not options.model:
        refuse_existing(run_paths.metrics, options.overwrite)
    from src import training_loop
    from src.audio import benchmark, data, evaluation, vae

    published = run_paths == paths.AUDIO and not options.model
    if published and (options.profile != "full" or not data.load_musdb18("test", AudioConfig().sample_rate).complete):
        raise UsageError("the published scores come from the whole of MUSDB18 in the full profile: name another --run")
    history = {} if options.model else training_loop.read_history(run_paths)
    model = vae.load_model(options.model or run_paths.weights)
    protocol = AUDIO_PROFILES[options.profile][1]
    tracks = data.load_musdb18("test", model.config.sample_rate).first(protocol.tracks)
    keep = compute
    if not options.model:
        keep = _open_parts(run_paths, evaluation.describe_protocol(protocol, tracks, "test"))
    measured = evaluation.evaluate(model, protocol, keep=keep)
    measured["speed"] = benchmark.measure_speed(model, tracks)
    for stem, row in measured["final"].items():
        print(f"{stem:7} SDR {row[SDR]:6.2f} dB at {row[RATE]:6.2f} kbit/s")
    if not options.model:
        evaluation.save_pictures(model, run_paths)
        _record(run_paths, {**measured, **history})


def evaluate_flow(options: argparse.Namespace) -> None:
    """Print the scores of a flow; those of a run are recorded too, and an interrupted evaluation goes on."""
    run_paths = paths.FlowPaths(options.run)
    if not options.model:
        refuse_existing(run_paths.metrics, options.overwrite)
    from src import training_loop
    from src.audio import data, flow, flow_evaluation

    model = flow.load_flow(options.model or run_paths.weights)
    protocol = FLOW_PROFILES[options.profile][1]
    tracks = data.load_musdb18("test", model.config.sample_rate)
    if run_paths == paths.FLOW and not options.model and (options.profile != "full" or not tracks.complete):
        raise UsageError("the published scores come from the whole of MUSDB18 in the full profile: name another --run")
    history = {} if options.model else training_loop.read_history(run_paths)
    keep = compute
    if not options.model:
        described = flow_evaluation.describe_protocol(protocol, tracks.first(protocol.tracks), "test")
        keep = _open_parts(run_paths, described)
    measured = flow_evaluation.evaluate(model, protocol, keep=keep)
    for name, row in measured["scores"].items():
        mean, deviation = row[FRECHET]
        print(f"{name:24} {FRECHET.label} {FRECHET.format(mean)} +- {FRECHET.format(deviation)}")
    if not options.model:
        flow_evaluation.save_examples(model, run_paths)
        _record(run_paths, {**measured, **history})


def _open_parts(run_paths: paths.AudioPaths, protocol: dict) -> PartialResults:
    """The finished parts of an interrupted evaluation of a run. The description of the protocol names the machine and
    the packages too, so the recorded one is true of all parts."""
    key = {
        "weights": sha256(run_paths.weights),
        "classifier": sha256(paths.AUDIO.classifier),
        "protocol": protocol,
    }
    return open_partial_results(run_paths.partial_metrics, key)


def _record(run_paths: paths.AudioPaths, measured: dict) -> None:
    """Write the scores of a run, in place of its finished parts."""
    save_json(run_paths.metrics, measured)
    delete(run_paths.partial_metrics)
    print(f"wrote {paths.relative(run_paths.metrics)}")


def reconstruct(options: argparse.Namespace) -> None:
    """Write a recording as the model reconstructs it."""
    output = _checked_output(options.output, options.overwrite)
    from src.audio import vae
    from src.audio.reconstruct import reconstruct_file

    result = reconstruct_file(
        vae.load_model(options.model),
        Path(options.input),
        output,
        options.stem,
        options.sdr,
        options.fill,
        options.seed,
        sampled=not options.mean,
    )
    print(
        f"wrote {paths.relative(output)}: {result.seconds:.1f} s, {result.channels} channels, coded as "
        f"{result.stem} at {result.rate:.2f} kbit/s, of which z_mel {result.mel_rate:.2f}"
    )


def generate(options: argparse.Namespace) -> None:
    """Write generated sound of a stem, or a variation or a continuation of a recording."""
    source = options.like or options.continued
    if not (options.stem or source):
        raise UsageError("add --stem, or a recording with --like or --continue")
    if options.like and options.seconds:
        raise UsageError("a variation is as long as its recording: leave out --seconds, or --like")
    if options.strength is not None and not options.like:
        raise UsageError("--strength belongs to --like: add --like RECORDING")
    name = Path(source).stem if source else options.stem
    action = "_like" if options.like else "_continued" if options.continued else ""
    output = _checked_output(
        options.output or paths.AUDIO.generated / f"{name}{action}_seed{options.seed}.wav", options.overwrite
    )
    from src.audio import flow, sound_files
    from src.audio import generate as generation

    model, seconds = flow.load_flow(options.model), options.seconds or 6.0
    rate, stem = model.config.sample_rate, options.stem
    if source:
        recording, guessed = _read_mono(source, rate, stem)
        stem = stem or guessed
    if options.like:
        strength = 0.5 if options.strength is None else options.strength
        waveform = generation.vary(model, recording, stem, strength, options.seed)
        text = f"a variation of {options.like}, as {stem}, strength {strength:g},"
    elif options.continued:
        waveform = generation.extend(model, recording, stem, seconds, options.seed)
        text = f"{options.continued} and {seconds:g} s more, as {stem},"
    else:
        waveform = generation.sample(model, stem, 1, seconds, options.seed)[0]
        text = f"{seconds:g} s of {stem}"
    sound_files.write_audio(output, waveform[None], rate)
    print(f"wrote {text} to {paths.relative(output)}")


def _read_mono(path: str, sample_rate: int, stem: str | None):
    """A sound file as mono at `sample_rate`, a tensor (samples,), and its stem: `stem`, or the best fit."""
    import torch

    from src.audio import sound_files, vae
    from src.audio.reconstruct import guess_stem

    waveform, file_rate = sound_files.read_audio(Path(path))
    sound_files.check_scale(waveform, paths.relative(Path(path)))
    mono = torch.from_numpy(sound_files.resample(sound_files.mix_to_mono(waveform), file_rate, sample_rate))
    return mono, stem or guess_stem(vae.load_model(), mono[None])


def interpolate(options: argparse.Namespace) -> None:
    """Write the sounds between two recordings, one after the other."""
    output = _checked_output(options.output or paths.AUDIO.generated / "interpolation.wav", options.overwrite)
    import numpy as np

    from src.audio import generate as generation
    from src.audio import sound_files, vae

    model = vae.load_model(options.model)
    model_rate = model.config.sample_rate
    first, first_stem = _read_mono(options.first, model_rate, options.first_stem)
    second, second_stem = _read_mono(options.second, model_rate, options.second_stem)
    stems = (first_stem, second_stem)
    log_mels = generation.interpolate(model, first, second, stems, options.steps)
    samples = min(len(first), len(second))
    waveforms = [generation.mel_to_waveform(model.spectrogram, log_mel, samples) for log_mel in log_mels]
    sound_files.write_audio(output, np.concatenate(waveforms)[None], model_rate)
    print(
        f"wrote {options.steps} steps of {samples / model_rate:.1f} s from {stems[0]} to {stems[1]}, one after the "
        f"other, to {paths.relative(output)}"
    )


def _checked_output(output: str | Path, overwrite: bool) -> Path:
    """The output's path. Raises UsageError before any work if it exists or its format is unknown."""
    output = Path(output)
    refuse_existing(output, overwrite)
    from src.audio.sound_files import file_format_of

    file_format_of(output)
    return output


def bench(options: argparse.Namespace) -> None:
    """Print the speed of reconstruction."""
    import torch

    from src.audio import benchmark, data, vae

    model = vae.load_model(options.model)
    speeds = benchmark.measure_speed(model, data.load_musdb18("test", model.config.sample_rate))
    for stem, speed in speeds.items():
        print(f"{stem:7} {speed:6.1f} times faster than real time, with {torch.get_num_threads()} threads")
