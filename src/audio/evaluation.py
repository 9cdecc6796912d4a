"""The protocol that judges a model: a quick look at every checkpoint, and the whole measurement on the test tracks."""

import torch
from torch import Tensor

from src.audio import metrics, spectrogram, vae
from src.audio.data import STEMS, Tracks
from src.audio.training import NATS_PER_KBIT

CHECKPOINT_SDRS_DB = (12.0, 18.2)  # at which checkpoints are compared


class Judge:
    """Compares checkpoints on the validation tracks: always the same sound, water levels and noise."""

    def __init__(self, tracks: Tracks):
        shortest = min(stems.shape[1] for stems in tracks.waveforms)
        self.stems = [torch.stack([stems[stem, :shortest] for stems in tracks.waveforms]) for stem in range(len(STEMS))]

    @torch.inference_mode()
    def rank(self, model: vae.StemVAE) -> dict:
        """`objective_kbit_s`, the negative evidence lower bound, mean over stems, tracks and two SDRs: lower is better.
        Then of each stem at the higher SDR the medians of both rates in kbit/s, of the SDR and of the mel's error."""
        where = next(model.parameters()).device
        scores, total = {}, 0.0
        for stem, name in enumerate(STEMS):
            heard = self.stems[stem]
            waveforms = heard[heard.square().mean(1) > metrics.SILENCE].to(where)
            kbit = waveforms.shape[1] / model.config.sample_rate * NATS_PER_KBIT
            for sdr_db in CHECKPOINT_SDRS_DB:
                wanted = torch.full((len(waveforms),), sdr_db, device=where)
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(0)
                    coded = model(waveforms, stem, vae.water_level(model.log_mel(waveforms), wanted, model.config))
                rate = (coded.mel_divergence.sum(1) + coded.fine_divergence.sum(1)) / kbit
                total += (rate + coded.distortion.sum(1) / 2 / kbit).mean().item()
            decoded = spectrogram.imdct(coded.coefficients, waveforms.shape[1])
            scores[name] = {
                "rate_kbit_s": _median(rate),
                "mel_rate_kbit_s": _median(coded.mel_divergence.sum(1) / kbit),
                "sdr_global_db": _median(metrics.sdr_global(waveforms, decoded)),
                "mel_error_db": _median(metrics.log_mel_error(coded.log_mel, coded.decoded_mel)),
            }
        return {"objective_kbit_s": round(total / len(STEMS) / len(CHECKPOINT_SDRS_DB), 4), **scores}


def _median(values: Tensor) -> float:
    return round(values.median().item(), 4)
