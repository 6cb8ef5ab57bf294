"""Extractors: their features, their names, and the weights they refuse."""

import hashlib
import http.server
import threading
import urllib.error

import numpy as np
import pytest
import torch

from animal_ldm.errors import InputError
from animal_ldm.evaluation import extractors
from animal_ldm.evaluation.extractors import (
    INCEPTION_SHA256,
    INCEPTION_URL,
    load_extractor,
    torchscript_extractor,
)
from animal_ldm.evaluation.features import Measurer
from animal_ldm.evaluation.images import images_of_folder
from animal_ldm.evaluation.metrics import frechet_distance_of_features
from animal_ldm.evaluation.results import ExtractorInfo
from tests.conftest import tiny_vae


def sha256(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# Inception


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # clean-fid's, of SciPy's matrix root
def test_features_and_distance_equal_those_of_clean_fid(inception_stand_in, image_folders):
    from cleanfid import fid
    from cleanfid.inception_torchscript import InceptionV3W

    network = InceptionV3W(str(inception_stand_in.parent), download=False)
    expected = [
        fid.get_folder_features(
            str(folder), network, num_workers=0, device=torch.device("cpu"), mode="clean", verbose=False
        )
        for folder in image_folders
    ]
    extractor = torchscript_extractor("stand-in", inception_stand_in, sha256(inception_stand_in))
    found = [Measurer(extractor, batch_size=5).features(images_of_folder(folder)) for folder in image_folders]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    # A part of the 2048 numbers, for their matrix root takes long.
    in_float64 = fid.fid_from_feats(*(features[:, :200].astype(np.float64) for features in expected))
    parts = (features[:, :200] for features in found)
    assert frechet_distance_of_features(*parts) == pytest.approx(in_float64, rel=1e-6)


def test_nothing_else_is_called_inception(inception_stand_in):
    with pytest.raises(InputError, match=f"expected file of inception weights: expected SHA-256 {INCEPTION_SHA256}"):
        load_extractor("inception", inception_stand_in)
    extractor = torchscript_extractor("stand-in", inception_stand_in, sha256(inception_stand_in))
    assert extractor.describe().distance_name == "FD (stand-in)"


def test_without_weights_and_network_the_message_says_what_to_do(tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("ANIMAL_LDM_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    with pytest.raises(InputError) as caught:
        load_extractor("inception")
    for part in ("inception-2015-12-05.pt", INCEPTION_URL, INCEPTION_SHA256, str(tmp_path), "--extractor_weights"):
        assert part in str(caught.value)
    assert not list(tmp_path.rglob("*.pt*"))


def test_a_damaged_download_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "served").write_bytes(b"half a file")
    monkeypatch.setenv("ANIMAL_LDM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(extractors, "INCEPTION_URL", (tmp_path / "served").as_uri())
    with pytest.raises(InputError, match="invalid hash value"):
        load_extractor("inception")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


class _Server(http.server.BaseHTTPRequestHandler):
    """Serves `content`; with `cut`, breaks off in the middle of it."""

    content, cut, requests = b"", False, 0

    def do_GET(self):
        type(self).requests += 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content[: len(self.content) // 2] if self.cut else self.content)

    def log_message(self, *_):
        pass


@pytest.fixture
def inception_server(inception_stand_in, tmp_path, monkeypatch):
    """The place that Inception's weights come from, and a user's cache that does not hold them yet."""
    handler = type("Handler", (_Server,), {"content": inception_stand_in.read_bytes()})
    server = http.server.HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("ANIMAL_LDM_CACHE", str(tmp_path))
    monkeypatch.setattr(extractors, "INCEPTION_URL", f"http://127.0.0.1:{server.server_port}/inception-2015-12-05.pt")
    monkeypatch.setattr(extractors, "INCEPTION_SHA256", sha256(inception_stand_in))
    yield handler
    server.shutdown()
    server.server_close()


def test_weights_are_fetched_once_into_the_users_cache(inception_server, tmp_path):
    first = load_extractor("inception")
    assert sha256(tmp_path / "inception-2015-12-05.pt") == first.weights_digest
    assert load_extractor("inception").weights_digest == first.weights_digest
    assert inception_server.requests == 1


def test_a_download_cut_in_the_middle_leaves_nothing(inception_server, tmp_path):
    inception_server.cut = True
    with pytest.raises(InputError, match="could not be downloaded"):
        load_extractor("inception")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    inception_server.cut = False
    assert load_extractor("inception").describe().distance_name == "FID"


# SqueezeNet


def test_squeezenet_is_torchvisions(squeezenet_weights):
    from safetensors.torch import load_file
    from torchvision.models import squeezenet1_1

    extractor = load_extractor("squeezenet", squeezenet_weights)
    model = squeezenet1_1().eval()
    model.features.load_state_dict(
        {key.removeprefix("features."): value for key, value in load_file(squeezenet_weights).items()}
    )
    image = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normal = (image / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        expected = model.features(normal).mean((2, 3))
    torch.testing.assert_close(extractor(image), expected)
    assert extractor(image).shape == (1, 512)
    resize = "PIL bicubic on float32 channels to 224 x 224 (clean-fid)"
    assert extractor.describe() == ExtractorInfo("squeezenet", extractor.weights_digest, resize)


def test_squeezenet_refuses_other_weights(tmp_path):
    from safetensors.torch import save_file

    save_file({"features.0.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"does not hold a SqueezeNet 1\.1"):
        load_extractor("squeezenet", tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="no such file"):
        load_extractor("squeezenet", tmp_path / "missing.safetensors")


# autoencoder


def test_vae_features_are_the_latents_of_a_pipelines_autoencoder(tmp_path):
    vae = tiny_vae()
    vae.save_pretrained(tmp_path / "pipeline" / "vae")
    extractor = load_extractor("vae", tmp_path / "pipeline")
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        latents = vae.encode(images / 127.5 - 1).latent_dist.mode()
    torch.testing.assert_close(extractor(images), latents.flatten(1), atol=1e-5, rtol=1e-5)
    assert extractor.describe().distance_name == "FD (vae)"


def test_vae_features_need_a_pipeline(tmp_path):
    with pytest.raises(InputError, match="--extractor_weights"):
        load_extractor("vae", tmp_path)


# transformers


def tiny_dinov2(folder):
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    BitImageProcessor(
        crop_size={"height": 28, "width": 28}, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    ).save_pretrained(folder)
    return 28, 16


def tiny_clip(folder):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config=small | {"vocab_size": 99},
        vision_config=small | {"image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return 32, 8


@pytest.mark.parametrize(("name", "make"), [("dinov2", tiny_dinov2), ("clip", tiny_clip)])
def test_models_by_name(tmp_path, name, make):
    size, dim = make(tmp_path)
    extractor = load_extractor(name, tmp_path)
    images = torch.randint(0, 256, (3, 3, 20, 20), dtype=torch.uint8)
    found = extractor(images)
    assert (found.shape, found.dtype) == ((3, dim), torch.float32)
    assert f"{size} x {size}" in extractor.describe().resize
    assert extractor.describe().distance_name == f"FD ({name})"
    torch.testing.assert_close(found[1:], extractor(images[1:]))
    assert load_extractor(name, tmp_path).weights_digest == extractor.weights_digest


def test_any_local_model(tiny_resnet):
    from transformers import ResNetModel

    extractor = load_extractor(str(tiny_resnet))
    assert extractor.describe().distance_name == "FD (tiny-resnet)"
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():  # its processor's mean and standard deviation are 0.5
        expected = ResNetModel.from_pretrained(tiny_resnet)(image / 127.5 - 1).pooler_output.flatten(
            1
        )  # the mean of the last map
    torch.testing.assert_close(extractor(image), expected)


def test_dinov2_gives_the_class_token(tmp_path):
    from transformers import Dinov2Model

    tiny_dinov2(tmp_path)
    image = torch.randint(0, 256, (1, 3, 28, 28), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normal = (image / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        expected = Dinov2Model.from_pretrained(tmp_path)(normal).pooler_output
    torch.testing.assert_close(load_extractor("dinov2", tmp_path)(image), expected)


def test_tokens_without_a_class_token_are_averaged(tmp_path):
    from transformers import SwinConfig, SwinModel, ViTImageProcessor

    config = SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4, drop_path_rate=0
    )
    SwinModel(config).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    image = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        expected = SwinModel.from_pretrained(tmp_path).eval()(image / 127.5 - 1).pooler_output
    torch.testing.assert_close(load_extractor(str(tmp_path))(image), expected)


def test_folder_of_no_image_model(tmp_path):
    from transformers import BertConfig, BertModel

    BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=9)).save_pretrained(
        tmp_path
    )
    with pytest.raises(InputError, match="a transformers image model, found none at"):
        load_extractor(str(tmp_path))


def test_unknown_extractor():
    with pytest.raises(InputError, match="--extractor no/such-model: expected"):
        load_extractor("no/such-model")
