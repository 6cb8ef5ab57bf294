import torch

from animal_ldm.training.equivariance import Transform, random_transform
from animal_ldm.training.stream import step_generator


def test_a_transform_is_the_same_for_latents_and_images():
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(Transform()(images), images)
    assert torch.equal(Transform(1.0, 1)(images), images.rot90(1, dims=(2, 3)))
    blocks = torch.rand(2, 4, 8, 8)
    enlarged = blocks.repeat_interleave(4, 2).repeat_interleave(4, 3)
    shrunk = Transform(0.25, 3)(enlarged)
    assert shrunk.shape == (2, 4, 8, 8)
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    torch.testing.assert_close(shrunk.mean(), Transform(1.0, 3)(blocks).mean(), atol=1e-2, rtol=0)
    assert (shrunk - Transform(1.0, 3)(blocks))[inner].abs().mean() < 0.2


def test_transforms_are_as_frequent_as_asked():
    transforms = [random_transform(step_generator(0, number), 0.5) for number in range(400)]
    assert 0.38 < sum(transform != Transform() for transform in transforms) / 400 < 0.57  # 1 of 32 is the identity
    assert {transform.scale for transform in transforms} == {0.25, 0.5, 0.75, 1.0}
    assert {transform.quarters for transform in transforms} == {0, 1, 2, 3}
    assert all(random_transform(step_generator(0, number), 0.0) == Transform() for number in range(50))
