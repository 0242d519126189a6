"""A small config and data set for runs of a few seconds."""

from pathlib import Path

import pytest
import torch

from tests.workers.by_hand import make_data_set

torch.set_num_threads(1)  # tensors are small

SMALL = """\
name: little
runs_folder: {folder}/runs
network:
  columns: 2
  classes: 2
  input_size: 32
  lrn: {{size: 5}}
  spatial_lrn: {{size: 5, k: 1.0, alpha: 1.0e-3}}
  convs:
    conv1: {{maps: 8, kernel: 5, stride: 2, then: [lrn, pool, activation], init_std: 0.1}}
    conv2: {{maps: 8, kernel: 3, padding: 1, then: [activation, lrn, spatial_lrn, pool], init_std: 0.2, init_bias: 0.1}}
    conv3: {{maps: 8, kernel: 3, padding: 1, sees: all, init_std: 0.1}}
  denses:
    fc6: {{units: 16, dropout: 0.5, init_std: 0.1}}
    fc7: {{units: 16, dropout: 0.5, init_std: 0.2}}
  classifier: {{init_std: 0.3}}
data: {{path: {folder}/data}}
augment: {{pixel_scale: 0.015625}}
schedule:
  kind: stages
  stages:
    - {{from_epoch: 0, weights: 0.02, biases: 0.04}}
    - {{from_epoch: 1.5, weights: 0.002}}
train: {{epochs: 3, batch_size: 8, report_every_steps: 2, evaluate_batch_size: 5}}
compute: {{fused: false}}
cluster: {{device: cpu, dashboard: false}}
"""


@pytest.fixture(scope="session")
def little(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config of two classes of noise beside its data set: 30 training images, 12 validation images of 40x40."""
    folder = tmp_path_factory.mktemp("little")
    make_data_set(folder)
    config = folder / "little.yaml"
    config.write_text(SMALL.format(folder=folder), encoding="utf-8")
    return config
