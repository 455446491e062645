"""The training of the demo's GLIDE: its loss against closed forms, and its files."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.distributions import Normal, kl_divergence

import septet
import train_demo_glide
from train_demo_glide import BOUND_WEIGHT, Process, make_schedulers
from training import add_noise


@pytest.mark.parametrize("stage", ["base", "upsampler"])
def test_loss_is_that_of_the_papers(stage):
    process = Process.make(make_schedulers()[stage])
    timesteps = torch.tensor([1, 40, 200, 350, 490])
    generator = torch.Generator().manual_seed(0)
    clean, noise, error = torch.randn(3, 5, 3, 4, 4, generator=generator)
    clean = clean.clamp(-1, 1)
    fraction = torch.rand(clean.shape, generator=generator) * 2 - 1
    output = torch.cat([noise + 0.1 * error, fraction], dim=1)

    # Ho et al. 2020, eq. 6 and 7, from the products of alphas alone
    alphas = process.alphas_cumprod.double()
    now, before = (alphas[t].reshape(-1, 1, 1, 1) for t in (timesteps, timesteps - 1))
    beta = 1 - now / before
    posterior = beta * (1 - before) / (1 - now)

    def mean(original):
        noisy = now.sqrt() * clean + (1 - now).sqrt() * noise
        share = before.sqrt() * beta / (1 - now)
        return share * original + (now / before).sqrt() * (1 - before) / (1 - now) * noisy

    guess = clean - 0.1 * error * ((1 - now) / now).sqrt()
    # Nichol and Dhariwal 2021, eq. 15
    share = (fraction.double() + 1) / 2
    variance = (share * beta.log() + (1 - share) * posterior.log()).exp()
    divergence = kl_divergence(
        Normal(mean(clean.double()), posterior.sqrt()),
        Normal(mean(guess.double()), variance.sqrt()),
    )
    weight = (1 / now).clamp(max=train_demo_glide.LARGEST_WEIGHT)
    expected = (weight * (0.1 * error) ** 2).mean() + BOUND_WEIGHT * divergence.mean()
    loss = process.loss(noise, output, timesteps)
    assert loss == pytest.approx(float(expected), rel=2e-3)


@pytest.mark.parametrize("stage", ["base", "upsampler"])
def test_training_begins_where_drawing_does(stage):
    process = Process.make(make_schedulers()[stage])
    clean, start = torch.randn(2, 5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    noise = process.noise_towards(clean, start)
    last = process.alphas_cumprod[-1].expand(5)
    assert (add_noise(clean, noise, last) - start).abs().max() < 1e-5


def test_the_bound_teaches_the_variance_only():
    process = Process.make(make_schedulers()["base"])
    noise = torch.zeros(1, 3, 4, 4)
    output = torch.zeros(1, 6, 4, 4, requires_grad=True)
    torch.autograd.backward(process.loss(noise, output, torch.tensor([500])))
    of_noise, of_variance = output.grad.chunk(2, dim=1)
    assert (of_noise == 0).all()
    assert (of_variance > 0).all(), "the variance of exact noise is the smallest"


@pytest.mark.slow
def test_trains_and_exports(monkeypatch, tmp_path):
    monkeypatch.setattr(train_demo_glide, "BATCH", {"base": 2, "upsampler": 1})
    for stage in ("base", "upsampler", "export"):
        options = ["--steps", "1", "--work", str(tmp_path), "--output", str(tmp_path / "out")]
        monkeypatch.setattr(sys, "argv", ["train_demo_glide.py", stage, *options])
        train_demo_glide.main()
    pipe = septet.GLIDEPipeline.from_pretrained(tmp_path / "out")
    images = pipe("red apple", num_inference_steps=2, num_inference_steps_upscale=2).images
    assert images[0].size == (64, 64)
