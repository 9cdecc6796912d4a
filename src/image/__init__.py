"""The image wing: a DCGAN that draws MNIST digits."""
