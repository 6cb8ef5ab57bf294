"""What suits a device, as a function of its type and capability; and a step that never waits for it."""

import copy

import pytest
import torch
from accelerate import Accelerator, PartialState
from diffusers import AutoencoderKL, UNet2DConditionModel

from animal_ldm.errors import InputError
from animal_ldm.training import autoencoder, run
from animal_ldm.training.alignment import build_projector
from animal_ldm.training.arguments import AutoencoderArguments, TrainingArguments
from animal_ldm.training.batches import Batch
from animal_ldm.training.equivariance import Transform
from animal_ldm.training.execution import Execution, bf16_speedup, chosen_for, compiles, obstacle_to_compiling
from animal_ldm.training.text import build_text_encoder, build_tokenizer
from animal_ldm.training.text_to_image import Networks, Trainer
from tests.conftest import tiny_unet, tiny_vae


@pytest.mark.parametrize("asked", ["auto", "no"])
def test_the_cpu_computes_plainly(asked):
    assert chosen_for("cpu", None, asked) == Execution()
    assert str(Execution()) == "cpu: float32"


def test_a_gpu_gets_the_number_types_that_it_has_units_for():
    new, old = chosen_for("cuda", (9, 0)), chosen_for("cuda", (7, 5))
    assert (new.mixed_precision, new.tf32) == ("bf16", True)
    assert (old.mixed_precision, old.tf32) == ("no", False)
    for chosen in (new, old):
        assert chosen.fused_adamw and chosen.pinned_memory and chosen.prepares_ahead
    assert str(new) == (
        "cuda: bf16, TF32 matrix products, fused AdamW, pinned memory, next batch prepared during the step"
    )
    assert chosen_for("cuda", (8, 0)) == new


def test_what_is_asked_for_holds():
    plain = chosen_for("cuda", (9, 0), "no")
    assert (plain.mixed_precision, plain.tf32, plain.fused_adamw) == ("no", False, True)
    assert chosen_for("cuda", (7, 5), "fp16").mixed_precision == "fp16"
    assert chosen_for("cpu", None, "bf16") == Execution(mixed_precision="bf16")


def test_other_accelerators_prepare_ahead_without_what_only_cuda_has():
    assert chosen_for("mps", None) == Execution("mps", prepares_ahead=True)


@pytest.mark.parametrize(
    ("choice", "device", "steps", "minutes", "compiled"),
    [
        ("auto", "cuda", 2000, None, True),
        ("auto", "cuda", 1999, None, False),
        ("auto", "cuda", run.UNKNOWN_LENGTH, 19, False),
        ("auto", "cuda", run.UNKNOWN_LENGTH, 20, True),
        ("auto", "cpu", 10**6, None, False),
        ("yes", "cpu", 1, None, True),
        ("no", "cuda", 10**6, None, False),
    ],
)
def test_long_runs_on_a_gpu_are_compiled(choice, device, steps, minutes, compiled):
    assert compiles(choice, device, steps, minutes) is compiled


def no_compiler(module: torch.fx.GraphModule, inputs: list[torch.Tensor]):
    raise RuntimeError("no C++ compiler\nin all of this machine")


def test_what_keeps_the_compiler_from_working_is_named():
    with torch.compiler.set_stance(force_backend="eager"):
        assert obstacle_to_compiling(torch.device("cpu")) is None
    torch.compiler.reset()
    with torch.compiler.set_stance(force_backend=no_compiler):
        assert "no C++ compiler" in str(obstacle_to_compiling(torch.device("cpu")))


def test_a_run_says_that_it_cannot_be_compiled(tmp_path, caplog):
    """If compiling was asked for, it is an error; otherwise the run goes on without."""

    def run_of(choice: str, **others) -> run.Run:
        arguments = TrainingArguments(data="", output_dir=str(tmp_path), compile=choice, **others)
        return run.Run(Accelerator(), arguments, {}, 10**6, Execution("cuda"))

    torch.compiler.reset()
    with torch.compiler.set_stance(force_backend=no_compiler):
        with pytest.raises(InputError, match=r"no C\+\+ compiler.*--compile no"):
            run_of("yes")
        assert not run_of("auto").execution.compiled
        assert "not compiled" in caplog.text
        assert not run_of("auto", max_minutes=10).execution.compiled  # not tried
    torch.compiler.reset()
    with torch.compiler.set_stance(force_backend="eager"):
        assert run_of("auto").execution.compiled


def test_a_run_says_when_bf16_is_slower_than_float32(tmp_path, caplog):
    run.Run(Accelerator(cpu=True), TrainingArguments(data="", output_dir=str(tmp_path)), {}, 1, Execution())
    assert "in bf16" not in caplog.text
    speedup = bf16_speedup(torch.device("cpu"))
    assert 1e-4 < speedup < 1e4
    if 0.7 < speedup < 1.5:
        pytest.skip("bf16 is as fast as float32 on this machine")
    execution = Execution(mixed_precision="bf16")
    run.Run(Accelerator(cpu=True), TrainingArguments(data="", output_dir=str(tmp_path)), {}, 1, execution)
    assert ("Pass --mixed_precision no." in caplog.text) == (speedup < 1)


def test_a_state_moves_to_where_the_optimizer_that_loads_it_counts():
    """A fused optimizer counts its steps on the device ("meta" stands for a GPU), another one on the CPU."""
    weight = torch.nn.Parameter(torch.ones(3))
    plain = torch.optim.AdamW([weight], lr=0.1)
    weight.sum().backward()
    plain.step()
    onto = torch.nn.Parameter(torch.ones(3, device="meta"))
    on_device = torch.optim.AdamW([onto], lr=0.2, capturable=True)
    with run.own_settings([on_device]):
        on_device.load_state_dict(copy.deepcopy(plain.state_dict()))
    assert on_device.state[onto]["step"].device.type == "meta"
    assert (on_device.param_groups[0]["lr"], on_device.param_groups[0]["capturable"]) == (0.2, True)


@pytest.fixture
def device():
    """A device whose values cannot be read: "meta". Whatever would make the CPU wait for a GPU is an error there."""
    return torch.device("meta")


def accelerator_on(device: torch.device) -> Accelerator:
    accelerator = Accelerator()
    PartialState().device = accelerator.state.device = device
    return accelerator


def trainer_on(device: torch.device) -> Trainer:
    """With a text encoder that is trained, alignment, two accumulation steps and snapshots."""
    accelerator = accelerator_on(device)
    tokenizer = build_tokenizer(["a lion", "a zebra"])
    unet = UNet2DConditionModel.from_config({**tiny_unet().config, "cross_attention_dim": 128}).train()
    assert isinstance(unet, UNet2DConditionModel)
    vae: AutoencoderKL = tiny_vae()
    text_encoder = build_text_encoder(tokenizer).train()
    networks = Networks(vae, tokenizer, text_encoder, unet, build_projector(16), True, None)
    arguments = TrainingArguments(
        data="", output_dir="", batch_size=8, gradient_accumulation_steps=2, alignment_weight=0.5,
        ema_snapshots_every=8,
    )  # fmt: skip
    for network in (unet, text_encoder, networks.projector):
        network.to(device)
    return Trainer(accelerator, arguments, networks, 10, Execution())


def test_a_step_never_waits_for_the_device(device):
    trainer = trainer_on(device)
    assert trainer.power_averages is not None
    ids = torch.randint(50, (3, 32))[torch.tensor([0, 1, 0, 2, 2, 1, 0, 0])]
    batch = Batch(torch.randn(8, 4, 8, 8), torch.randn(8, 4, 8, 8), torch.arange(8), ids, torch.randn(8, 512, 4, 4))
    for step in (1, 2):
        losses = trainer.step(batch.pieces(4))
        trainer.ema.update(8 * step, 8)
        trainer.power_averages.update(8 * step, 8)
    assert losses.keys() == {"train/loss", "train/misalignment"}
    assert {loss.device for loss in losses.values()} == {device}
    assert all(average.device == device for average in trainer.ema.average)
    # this test can fail: what reads a value or finds out a size does not run there
    for waits in (lambda: losses["train/loss"].item(), lambda: torch.unique(ids.to(device), dim=0)):
        with pytest.raises((RuntimeError, NotImplementedError)):
            waits()


def test_nor_does_a_step_of_the_autoencoder(device):
    arguments = AutoencoderArguments(
        data="", output_dir="", batch_size=8, gradient_accumulation_steps=2, perceptual_weight=0.0
    ).resolved()
    vae = tiny_vae().to(device)
    trainer = autoencoder.Trainer(accelerator_on(device), arguments, vae, None, 10, Execution())
    crops = autoencoder.Crops(torch.randn(8, 3, 16, 16), torch.randn(8, 4, 8, 8), Transform(0.5, 1))
    losses = trainer.step(crops, adversarial=True)
    assert losses.keys() == {"train/loss", "train/discriminator_loss"}
    assert {loss.device for loss in losses.values()} == {device}
