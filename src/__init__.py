"""Helpers behind the two notebooks.

`config` holds every default, `paths` every file name, `runtime` the device, precision and random streams,
`checkpoints` saving and loading, `results` the tables and figures made from measured JSON. The wing `image` has the
DCGAN on MNIST: `data` -> `dcgan` -> `training` -> `generate` -> `metrics`, judged by the digit `classifier`, and held
against others in `benchmark`. The wing `audio` has MUSDB18's stems: `data` -> `spectrogram` -> `vae` -> `metrics`; its
training is still to come. `cli` is the command line, `python -m src`.
"""
