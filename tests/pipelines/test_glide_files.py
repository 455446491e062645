"""GLIDE's checkpoints: our folders, the authors' files, the folders of June 2022."""

from __future__ import annotations

import json
import logging
import re

import pytest
import torch
from glide_parts import TINY, networks, pipeline, tokenizer

from septet import (
    DDIMScheduler,
    DiffusionPipeline,
    GLIDEPipeline,
    GLIDEScheduler,
    GlideSuperResolutionUNet,
    GlideTextToImageUNet,
)
from septet.errors import CheckpointError


def images(pipe, **options):
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": 2, "num_inference_steps_upscale": 2, **options}
    generator = torch.Generator().manual_seed(0)
    return pipe("a red cube", generator=generator, output_type="pt", **options).images


# -- our folders --------------------------------------------------------------------------------


def test_save_and_load(tmp_path):
    pipe = pipeline()
    pipe.text_scheduler = GLIDEScheduler(clip_sample_range=2.0)
    pipe.save_pretrained(tmp_path)
    for loaded in (
        DiffusionPipeline.from_pretrained(tmp_path),
        GLIDEPipeline.from_pretrained(tmp_path),
    ):
        assert type(loaded) is GLIDEPipeline
        assert torch.equal(images(loaded), images(pipe))
    other = GLIDEPipeline.from_pretrained(tmp_path, text_scheduler=GLIDEScheduler())
    assert other.text_scheduler.config.clip_sample_range == 1


def test_save_and_load_without_upsampler(tmp_path):
    pipe = GLIDEPipeline(networks()[0], GLIDEScheduler(), tokenizer())
    pipe.save_pretrained(tmp_path)
    loaded = GLIDEPipeline.from_pretrained(tmp_path)
    assert loaded.upscale_unet is None
    assert loaded.upscale_scheduler is None
    assert torch.equal(images(loaded, base_only=True), images(pipe, base_only=True))


# -- the authors' files -------------------------------------------------------------------------

# Heads are 64 wide in all of them, so the smallest networks with that width.
AUTHORS = {
    "model_channels": 64,
    "channel_mult": (1, 1),
    "num_res_blocks": 1,
    "attention_resolutions": (2,),
    "text_ctx": 12,
    "xf_width": 64,
    "xf_layers": 1,
    "xf_heads": 1,
    "n_vocab": 257,
}


def authors_file(tmp_path, network, name, **config):
    unet = network(**{**AUTHORS, **config})
    torch.save({k: v.half() for k, v in unet.state_dict().items()}, tmp_path / name)
    return unet


@pytest.mark.parametrize("inpaint", [False, True])
def test_from_single_file(tmp_path, inpaint):
    extra = 4 if inpaint else 0
    base = authors_file(tmp_path, GlideTextToImageUNet, "base.pt", in_channels=3 + extra)
    upsampler = authors_file(
        tmp_path, GlideSuperResolutionUNet, "upsample.pt", in_channels=6 + extra
    )
    pipe = GLIDEPipeline.from_single_file(
        tmp_path / "base.pt", tmp_path / "upsample.pt", tokenizer=tokenizer()
    )
    assert pipe.text_unet.config == base.config
    assert pipe.upscale_unet.config == upsampler.config
    assert pipe.dtype == torch.float32
    assert torch.equal(pipe.text_unet.out[2].weight, base.out[2].weight.half().float())
    assert pipe.text_scheduler.config.beta_schedule == "squaredcos_cap_v2"
    assert pipe.upscale_scheduler.config.beta_schedule == "linear"
    assert pipe.upscale_scheduler.config.sampler == ("ddpm" if inpaint else "ddim")
    small = GLIDEPipeline.from_single_file(
        tmp_path / "base.pt", dtype=torch.bfloat16, tokenizer=tokenizer()
    )
    assert (small.upscale_unet, small.dtype) == (None, torch.bfloat16)


@pytest.mark.parametrize(
    "config",
    [
        {"channel_mult": (1, 2, 2), "attention_resolutions": (2, 4), "num_res_blocks": 2},
        {"channel_mult": (1, 1, 1), "attention_resolutions": (1,), "num_res_blocks": 1},
        {"channel_mult": (2,), "attention_resolutions": (), "num_res_blocks": 3},
        {"xf_layers": 3, "xf_width": 128, "xf_heads": 2, "text_ctx": 5, "n_vocab": 9},
        {"out_channels": 2, "in_channels": 1},
    ],
)
def test_weights_tell_the_configuration(tmp_path, config):
    unet = authors_file(tmp_path, GlideTextToImageUNet, "base.pt", **config)
    assert GlideTextToImageUNet.from_single_file(tmp_path / "base.pt").config == unet.config


def test_weights_with_other_heads_need_a_configuration(tmp_path):
    unet = networks()[0]
    torch.save(unet.state_dict(), tmp_path / "tiny.pt")
    with pytest.raises(CheckpointError, match=r"tiny.pt: .* multiple of norm_num_groups = 32"):
        GlideTextToImageUNet.from_single_file(tmp_path / "tiny.pt")
    pipe = GLIDEPipeline.from_single_file(
        tmp_path / "tiny.pt", base_config=unet.config, tokenizer=tokenizer()
    )
    assert pipe.text_unet.config == unet.config


def test_files_in_each_others_place(tmp_path):
    authors_file(tmp_path, GlideTextToImageUNet, "base.pt")
    authors_file(tmp_path, GlideSuperResolutionUNet, "upsample.pt")
    with pytest.raises(CheckpointError, match=r"upsample.pt: in_channels must be 3, or 7"):
        GLIDEPipeline.from_single_file(tmp_path / "upsample.pt", tokenizer=tokenizer())
    with pytest.raises(CheckpointError, match=r"base.pt: in_channels must be 6, or 10"):
        GLIDEPipeline.from_single_file(
            tmp_path / "base.pt", tmp_path / "base.pt", tokenizer=tokenizer()
        )


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda w: w.clear(), "config must be given"),
        (lambda w: w.pop("out.2.weight"), "lacks out.2.weight"),
        (lambda w: w.pop("output_blocks.0.0.in_layers.2.weight"), "lacks 'output_blocks.0.0"),
        (lambda w: w.pop("transformer_proj.weight"), "no text transformer, so it is no base"),
        (lambda w: w.update({"input_blocks.4.0.weight": torch.ones(1)}), "weights of a GLIDE"),
        (lambda w: w.update({"token_embedding.weight": torch.ones(5)}), "lacks token_embedding"),
    ],
)
def test_damaged_files(tmp_path, damage, match):
    weights = dict(GlideTextToImageUNet(**AUTHORS).state_dict())
    damage(weights)
    torch.save(weights, tmp_path / "base.pt")
    with pytest.raises(CheckpointError, match=match) as caught:
        GLIDEPipeline.from_single_file(tmp_path / "base.pt", tokenizer=tokenizer())
    assert "base.pt" in str(caught.value)


# -- folders of June 2022 -------------------------------------------------------------------------

# Names of the text encoder's weights then, from the specification of that release.
EARLY_TEXT = [
    (r"token_embedding\.weight", "text_model.embeddings.token_embedding.weight"),
    (r"positional_embedding", "text_model.embeddings.position_embedding.weight"),
    (r"padding_embedding", "text_model.embeddings.padding_embedding.weight"),
    (r"final_ln\.(\w+)", r"text_model.final_layer_norm.\1"),
    (r"transformer\.resblocks\.(\d+)\.attn\.c_qkv\.(\w+)", r"#\1.self_attn.qkv_proj.\2"),
    (r"transformer\.resblocks\.(\d+)\.attn\.c_proj\.(\w+)", r"#\1.self_attn.out_proj.\2"),
    (r"transformer\.resblocks\.(\d+)\.ln_(\d)\.(\w+)", r"#\1.layer_norm\2.\3"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(\w+)", r"#\1.mlp.fc1.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(\w+)", r"#\1.mlp.fc2.\2"),
]
# The classes as published, and as in the first release.
GENERATIONS = [
    ("GlidePipeline", "GlideTextToImageUNetModel", "GlideSuperResUNetModel", "DDPMScheduler"),
    (
        "GLIDE",
        "GLIDETextToImageUNetModel",
        "GLIDESuperResUNetModel",
        "ClassifierFreeGuidanceScheduler",
    ),
]


def early_name(key):
    for pattern, name in EARLY_TEXT:
        if re.fullmatch(pattern, key):
            return re.sub(pattern, name, key).replace("#", "text_model.encoder.layers.")
    return None


def unet_config(unet, class_name, **extra):
    same = ("in_channels", "out_channels", "model_channels", "num_res_blocks", "num_heads")
    return {
        "_class_name": class_name,
        **{key: unet.config[key] for key in (*same, "num_head_channels", "dropout")},
        "attention_resolutions": list(unet.config.attention_resolutions),
        "channel_mult": list(unet.config.channel_mult),
        "resolution": unet.config.sample_size,
        "conv_resample": True,
        "dims": 2,
        "use_checkpoint": False,
        "use_fp16": False,
        "num_heads_upsample": -1,
        "use_scale_shift_norm": True,
        "resblock_updown": True,
        **extra,
    }


def write(folder, name, content):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content))


def early_folder(folder, generation=GENERATIONS[0]):
    """Write a folder like fusing/glide-base; its networks had 32 groups, as all then."""
    pipeline_class, base_class, upsampler_class, scheduler_class = generation
    config = {**TINY, "model_channels": 32, "norm_num_groups": 32, "hidden_act": "quick_gelu"}
    base = GlideTextToImageUNet(**config)
    text = ("text_ctx", "xf_layers", "xf_heads", "n_vocab", "hidden_act")
    large = {key: value for key, value in config.items() if key not in text}
    upsampler = GlideSuperResolutionUNet(**{**large, "sample_size": 32, "xf_width": None})
    torch.manual_seed(0)
    for weights in (*base.parameters(), *upsampler.parameters()):
        torch.nn.init.normal_(weights, std=0.1)
    parts = {
        "text_unet": ["diffusers", base_class],
        "text_noise_scheduler": ["diffusers", scheduler_class],
        "text_encoder": ["glide", "CLIPTextModel"],
        "tokenizer": ["transformers", "GPT2Tokenizer"],
        "upscale_unet": ["diffusers", upsampler_class],
        "upscale_noise_scheduler": ["diffusers", "DDIMScheduler"],
    }
    write(folder, "model_index.json", {"_class_name": pipeline_class, "_module": "glide", **parts})
    scheduler = {"timesteps": 1000, "beta_schedule": "squaredcos_cap_v2"}
    write(folder, "text_noise_scheduler/scheduler_config.json", scheduler)
    linear = {"timesteps": 1000, "beta_schedule": "linear", "tensor_format": "pt"}
    write(folder, "upscale_noise_scheduler/scheduler_config.json", linear)
    write(folder, "text_unet/config.json", unet_config(base, base_class, transformer_dim=16))
    write(folder, "upscale_unet/config.json", unet_config(upsampler, upsampler_class))
    text = {"vocab_size": 257, "max_position_embeddings": 12, "hidden_size": 16}
    text |= {"intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "use_padding_embeddings": True}
    write(folder, "text_encoder/config.json", {"model_type": "clip_text_model", **text})
    weights = base.state_dict()
    texts = {early_name(key): value for key, value in weights.items() if early_name(key)}
    texts["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    rest = {key: value for key, value in weights.items() if not early_name(key)}
    torch.save(texts, folder / "text_encoder" / "pytorch_model.bin")
    torch.save(rest, folder / "text_unet" / "diffusion_model.pt")
    torch.save(upsampler.state_dict(), folder / "upscale_unet" / "diffusion_model.pt")
    tokenizer().save_pretrained(folder / "tokenizer")
    return base, upsampler


@pytest.mark.parametrize("generation", GENERATIONS, ids=["July", "June"])
def test_early_folder(tmp_path, generation, caplog):
    base, upsampler = early_folder(tmp_path, generation)
    with caplog.at_level(logging.WARNING):
        pipe = DiffusionPipeline.from_pretrained(tmp_path)
    assert "has no weights for the text" in caplog.text
    assert pipe.text_unet.config == base.config
    assert pipe.text_unet.config.hidden_act == "quick_gelu"
    assert pipe.upscale_unet.config == upsampler.config
    for ours, theirs in ((pipe.text_unet, base), (pipe.upscale_unet, upsampler)):
        assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in ours.state_dict().items())
    assert isinstance(pipe.text_scheduler, GLIDEScheduler)
    assert pipe.text_scheduler.config.beta_schedule == "squaredcos_cap_v2"
    assert isinstance(pipe.upscale_scheduler, DDIMScheduler)
    assert images(pipe).shape == (1, 3, 32, 32)

    pipe.save_pretrained(tmp_path / "today")
    again = GLIDEPipeline.from_pretrained(tmp_path / "today")
    assert torch.equal(images(again), images(pipe))


def test_early_folder_with_the_authors_activation(tmp_path):
    early_folder(tmp_path)
    unet = GlideTextToImageUNet.from_early_folder(tmp_path, hidden_act="gelu")
    pipe = GLIDEPipeline.from_pretrained(tmp_path, text_unet=unet)
    quick = GLIDEPipeline.from_pretrained(tmp_path)
    tokens, mask = tokenizer()(["a red cube"], 12)
    hidden = [p.text_unet.encode_text(tokens, mask)[0] for p in (pipe, quick)]
    assert pipe.text_unet.config.hidden_act == "gelu"
    assert (hidden[0] - hidden[1]).abs().max() > 1e-4


def edit(name, **changes):
    def change(folder):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, **changes}))

    return change


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (
            edit("text_unet/config.json", transformer_dim=8),
            "transformer_dim must be the hidden_size",
        ),
        (edit("text_unet/config.json", use_scale_shift_norm=False), "use_scale_shift_norm must be"),
        (edit("text_unet/config.json", resblock_updown=False), "resblock_updown must be True"),
        (edit("text_unet/config.json", unknown=1), "unknown configuration key 'unknown'"),
        (edit("upscale_unet/config.json", num_head_channels=-1, num_heads_upsample=3), "upsample"),
        (edit("text_encoder/config.json", hidden_act="relu"), "hidden_act must be one of"),
        (edit("text_encoder/config.json", use_padding_embeddings=False), "use_padding_embeddings"),
        (edit("text_encoder/config.json", intermediate_size=3), "intermediate_size must be 64"),
        (edit("text_encoder/config.json", num_hidden_layers=3), "lacks 'transformer.resblocks.2"),
        (lambda folder: (folder / "tokenizer/merges.txt").unlink(), "vocab.json and merges.txt"),
        (lambda folder: (folder / "text_encoder/pytorch_model.bin").unlink(), "no weights found"),
        (lambda folder: (folder / "text_encoder/config.json").unlink(), "text_encoder/config.json"),
    ],
)
def test_damaged_early_folder(tmp_path, damage, match):
    early_folder(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=match):
        GLIDEPipeline.from_pretrained(tmp_path)


# -- full size ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_checkpoint_of_the_published_size_loads_and_runs_a_step(tmp_path):
    with torch.device("meta"):
        shapes = GlideTextToImageUNet().state_dict()
    generator = torch.Generator().manual_seed(0)
    weights = {
        key: (torch.randn(tensor.shape, generator=generator) * 0.02).half()
        for key, tensor in shapes.items()
    }
    torch.save(weights, tmp_path / "base.pt")
    del weights
    pipe = GLIDEPipeline.from_single_file(tmp_path / "base.pt")
    assert pipe.text_unet.config == GlideTextToImageUNet.config_class().to_dict()
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a corgi", num_inference_steps=1, base_only=True, output_type="pt").images
    assert image.shape == (1, 3, 64, 64)
    assert image.isfinite().all()
