"""Helpers behind the two notebooks.

`config` holds every default, `paths` every file name, `runtime` the device, precision and random streams,
`checkpoints` saving and loading, `classification` the training of both reference classifiers, `results` the tables
and figures made from measured JSON. The wing `image` has the DCGAN on MNIST: `data` -> `dcgan` -> `training` ->
`generate` -> `metrics`, judged by the digit `classifier`, and held against others in `benchmark`. The wing `audio`
has the VAE of MUSDB18's stems: `data` -> `spectrogram` -> `vae` -> `training` -> `generate` -> `metrics`, applied by
the protocol in `evaluation` and judged by the stem `classifier`; `show` is for eye and ear. `cli` is the command
line, `python -m src`.
"""
