from animal_ldm.publishing.privacy import PublicNames, public_report
from animal_ldm.publishing.training_record import effective_arguments


def test_a_report_names_no_local_file_wherever_it_stands():
    report = {
        "arguments": {"fork": "runs/first", "vae": "stabilityai/sd-vae-ft-mse", "unet": "small", "output_dir": "out"},
        "forked_from": {"name": "runs/first", "images_seen": 8},
        "argument_history": {"extractor_weights": [{"images_seen": 0, "value": "weights/inception.pt"}]},
        "hardware": {"cpu": "one", "place": "/home/user"},
    }
    assert public_report(report, PublicNames({})) == {
        "arguments": {"fork": "a local folder", "vae": "stabilityai/sd-vae-ft-mse"},
        "forked_from": {"name": "a local folder", "images_seen": 8},
        "argument_history": {"extractor_weights": [{"images_seen": 0, "value": "a local file"}]},
        "hardware": {"cpu": "one", "place": "a local file"},
    }


def test_a_fork_has_the_unet_of_the_run_that_it_came_from():
    arguments = {"fork": "runs/first", "unet": "medium", "dropout": 0.1, "seed": 1}
    assert effective_arguments(arguments) == {"fork": "runs/first", "seed": 1}
