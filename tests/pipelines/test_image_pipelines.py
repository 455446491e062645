"""What a call of an image pipeline promises: outputs, callbacks, interruption, refusals."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import nn

import septet
from septet.errors import CheckpointError

NAMES = ("DDPMPipeline", "DDIMPipeline", "PNDMPipeline")


def make(name, unet, scheduler=None):
    pipeline = getattr(septet, name)(unet, scheduler or septet.DDPMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(params=NAMES)
def pipeline(request, unet):
    return make(request.param, unet)


def images(pipeline, **call):
    call = {"num_inference_steps": 5, "output_type": "np", **call}
    call.setdefault("generator", torch.Generator().manual_seed(0))
    return pipeline(**call)[0]


def test_output_types_agree(pipeline):
    arrays = images(pipeline, batch_size=2)
    tensors = images(pipeline, batch_size=2, output_type="pt")
    pictures = images(pipeline, batch_size=2, output_type="pil")
    assert arrays.shape == (2, 8, 8, 3)
    assert arrays.dtype == np.float32
    np.testing.assert_array_equal(tensors.permute(0, 2, 3, 1).numpy(), arrays)
    assert [picture.size for picture in pictures] == [(8, 8), (8, 8)]
    np.testing.assert_array_equal(np.stack(pictures), np.round(arrays * 255))


def test_grey_images():
    torch.manual_seed(0)
    grey = septet.UNet2DModel(
        sample_size=(8, 16), in_channels=1, out_channels=1, block_out_channels=(8, 8),
        layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    picture = images(make("DDIMPipeline", grey.eval()), output_type="pil")[0]
    assert (picture.mode, picture.size) == ("L", (16, 8))


def test_return_dict(pipeline):
    output = pipeline(num_inference_steps=4, output_type="pt")
    assert output[0] is output.images is output["images"]
    assert isinstance(pipeline(num_inference_steps=4, return_dict=False), tuple)


def test_runs_are_deterministic(pipeline):
    first = images(pipeline, batch_size=2)
    np.testing.assert_array_equal(images(pipeline, batch_size=2), first)


def test_philox_images_do_not_depend_on_the_batch(pipeline):
    together = images(pipeline, batch_size=3, generator=septet.PhiloxSeeds([7, 8, 9]))
    for i, seed in enumerate((7, 8, 9)):
        alone = images(pipeline, generator=septet.PhiloxSeeds([seed]))
        # convolutions may round differently for other batch sizes
        np.testing.assert_allclose(alone[0], together[i], rtol=0, atol=1e-4)


def test_a_generator_per_image_equals_single_images(pipeline):
    seeds = (5, 6)
    together = images(
        pipeline, batch_size=2, generator=[torch.Generator().manual_seed(s) for s in seeds]
    )
    for i, seed in enumerate(seeds):
        alone = images(pipeline, generator=torch.Generator().manual_seed(seed))
        np.testing.assert_allclose(alone[0], together[i], rtol=0, atol=1e-4)


def test_callbacks(pipeline):
    seen = []

    def callback(pipe, step, timestep, tensors):
        assert pipe is pipeline
        seen.append((step, int(timestep)))
        assert set(tensors) == {"latents", "model_output", "pred_original_sample"}
        last = step == len(pipe.scheduler.timesteps) - 1
        return {"latents": torch.zeros_like(tensors["latents"])} if last else {}

    result = images(
        pipeline,
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=["latents", "model_output", "pred_original_sample"],
    )
    assert seen == list(enumerate(pipeline.scheduler.timesteps.tolist()))
    np.testing.assert_array_equal(result, 0.5)


@pytest.mark.parametrize("name", ["sample", "latents"])
def test_callbacks_that_only_look_change_nothing(pipeline, name):
    shown = []
    result = images(
        pipeline,
        callback_on_step_end=lambda pipe, i, t, tensors: shown.append(tensors[name]),
        callback_on_step_end_tensor_inputs=[name],
    )
    np.testing.assert_array_equal(result, images(pipeline))
    last = (shown[-1] / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(result, last)


def test_interrupting_from_a_callback(pipeline):
    steps = []

    def callback(pipe, step, timestep, tensors):
        steps.append(step)
        pipe._interrupt = step == 1

    images(pipeline, callback_on_step_end=callback)
    assert steps == [0, 1]
    assert pipeline.interrupt
    images(pipeline)
    assert not pipeline.interrupt


def test_an_exception_leaves_the_pipeline_usable(pipeline):
    expected = images(pipeline)

    def callback(pipe, step, timestep, tensors):
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        images(pipeline, callback_on_step_end=callback)
    np.testing.assert_array_equal(images(pipeline), expected)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("batch_size", 0),
        ("batch_size", -1),
        ("batch_size", 1.5),
        ("batch_size", True),
        ("num_inference_steps", 0),
        ("num_inference_steps", -1),
        ("num_inference_steps", 1001),
        ("num_inference_steps", 2.0),
        ("generator", [torch.Generator()] * 2),
        ("generator", septet.PhiloxSeeds([1, 2])),
        ("generator", 3),
        ("output_type", "jpeg"),
        ("callback_on_step_end", 3),
        ("callback_on_step_end_tensor_inputs", ["noise"]),
    ],
)
def test_bad_arguments_are_named_before_any_work(pipeline, argument, value, monkeypatch):
    def draw(*_, **__):
        raise AssertionError("noise was drawn")

    monkeypatch.setattr("septet.pipelines.unconditional.randn_tensor", draw)
    call = {"num_inference_steps": 5, argument: value}
    with pytest.raises(ValueError, match=argument):
        pipeline(**call)


@pytest.mark.parametrize("eta", [-0.1, float("nan"), float("inf"), 3.0])
def test_bad_eta(unet, eta):
    with pytest.raises(ValueError, match="eta"):
        make("DDIMPipeline", unet)(num_inference_steps=5, eta=eta)


def test_large_eta_warns(unet, caplog):
    with caplog.at_level(logging.WARNING, "septet"):
        images(make("DDIMPipeline", unet), num_inference_steps=1000 // 200, eta=1.0)
        assert not caplog.records
        scheduler = septet.DDIMScheduler(num_train_timesteps=50, beta_end=0.001)
        images(make("DDIMPipeline", unet, scheduler), num_inference_steps=50, eta=1.001)
    assert "eta" in caplog.text


def test_pil_needs_a_picture(unet):
    class TwoChannels(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))
            self.config = septet.DDPMScheduler().config.__class__(sample_size=4, in_channels=2)

        def forward(self, sample, timestep):
            return (sample * self.weight,)

    pipeline = make("DDIMPipeline", TwoChannels())
    assert images(pipeline).shape == (1, 4, 4, 2)
    with pytest.raises(ValueError, match="output_type"):
        pipeline(num_inference_steps=5)


def test_schedulers_are_converted(unet):
    scheduler = septet.DDPMScheduler(beta_schedule="scaled_linear", variance_type="fixed_large")
    pipeline = make("DDIMPipeline", unet, scheduler)
    assert isinstance(pipeline.scheduler, septet.DDIMScheduler)
    assert pipeline.scheduler.config.beta_schedule == "scaled_linear"
    pipeline.scheduler = septet.PNDMScheduler.from_config(pipeline.scheduler.config)
    assert isinstance(pipeline.scheduler, septet.DDIMScheduler)
    assert make("DDPMPipeline", unet, scheduler).scheduler is scheduler
    with pytest.raises(ValueError, match="scheduler"):
        make("DDPMPipeline", unet, object())


def test_components_and_moving(unet, pipeline):
    assert pipeline.components == {"unet": unet, "scheduler": pipeline.scheduler}
    assert (pipeline.device.type, pipeline.dtype) == ("cpu", torch.float32)
    for arguments in (("cpu",), (torch.float32,), ("cpu", torch.float32)):
        assert pipeline.to(*arguments) is pipeline
    with pytest.raises(ValueError, match="dtype"):
        pipeline.to(torch.float32, dtype=torch.float16)
    with pytest.raises(ValueError, match="device"):
        pipeline.to("cpu", device="cpu")
    with pytest.raises(ValueError, match="nowhere"):
        pipeline.to("nowhere")
    with pytest.raises(ValueError, match="dtype"):
        pipeline.to(torch.int64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_other_types(name, dtype, unet, tmp_path):
    make(name, unet).save_pretrained(tmp_path)
    pipeline = getattr(septet, name).from_pretrained(tmp_path, torch_dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.dtype == dtype
    tensors = images(pipeline, output_type="pt")
    assert tensors.dtype == dtype
    assert tensors.isfinite().all()
    assert images(pipeline).dtype == np.float32


def test_save_and_load(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    for loader in (type(pipeline), septet.DiffusionPipeline):
        loaded = loader.from_pretrained(tmp_path)
        loaded.set_progress_bar_config(disable=True)
        assert type(loaded) is type(pipeline)
        np.testing.assert_array_equal(images(loaded), images(pipeline))


def test_loading_another_pipeline_from_the_same_folder(unet, tmp_path):
    make("DDPMPipeline", unet).save_pretrained(tmp_path)
    loaded = septet.PNDMPipeline.from_pretrained(tmp_path)
    assert isinstance(loaded.scheduler, septet.PNDMScheduler)


def test_components_can_be_given_or_lie_in_the_root(unet, tmp_path):
    pipeline = make("DDPMPipeline", unet)
    pipeline.save_pretrained(tmp_path)
    for part in ("unet", "scheduler"):
        for file in (tmp_path / part).iterdir():
            file.rename(tmp_path / file.name)
        (tmp_path / part).rmdir()
    loaded = septet.DDPMPipeline.from_pretrained(tmp_path)
    np.testing.assert_array_equal(
        images(loaded.to("cpu"), generator=torch.Generator().manual_seed(1)),
        images(pipeline, generator=torch.Generator().manual_seed(1)),
    )
    given = septet.DDPMPipeline.from_pretrained(tmp_path, unet=unet)
    assert given.unet is unet


def test_loading_refuses(unet, tmp_path):
    with pytest.raises(CheckpointError, match=r"model_index\.json"):
        septet.DDPMPipeline.from_pretrained(tmp_path)
    make("DDPMPipeline", unet).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="vae"):
        septet.DDPMPipeline.from_pretrained(tmp_path, vae=None)
    with pytest.raises(ValueError, match="dtype"):
        septet.DDPMPipeline.from_pretrained(tmp_path, dtype=torch.int8)
    with pytest.raises(CheckpointError, match="fp16"):
        septet.DDPMPipeline.from_pretrained(tmp_path, variant="fp16")


def test_progress_bar(unet, capsys):
    pipeline = septet.DDIMPipeline(unet, septet.DDIMScheduler())
    images(pipeline)
    assert capsys.readouterr().err == ""
    pipeline.set_progress_bar_config(disable=False)
    images(pipeline)
    assert "5/5" in capsys.readouterr().err
