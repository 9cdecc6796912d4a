"""The command line: parse, call, print."""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from torch import Tensor

from src import checkpoints, classification, paths, results, runtime
from src.audio import classifier as stem_classifier
from src.audio import data as audio_data
from src.audio import evaluation
from src.audio import generate as audio_generate
from src.audio import training as audio_training
from src.config import (
    OPERATING_SDR_DB,
    PROFILES,
    AudioConfig,
    AudioEvaluationConfig,
    ClassifierConfig,
    ImageConfig,
    StemClassifierConfig,
    audio_profile,
    image_profile,
)
from src.image import benchmark, classifier, data, generate, metrics, training

FAILED, INTERRUPTED = 1, 130
TOLERANCE = 0.02  # of verify, relative; other processors round differently, and a few pixels flip by one grey level


class UsageError(ValueError):
    """What was asked for cannot be done; the message says how to ask instead."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, or 1 (130 if interrupted) with one line on standard error."""
    warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
    options = build_parser().parse_args(arguments)
    try:
        runtime.start_processes()
        options.command(options)
    except (ValueError, OSError, checkpoints.CheckpointError, data.DataError, audio_data.DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    finally:
        runtime.stop_processes()
    return 0


# --- commands ---


def find_data(_: argparse.Namespace) -> None:
    """Fetch the data sets or find them, and say what is there."""
    for split in data.SPLITS:
        digits = data.load_mnist(split)
        print(f"{digits.source:15} {split:10} {len(digits):6,} digits of 28 x 28 pixels")
    for split in audio_data.SPLITS:
        tracks = audio_data.load_musdb18(split, AudioConfig().sample_rate)
        minutes = sum(stems.shape[-1] for stems in tracks.waveforms) / tracks.sample_rate / 60
        print(f"{tracks.source:15} {split:10} {len(tracks):6,} tracks of 4 stems, {minutes:.1f} minutes")
    for found, folder in ((digits, paths.MNIST), (tracks, paths.MUSDB18)):
        if found.complete:
            print(f"{found.source} is in {paths.relative(folder)}")
    examples = audio_data.write_examples(tracks)
    print(f"{len(examples)} stems to try things on are in {paths.relative(examples[0].parent)}")


def image_train(options: argparse.Namespace) -> None:
    digits = runtime.main_first(lambda: data.load_mnist("train"))
    config, evaluation = image_profile(options.profile, len(digits))
    changes = {name: getattr(options, name) for name in ("epochs", "seed") if getattr(options, name) is not None}
    config = replace(config, **changes)
    where = find_run(paths.ImagePaths(options.run or options.profile), options.run, digits.complete)
    prepare_run(where, options.overwrite)
    judge = metrics.Judge(data.load_mnist("validation"), evaluation) if runtime.is_main() else None
    run = training.train(config, digits, where, judge.rank if judge else None, on_checkpoint=print_checkpoint)
    if runtime.is_main():
        print(f"{run.epoch} epochs, {run.step:,} steps, {run.seconds / 60:.1f} minutes of training")
        print(f"best generator: {paths.relative(where.weights)}")


def find_run(where: paths.RunPaths, named: str | None, complete: bool) -> paths.RunPaths:
    """The run that was named, or else the profile's."""
    return where if named else checkpoints.find_run(where, complete)


def prepare_run(where: paths.RunPaths, overwrite: bool) -> None:
    """Go on where there is a training state; never train over published weights unasked."""
    latest = checkpoints.latest(where)
    if overwrite:
        if runtime.is_main():
            for path in (*where.checkpoints.glob("epoch_*.pt"), where.training_log):
                path.unlink(missing_ok=True)
        runtime.wait_for_all()
    elif latest:
        if runtime.is_main():
            print(f"going on from {paths.relative(latest)}")
    elif where.weights.is_file():
        raise UsageError(
            f"{paths.relative(where.weights)} is there, without a training state to go on from: "
            "add --run NAME to train beside it, or --overwrite to replace it"
        )


def print_checkpoint(run: training.Run) -> None:
    scores = run.scores[-1]
    print(
        f"\nepoch {run.epoch}: fid_mnist {scores['fid_mnist']:.3f}, "
        f"inception_score_mnist {scores['inception_score_mnist']:.3f} (validation digits)"
    )


def image_train_classifier(options: argparse.Namespace) -> None:
    train_classifier(options, paths.IMAGE.classifier, classifier, ClassifierConfig(), data.load_mnist)


def audio_train_classifier(options: argparse.Namespace) -> None:
    def load(split: str) -> audio_data.Tracks:
        return audio_data.load_musdb18(split, AudioConfig().sample_rate)

    train_classifier(options, paths.AUDIO.classifier, stem_classifier, StemClassifierConfig(), load)


def train_classifier(
    options: argparse.Namespace,
    target: Path,
    module: ModuleType,
    config: ClassifierConfig | StemClassifierConfig,
    load: Callable[[str], data.Digits | audio_data.Tracks],
) -> None:
    """Train the reference classifier of `module` on what `load` gives of a split, measure it and publish it."""
    refuse_existing(target, options.overwrite)
    splits = {name: load(name) for name in data.SPLITS}
    began = time.perf_counter()
    network = module.train(config, splits["train"])
    seconds = time.perf_counter() - began
    accuracy = {name: module.accuracy(network, splits[name]) for name in ("validation", "test")}
    measured = {"data": splits["train"].source, "training_seconds": round(seconds, 1), "accuracy": accuracy}
    classification.publish(network, config, measured, target)
    print(f"{paths.relative(target)}: accuracy {accuracy['validation']:.2%} validation, {accuracy['test']:.2%} test")


def image_evaluate(options: argparse.Namespace) -> None:
    where = paths.ImagePaths(options.run)
    if not options.model:
        refuse_existing(where.metrics, options.overwrite)
        if where == paths.IMAGE and (options.profile != "full" or not data.load_mnist("test").complete):
            raise UsageError(
                "the published scores come from the whole of MNIST in the full profile: name another --run"
            )
        history = checkpoints.read_history(where)
    generator = generate.load_generator(options.model or where.weights)
    measured = metrics.evaluate(generator, PROFILES[options.profile][1], options.inception)
    print_final(measured)
    if not options.model:
        checkpoints.save_json(where.metrics, {**measured, **history})
        print(f"wrote {paths.relative(where.metrics)}")


def print_final(measured: dict) -> None:
    for name, row in measured["final"].items():
        if name != "digit_shares":
            spread = f" +- {row['std']:.4f}" if row["std"] is not None else ""
            print(f"{name:28} {row['mean']:9.4f}{spread}   (real digits: {row['real']:.4f})")
    for name, why in measured["not_measured"].items():
        print(f"{name}: not measured ({why})")


def image_generate(options: argparse.Namespace) -> None:
    output = find_output(options, f"digits_seed{options.seed}.png")
    images = generate.sample(generate.load_generator(options.model), options.count, options.seed)
    save(images, output, columns=options.columns)
    print(f"wrote {options.count} digits to {paths.relative(output)}")


def image_interpolate(options: argparse.Namespace) -> None:
    output = find_output(options, f"interpolation_{options.start}_{options.end}.png")
    generator = generate.load_generator(options.model)
    images = generate.interpolate(generator, options.start, options.end, options.steps)
    save(images, output, columns=options.steps)
    print(f"wrote {options.steps} steps from seed {options.start} to seed {options.end} to {paths.relative(output)}")


def find_output(options: argparse.Namespace, default_name: str) -> Path:
    """Where to write, checked before any work is done."""
    output = Path(options.output or paths.IMAGE.samples / default_name)
    refuse_existing(output, options.overwrite)
    if output.suffix not in (".png", ".npy", ""):
        raise UsageError(f"cannot write {output.name}: end it in .png (a grid) or .npy, or name a folder")
    return output


def save(images: Tensor, output: Path, columns: int) -> None:
    """By the output's suffix: .png is one grid, .npy an array, none a folder of single PNG files."""
    if output.suffix == ".npy":
        generate.save_array(images, output)
    elif output.suffix == ".png":
        generate.save_grid(images, output, columns)
    else:
        generate.save_images(images, output)


def refuse_existing(target: Path, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        raise UsageError(f"{paths.relative(target)} exists: add --overwrite to replace it")


def audio_train(options: argparse.Namespace) -> None:
    tracks = runtime.main_first(lambda: audio_data.load_musdb18("train", AudioConfig().sample_rate))
    config, _ = audio_profile(options.profile, len(tracks))
    changes = {name: getattr(options, name) for name in ("epochs", "seed") if getattr(options, name) is not None}
    config = replace(config, **changes)
    where = find_run(paths.AudioPaths(options.run or options.profile), options.run, tracks.complete)
    prepare_run(where, options.overwrite)
    judge = evaluation.Judge(audio_data.load_musdb18("validation", config.sample_rate)) if runtime.is_main() else None

    def on_checkpoint(run: audio_training.Run) -> None:
        print_audio_checkpoint(run)
        judge.illustrate(run.average, where, run.epoch)

    run = audio_training.train(config, tracks, where, judge.rank if judge else None, on_checkpoint)
    if runtime.is_main():
        print(f"{run.epoch} epochs, {run.step:,} steps, {run.seconds / 60:.1f} minutes of training")
        print(f"best model: {paths.relative(where.weights)}")


def print_audio_checkpoint(run: audio_training.Run) -> None:
    scores = run.scores[-1]
    rates = ", ".join(f"{stem} {scores[stem]['rate_kbit_s']:.2f}" for stem in audio_data.STEMS)
    print(f"\nepoch {run.epoch}: objective {scores['objective_kbit_s']:.3f} kbit/s; rates near 18.2 dB: {rates} kbit/s")


def audio_evaluate(options: argparse.Namespace) -> None:
    where = paths.AudioPaths(options.run)
    refuse_existing(where.metrics, options.overwrite)
    if where == paths.AUDIO and not audio_data.load_musdb18("test", AudioConfig().sample_rate).complete:
        raise UsageError("the published scores come from MUSDB18, which is not here: name another --run")
    history = checkpoints.read_history(where)
    model = audio_generate.load_model(where.weights)
    measured = evaluation.evaluate(model, AudioEvaluationConfig())
    checkpoints.save_json(where.metrics, {**measured, **history})
    for stem, row in measured["final"].items():
        print(f"{stem:7} SDR {row['sdr_museval_db']:6.2f} dB at {row['rate_kbit_s']:6.2f} kbit/s")
    print(f"wrote {paths.relative(where.metrics)}")


def audio_reconstruct(options: argparse.Namespace) -> None:
    source, output = Path(options.input), Path(options.output)
    check_audio_output(output, options.overwrite)
    waveform, rate = audio_data.read_audio(source)
    audio_data.check_format(output, len(waveform), rate)  # before minutes of work
    model = audio_generate.load_model(options.model)
    result = audio_generate.reconstruct(
        model, waveform, rate, options.stem, options.distortion, options.fill, options.seed, not options.mean
    )
    audio_data.write_audio(output, result.waveform, rate)
    print(
        f"wrote {paths.relative(output)}: {waveform.shape[1] / rate:.1f} s, {len(waveform)} channels, coded as "
        f"{result.stem} at {result.rate:.2f} kbit/s, of which z_mel {result.mel_rate:.2f}"
    )


def audio_generate_stems(options: argparse.Namespace) -> None:
    output = Path(options.output or paths.AUDIO.generated / f"{options.stem}_seed{options.seed}.wav")
    check_audio_output(output, options.overwrite)
    model = audio_generate.load_model(options.model)
    waveform = audio_generate.generate(model, options.stem, 1, options.seconds, options.seed)
    audio_data.write_audio(output, waveform, model.config.sample_rate)
    print(f"wrote {options.seconds:g} s of {options.stem} to {paths.relative(output)}")


def audio_interpolate(options: argparse.Namespace) -> None:
    output = Path(options.output or paths.AUDIO.generated / "interpolation.wav")
    check_audio_output(output, options.overwrite)
    model = audio_generate.load_model(options.model)
    rate = model.config.sample_rate
    ends = []
    for source in (options.first, options.second):
        waveform, its_rate = audio_data.read_audio(Path(source))
        ends.append(Tensor(audio_data.resample(waveform.mean(axis=0), its_rate, rate)))
    stems = [
        stem or audio_generate.guess_stem(model, end[None])
        for stem, end in zip((options.first_stem, options.second_stem), ends, strict=True)
    ]
    mels = audio_generate.interpolate(model, *ends, tuple(stems), options.steps)
    samples = min(len(end) for end in ends)
    waveforms = audio_generate.make_audible(model, mels, samples)
    audio_data.write_audio(output, waveforms.reshape(1, -1), rate)
    print(
        f"wrote {options.steps} steps of {samples / rate:.1f} s from {stems[0]} to {stems[1]}, one after the other, "
        f"to {paths.relative(output)}"
    )


def check_audio_output(output: Path, overwrite: bool) -> None:
    """Refuse what cannot be written before any work is done."""
    refuse_existing(output, overwrite)
    if output.suffix.lower() not in audio_data.WRITABLE:
        raise UsageError(f"cannot write {output.name}: end it in {', '.join(audio_data.WRITABLE)}")


def image_ablate(options: argparse.Namespace) -> None:
    refuse_existing(paths.IMAGE.ablation, options.overwrite)
    checkpoints.save_json(paths.IMAGE.ablation, benchmark.ablate(options.minutes))
    print(f"wrote {paths.relative(paths.IMAGE.ablation)}")


def write_results(_: argparse.Namespace) -> None:
    for path in results.write():
        print(f"wrote {paths.relative(path)}")


def verify(_: argparse.Namespace) -> None:
    """Measure the committed models anew, and compare with the recorded numbers."""
    wrong = []
    for name, recorded, measured in (*measure_images_again(), *measure_stems_again()):
        agrees = abs(measured - recorded) <= TOLERANCE * max(abs(recorded), 0.01)
        print(f"{name:28} recorded {recorded:9.4f}   measured {measured:9.4f}   {'agrees' if agrees else 'DIFFERS'}")
        wrong += [] if agrees else [name]
    if wrong:
        raise UsageError(f"more than {TOLERANCE:.0%} off the recorded values: {', '.join(wrong)}")


def measure_images_again() -> Iterator[tuple[str, float, float]]:
    """Each score of the committed generator: its name, as recorded, and as measured now."""
    recorded = checkpoints.load_json(paths.IMAGE.metrics)["final"]
    if not data.load_mnist("test").complete:
        raise UsageError("the recorded numbers were measured on MNIST, which is not here: run python -m src data")
    measured = metrics.evaluate(generate.load_generator(), PROFILES["full"][1])["final"]
    for name, row in measured.items():
        if name != "digit_shares":
            yield name, recorded[name]["mean"], row["mean"]


def measure_stems_again() -> Iterator[tuple[str, float, float]]:
    """Likewise, of the committed stem VAE at its operating point."""
    recorded = checkpoints.load_json(paths.AUDIO.metrics)["final"]
    tracks = audio_data.load_musdb18("test", AudioConfig().sample_rate)
    if not tracks.complete:
        raise UsageError("the recorded numbers were measured on MUSDB18, which is not here: run python -m src data")
    model = audio_generate.load_model()
    for stem, name in enumerate(audio_data.STEMS):
        measured = evaluation.measure(model, evaluation.audible(tracks, stem), name, OPERATING_SDR_DB[stem])
        for score in ("sdr_museval_db", "rate_kbit_s", "mel_rate_kbit_s", "sdr_global_db", "si_sdr_db", "mel_error_db"):
            yield f"{name} {score}", recorded[name][score], measured[score]


def bench(options: argparse.Namespace) -> None:
    refuse_existing(paths.IMAGE.benchmark, options.overwrite)
    checkpoints.save_json(paths.IMAGE.benchmark, benchmark.compare(options.minutes))
    print(f"wrote {paths.relative(paths.IMAGE.benchmark)}")


# --- arguments ---


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m src", description="Generative models of digits and of music.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    add(commands, "data", find_data, "fetch the data sets or find them; say what is there")
    image = commands.add_parser("image", help="the DCGAN on MNIST").add_subparsers(required=True, metavar="COMMAND")

    command = add(image, "train", image_train, "train the DCGAN, or go on from its latest checkpoint")
    epochs = f"full: {ImageConfig().epochs} epochs (default); quick: a few, in minutes"
    command.add_argument("--profile", choices=PROFILES, default="full", help=epochs)
    command.add_argument("--run", help="name of the run, whose files go to folders of that name (default: the profile)")
    command.add_argument("--epochs", type=int, help="passes over the 50,000 training digits")
    command.add_argument("--seed", type=int, help="of weights, batches and noise (default: 0)")
    add_overwrite(command, "begin again, deleting the run's checkpoints")

    command = add(image, "train-classifier", image_train_classifier, "train the reference classifier (about 5 minutes)")
    add_overwrite(command, "replace the committed classifier: every mnist metric changes its meaning")

    command = add(image, "evaluate", image_evaluate, "measure a generator against the test digits")
    command.add_argument(
        "--profile",
        choices=PROFILES,
        default="full",
        help="full: 3 seeds of 10,000 images (default); quick: 1 of 2,000",
    )
    command.add_argument("--run", default="full", help="the run to evaluate (default: full, the committed model)")
    command.add_argument("--model", help=".safetensors or training state .pt: print its scores, write nothing")
    command.add_argument(
        "--inception",
        nargs="?",
        const="download",
        metavar="WEIGHTS",
        help="also measure with InceptionV3, from a file of its weights or else downloading them; slow on a CPU",
    )
    add_overwrite(command, "replace the recorded scores")

    command = add(image, "generate", image_generate, "draw digits")
    command.add_argument("--count", type=int, default=64, help="number of digits (default: 64)")
    command.add_argument("--seed", type=int, default=0, help="image i depends on (seed, i) alone (default: 0)")
    command.add_argument("--columns", type=positive(int), default=8, help="of the grid (default: 8)")
    add_output(command)

    command = add(image, "interpolate", image_interpolate, "digits on the great circle between two seeds")
    command.add_argument("--start", type=int, default=0, help="seed of the first digit (default: 0)")
    command.add_argument("--end", type=int, default=1, help="seed of the last digit (default: 1)")
    command.add_argument("--steps", type=int, default=10, help="number of digits, both ends included (default: 10)")
    add_output(command)

    command = add(image, "ablate", image_ablate, "train the DCGAN's variants for the same time each; write the table")
    command.add_argument("--minutes", type=positive(float), default=2, help="of training for each variant (default: 2)")
    add_overwrite(command, "replace the recorded table")

    audio = commands.add_parser("audio", help="the VAE of MUSDB18's stems").add_subparsers(
        required=True, metavar="COMMAND"
    )

    command = add(audio, "train", audio_train, "train the stem VAE, or go on from its latest checkpoint")
    epochs = f"full: {AudioConfig().epochs} epochs (default); quick: a small model, in minutes"
    command.add_argument("--profile", choices=PROFILES, default="full", help=epochs)
    command.add_argument("--run", help="name of the run, whose files go to folders of that name (default: the profile)")
    command.add_argument("--epochs", type=int, help="passes over the training tracks")
    command.add_argument("--seed", type=int, help="of weights, crops and noise (default: 0)")
    add_overwrite(command, "begin again, deleting the run's checkpoints")

    command = add(audio, "train-classifier", audio_train_classifier, "train the stem classifier (about 5 minutes)")
    add_overwrite(command, "replace the committed classifier: scores of generated stems change their meaning")

    command = add(audio, "evaluate", audio_evaluate, "measure a model on the test tracks (about 20 minutes)")
    command.add_argument("--run", default="full", help="the run to evaluate (default: full, the committed model)")
    add_overwrite(command, "replace the recorded scores")

    command = add(audio, "reconstruct", audio_reconstruct, "send a recording through the latents and back")
    command.add_argument("input", metavar="IN", help="WAV, FLAC, MP3, MP4 ...: any sample rate and channels")
    command.add_argument("output", metavar="OUT", help="WAV, FLAC, OGG or MP3")
    command.add_argument("--stem", choices=audio_data.STEMS, help="the instrument (default: the best fit)")
    command.add_argument(
        "--distortion", type=float, help="noise to aim for, in dB above the sound, e.g. -12 (default: recorded point)"
    )
    command.add_argument(
        "--fill", type=float, default=0.0, help="amplitude of the noise put where sound is lost, 0 to 1 (default: 0)"
    )
    command.add_argument("--mean", action="store_true", help="the posteriors' means, not samples from them")
    command.add_argument("--seed", type=int, default=0, help="of the latents' noise (default: 0)")
    add_audio_model(command)

    command = add(audio, "generate", audio_generate_stems, "draw new sound of a stem")
    command.add_argument("--stem", choices=audio_data.STEMS, required=True, help="the instrument")
    command.add_argument("--seconds", type=positive(float), default=6.0, help="length (default: 6)")
    command.add_argument("--seed", type=int, default=0, help="of the latents (default: 0)")
    command.add_argument("--output", help="WAV, FLAC, OGG or MP3 (default: generated_audio/STEM_seedSEED.wav)")
    add_audio_model(command)

    command = add(audio, "interpolate", audio_interpolate, "walk through z_mel from one recording to another")
    command.add_argument("first", metavar="A", help="WAV, FLAC, MP3, MP4 ...")
    command.add_argument("second", metavar="B", help="likewise; both are cut to the shorter")
    command.add_argument("--first-stem", choices=audio_data.STEMS, help="instrument of A (default: the best fit)")
    command.add_argument("--second-stem", choices=audio_data.STEMS, help="instrument of B (default: the best fit)")
    command.add_argument("--steps", type=int, default=5, help="recordings, both ends included (default: 5)")
    command.add_argument("--output", help="WAV, FLAC, OGG or MP3 (default: generated_audio/interpolation.wav)")
    add_audio_model(command)

    add(commands, "results", write_results, "rebuild RESULTS.md and its figures from the metrics JSON")
    add(commands, "verify", verify, "re-measure the committed models and compare with the recorded numbers")
    command = add(commands, "bench", bench, "timings, and training against the tutorial's DCGAN at equal wall-clock")
    command.add_argument(
        "--minutes", type=positive(float), default=4, help="of training for each of the two (default: 4)"
    )
    add_overwrite(command, "replace the recorded comparison")
    return parser


def add(commands, name: str, function, text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(command=function)
    return command


def positive(number: type) -> Callable[[str], float]:
    """An argparse type: a `number` above 0."""

    def parse(text: str) -> float:
        value = number(text)
        if value <= 0:
            raise argparse.ArgumentTypeError(f"{text} is not above 0")
        return value

    return parse


def add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--output", help="NAME.png: one grid; NAME.npy: uint8 (count, 1, 28, 28); else: folder of PNGs"
    )
    command.add_argument("--model", help=".safetensors or training state .pt (default: the committed generator)")
    add_overwrite(command, "replace the output")


def add_audio_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", help=".safetensors or training state .pt (default: the committed model)")
    add_overwrite(command, "replace the output")


def add_overwrite(command: argparse.ArgumentParser, text: str) -> None:
    command.add_argument("--overwrite", action="store_true", help=text)
