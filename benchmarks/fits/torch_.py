"""Fit PyTorch written for speed: one sparse table, SparseAdam, rows in memory."""

import numpy as np
import torch
from job import THREADS, Job, Rows, main
from torch import nn

torch.set_num_threads(THREADS)


class DCN(nn.Module):
    def __init__(self, job: Job, numbers: int) -> None:
        super().__init__()
        self.fields, self.dim = job.fields, job.dim
        self.table = nn.Embedding(job.table_rows, job.dim, sparse=True)
        nn.init.normal_(self.table.weight, std=0.05)
        width = len(job.fields) * job.dim + numbers
        self.crosses = nn.ModuleList(nn.Linear(width, width) for _ in range(job.crosses))
        layers, size = [], width
        for units in job.hidden:
            layers += [nn.Linear(size, units), nn.ReLU()]
            size = units
        self.deep = nn.Sequential(*layers)
        self.last = nn.Linear(width + size, 1)
        offsets = np.concatenate([np.full(field.width, field.offset) for field in job.fields])
        self.register_buffer("offsets", torch.tensor(offsets, dtype=torch.int32))
        # Adjacent single ids stay one slice.
        self.runs: list[list] = []
        for field in job.fields:
            if field.kind != "bag" and self.runs and self.runs[-1][-1].kind != "bag":
                self.runs[-1].append(field)
            else:
                self.runs.append([field])

    def forward(self, ids, numbers):
        vectors = self.table(ids + self.offsets)
        parts = []
        for run in self.runs:
            first, last = run[0].first, run[-1].first + run[-1].width
            run_vectors = vectors[:, first:last]
            if run[0].kind == "bag":
                mask = (ids[:, first:last] != 0).unsqueeze(-1).float()
                parts.append((run_vectors * mask).sum(1) / mask.sum(1).clamp(min=1))
            else:
                parts.append(run_vectors.reshape(len(ids), -1))
        x0 = torch.cat([*parts, numbers], -1)
        x = x0
        for cross in self.crosses:
            x = x0 * cross(x) + x
        return self.last(torch.cat([x, self.deep(x0)], -1))[:, 0]


def fit(job: Job, train: Rows):
    torch.manual_seed(0)
    model = DCN(job, train.numbers.shape[1])
    dense = [
        parameter for name, parameter in model.named_parameters() if not name.startswith("table")
    ]
    optimizers = [
        torch.optim.SparseAdam(model.table.parameters(), lr=job.learning_rate),
        torch.optim.Adam(dense, lr=job.learning_rate, fused=True),
    ]
    ids, numbers, labels = map(torch.from_numpy, (train.ids, train.numbers, train.labels))
    loss = nn.BCEWithLogitsLoss()

    def step(rows) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss(model(ids[rows], numbers[rows]), labels[rows]).backward()
        for optimizer in optimizers:
            optimizer.step()

    step(torch.arange(job.batch))

    def run() -> None:
        for _ in range(job.epochs):
            for rows in torch.randperm(len(labels)).split(job.batch):
                step(rows)

    def score(rows: Rows) -> np.ndarray:
        with torch.no_grad():
            parts = [
                model(torch.from_numpy(i), torch.from_numpy(n))
                for i, n in zip(
                    np.array_split(rows.ids, 16), np.array_split(rows.numbers, 16), strict=True
                )
            ]
            return torch.sigmoid(torch.cat(parts)).numpy()  # fmt: skip

    return run, score


if __name__ == "__main__":
    main(fit)
