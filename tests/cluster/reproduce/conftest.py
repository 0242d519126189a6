"""A small config and data set for runs of a few seconds."""

from pathlib import Path

import pytest
import torch

from tests.cluster.runs import SMALL
from tests.workers.by_hand import make_data_set

torch.set_num_threads(1)  # tensors are small

LITTLE = """\
base: {small}
name: little
runs_folder: {folder}/runs
network:
  classes: 2
  input_size: 32
  convs:
    conv1: {{maps: 8, init_std: 0.1}}
    conv2: {{maps: 8, init_std: 0.2}}
    conv3: {{maps: 8, init_std: 0.1}}
    conv4: null
  denses: {{fc5: null, fc6: {{units: 16, dropout: 0.5, init_std: 0.1}}, fc7: {{units: 16, dropout: 0.5, init_std: 0.2}}}}
  classifier: {{init_std: 0.3}}
data: {{path: {folder}/data, drawn_pictures: null}}
augment: {{crop_shared_by: 1}}
schedule: {{stages: [{{from_epoch: 0, weights: 0.02, biases: 0.04}}, {{from_epoch: 1.5, weights: 0.002}}]}}
train: {{steps: null, epochs: 3, batch_size: 8, report_every_steps: 2, evaluate_every_epochs: 1, evaluate_batch_size: 5}}
checkpoint: {{every_steps: null}}
cluster: {{device: cpu}}
"""


@pytest.fixture(scope="session")
def little(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config of two classes of noise beside its data set: 30 training images, 12 validation images of 40x40."""
    folder = tmp_path_factory.mktemp("little")
    make_data_set(folder)
    config = folder / "little.yaml"
    config.write_text(LITTLE.format(small=SMALL, folder=folder), encoding="utf-8")
    return config
