"""The training objective of the stem VAE."""

import torch
from torch import Tensor

from src.audio import vae
from src.audio.water_filling import water_level

TERMS = ("distortion", "mel_rate", "fine_rate", "mel_likelihood")  # of the objective, kbit/s


def objective(
    model: vae.StemVAE,
    waveforms: Tensor,
    stem_index: int,
    sdr_db: Tensor,
    noise: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The terms (4,) of the training objective for waveforms (batch, samples), in the order of `TERMS`, as kbit/s of
    audio, mean over the batch.

    The first three are the negative ELBO: distortion / (2 D), KL(z_mel) and KL(z_fine), with the water level D from
    the target SDR (batch,). The last is an auxiliary Gaussian log-likelihood of the log-mel spectrogram with the
    standard deviation `mel_loss_std_db`: the ELBO does not constrain the decoded mel below D, but the noise of `fill`
    and generated audio follow it. `noise` is that of both latents, as `StemVAE.forward` takes it.
    """
    config = model.config
    log_mel = model.log_mel(waveforms)
    level = water_level(log_mel, sdr_db, model.spectrogram)
    output = model(waveforms, log_mel, stem_index, level, noise)
    mel_error = ((log_mel - output.decoded_mel) / config.mel_loss_std_db).square()
    nats = (output.distortion.sum() / 2, output.mel_divergence.sum(), output.fine_divergence.sum(), mel_error.sum() / 2)
    return torch.stack(nats) / (waveforms.numel() / config.sample_rate * vae.NATS_PER_KBIT)
