"""The audio wing: MUSDB18's stems, their spectrograms, and how regenerated ones are measured."""
