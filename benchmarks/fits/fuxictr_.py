"""Fit with FuxiCTR's embedding, cross and dense layers, training loop and NPZ loader."""

import tempfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.dataloaders.npz_dataloader import NpzDataLoader
from fuxictr.pytorch.layers import CrossNetV2, FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import BaseModel
from job import THREADS, Job, Rows, main
from torch import nn

torch.set_num_threads(THREADS)


class DCNv2(BaseModel):
    """DCN-v2 with the parallel structure of the library's model zoo."""

    def __init__(self, job: Job, features: FeatureMap, folder: str) -> None:
        super().__init__(features, model_id="DCNv2", metrics=["AUC"], model_root=folder, verbose=0)
        self.embedding_layer = FeatureEmbedding(features, job.dim)
        width = features.sum_emb_out_dim()
        self.crossnet = CrossNetV2(width, job.crosses)
        self.parallel_dnn = MLP_Block(input_dim=width, hidden_units=list(job.hidden))
        self.fc = nn.Linear(width + job.hidden[-1], 1)
        self.compile("adam", "binary_crossentropy", job.learning_rate)
        self.reset_parameters()
        self._max_gradient_norm, self._eval_steps, self._total_steps = 10.0, 10**12, 0
        self._stop_training = False

    def forward(self, inputs):
        x = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
        both = torch.cat([self.crossnet(x), self.parallel_dnn(x)], -1)
        return {"y_pred": self.output_activation(self.fc(both))}


def features_of(job: Job, numbers: int) -> FeatureMap:
    features = FeatureMap("rows", "")
    features.default_emb_dim = job.dim
    features.features = OrderedDict()
    for number in range(numbers):
        features.features[f"number{number}"] = {"type": "numeric", "source": "", "embedding_dim": 1}
    for field in job.fields:
        spec = {"type": "categorical", "source": "", "vocab_size": field.size}
        if field.kind == "bag":
            spec |= {"type": "sequence", "max_len": field.width, "padding_idx": 0,
                     "feature_encoder": "layers.MaskedAveragePooling()"}  # fmt: skip
        features.features[field.name] = spec
    features.labels = ["label"]
    features.set_column_index()
    return features


def save(job: Job, rows: Rows, path: Path) -> None:
    columns = {
        f"number{number}": rows.numbers[:, number] for number in range(rows.numbers.shape[1])
    }
    for field in job.fields:
        ids = rows.ids[:, field.first : field.first + field.width]
        columns[field.name] = ids if field.kind == "bag" else ids[:, 0]
    np.savez(path, label=rows.labels, **columns)


def fit(job: Job, train: Rows):
    torch.manual_seed(0)
    folder = tempfile.mkdtemp(dir=job.folder)
    features = features_of(job, train.numbers.shape[1])

    def loader(rows: Rows, shuffle: bool) -> NpzDataLoader:
        path = Path(folder) / "rows.npz"
        save(job, rows, path)
        return NpzDataLoader(features, str(path), job.batch, shuffle=shuffle, num_workers=0)

    model = DCNv2(job, features, folder)
    data = loader(train, shuffle=True)
    model.train()
    model.train_step(next(iter(data)))

    def run() -> None:
        for _ in range(job.epochs):
            model.train_epoch(data)

    def score(rows: Rows) -> np.ndarray:
        model.eval()
        with torch.no_grad():
            parts = [model(batch)["y_pred"] for batch in loader(rows, shuffle=False)]
        return torch.cat(parts).numpy()

    return run, score


if __name__ == "__main__":
    main(fit)
