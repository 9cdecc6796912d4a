"""The losses of the DCGAN. Logits have any shape; images are (batch, 1, 28, 28) in [-1, 1]."""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Binary cross-entropy in nats, the sum over real and fake images (Goodfellow et al. 2014, eq. 1):
    E[-log sigmoid(D(x))] + E[-log(1 - sigmoid(D(G(z))))]. A discriminator that cannot tell them apart has 2 ln 2."""
    return softplus(-real_logits.float()).mean() + softplus(fake_logits.float()).mean()


def generator_loss(fake_logits: Tensor) -> Tensor:
    """The non-saturating loss in nats, E[-log sigmoid(D(G(z)))] (Goodfellow et al. 2014, section 3)."""
    return softplus(-fake_logits.float()).mean()


def gradient_penalty(discriminator: nn.Module, real: Tensor, one_hot: Tensor) -> Tensor:
    """R1, E |grad_x D(x, y)|^2 over real images and their digits (Mescheder et al. 2018, eq. 9). In float32, since it
    is differentiated twice."""
    real = real.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(real, one_hot).sum(), real, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean()
