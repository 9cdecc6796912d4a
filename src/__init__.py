"""The package behind the two notebooks and the command line.

Imports go down this list, never up, and `image` and `audio` never import each other.

cli                 the root of the command line, `python -m src`
commands            one file for each command group: its parser and its handlers
image               the DCGAN on MNIST:  data -> dcgan, losses -> training, generate -> evaluation -> benchmark,
                    with classifier and inception, the networks whose features the evaluation uses
audio               the VAE of MUSDB18's stems:  sound_files -> data, spectrogram -> water_filling -> vae
                    -> losses -> training, reconstruct -> evaluation -> benchmark; the stem flow: flow
                    -> flow_training -> generate -> flow_evaluation; with metrics of waveforms, summaries of the
                    scores of many tracks, the stem classifier, and display for figures and players
metrics             FID, KID, Inception Score, precision, recall and nearest neighbours of feature sets
classifiers         training and publishing of both reference classifiers
training_loop       epochs, resume, learning rate, averaging, order of a checkpoint, log
checkpoints         files of models and of training states: names, saving, loading
distributed         training in several processes
runtime             device, precision, random streams
downloads           files from the network
notebook            helpers of both notebooks: source code as Markdown, pixel-exact pictures
figures             sizes and colours of figures, for light pages, dark pages and notebooks
report              RESULTS.md, model cards and figures, from JSON and saved pictures alone
files               atomic writes and JSON
paths               the folders, and every other file name
config              every default
metric_tables       key, label, unit, decimals, better direction and tolerance of every metric
errors              the errors that become one line

To add a data set, copy `image/data.py` or `audio/data.py` and return the same type, `Digits` or `Tracks`.
"""
