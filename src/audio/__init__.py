"""The audio wing: MUSDB18's stems, their spectrograms, a two-latent VAE, and how regenerated stems are measured."""
