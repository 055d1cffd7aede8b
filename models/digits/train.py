"""Trains the digit classifier and writes model.onnx, calibration.npz and evaluation.npz beside this file.

How to run, from the repository's root (about three minutes on two cores; needs torch, which onnxq does not):

    pip install torch==2.13.0 onnx==1.23.2 numpy
    python -m models.digits.train

The 5,000 images are shuffled with a fixed seed and cut into three disjoint sets: 3,900 to train on, 100 to calibrate
with (kept without labels) and 1,000 to test on. The weights after the last epoch are the ones exported: no choice is
made by looking at the test set. Every random number comes from SEED; another torch version or processor can still round
differently, so a new run gives an equally good model rather than the same bytes.
"""

# mypy: ignore-errors
# (torch is not among the packages that the project installs, so its types are unknown where mypy runs)

import gzip
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.digits import IMAGE, LOGITS, MNIST
from models.entry import Array
from models.fetch import fetch

SEED = 20240517
EPOCHS = 30
BATCH = 64
TRAINING, CALIBRATION, EVALUATION = 3900, 100, 1000
FOLDER = Path(__file__).parent


class ConvUnit(nn.Sequential):
    """Conv -> BatchNorm -> ReLU, size kept (or divided by ``stride``)."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )


class Residual(nn.Module):
    """x + (Conv BN ReLU Conv BN)(x), then ReLU: the block of ResNet (He et al., 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvUnit(channels, channels)
        self.second = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] -> the same shape."""
        return functional.relu(x + self.second(self.first(x)))


class Separable(nn.Sequential):
    """Depthwise 3x3 then pointwise 1x1, each with BatchNorm and ReLU: the block of MobileNet (Howard et al., 2017)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(ConvUnit(inputs, inputs, groups=inputs), ConvUnit(inputs, outputs, kernel=1))


class DigitNet(nn.Module):
    """[N, 1, 28, 28] -> logits [N, 10]. The blocks are those of common image networks, at a size fit for tests."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            ConvUnit(1, 32),
            Residual(32),
            nn.MaxPool2d(2),  # 14 x 14
            Separable(32, 64),
            Residual(64),
            ConvUnit(64, 128, stride=2),  # 7 x 7
            Separable(128, 128),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(128, 10)

    def forward(self, image: Tensor) -> Tensor:
        """[N, 1, 28, 28] -> [N, 10]."""
        return self.classifier(self.pool(self.features(image)).flatten(1))


def load_images() -> tuple[Array, Array]:
    """The 5,000 digits: float32 [5000, 1, 28, 28] in 0..1 and int64 labels [5000], shuffled."""
    with gzip.open(fetch(MNIST) / "mnist_5k.csv.gz", "rt") as text:
        table = np.loadtxt(text, delimiter=",")
    table = table[np.random.default_rng(SEED).permutation(len(table))]
    images = (table[:, :-1] / 255.0).astype(np.float32).reshape(-1, 1, 28, 28)
    return images, table[:, -1].astype(np.int64)


def distort(images: Tensor, random: torch.Generator) -> Tensor:
    """Each image turned by up to 12 degrees, scaled by up to 12 %, and moved by up to 2.5 pixels."""

    def uniform(limit: float) -> Tensor:
        return (torch.rand(len(images), generator=random) * 2 - 1) * limit

    angle, scale, shear = uniform(np.pi / 15), 1 + uniform(0.12), uniform(0.15)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [
        torch.stack([cosine, shear - sine, uniform(2.5 / 14)], dim=1),
        torch.stack([sine, cosine, uniform(2.5 / 14)], dim=1),
    ]
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def train(network: DigitNet, images: Tensor, labels: Tensor) -> None:
    """EPOCHS passes of AdamW under a one-cycle rate (Smith and Topin, 2018), images distorted anew each time."""
    random = torch.Generator().manual_seed(SEED)
    steps = len(images) // BATCH
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-3, total_steps=EPOCHS * steps)
    network.train()
    for epoch in range(EPOCHS):
        order = torch.randperm(len(images), generator=random)
        total = 0.0
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            loss = functional.cross_entropy(
                network(distort(images[chosen], random)), labels[chosen], label_smoothing=0.05
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}/{EPOCHS}: loss {total / steps:.4f}", flush=True)
    network.eval()


def export(network: DigitNet, path: Path) -> None:
    """Write the network as it was trained: BatchNorm stays a node of its own, the batch axis is dynamic.

    torch's older exporter is used on purpose: the newer one writes the pooling as ReduceMean, spreads each BatchNorm
    over shape arithmetic or folds it away, and puts source lines of the machine it ran on into the file.
    """
    torch.onnx.export(
        network,
        (torch.zeros(2, 1, 28, 28),),
        path,
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        opset_version=17,
        input_names=[IMAGE],
        output_names=[LOGITS],
        dynamic_axes={IMAGE: {0: "batch"}, LOGITS: {0: "batch"}},
    )
    onnx.checker.check_model(path, full_check=True)


def main() -> None:
    """Train, print the accuracy on the test set, and write the three files."""
    torch.manual_seed(SEED)
    images, labels = load_images()
    ends = np.cumsum([TRAINING, CALIBRATION, EVALUATION])
    training, calibration, evaluation = np.split(np.arange(len(images)), ends[:-1])
    network = DigitNet()
    print(f"{sum(p.numel() for p in network.parameters()):,} parameters")
    train(network, torch.from_numpy(images[training]), torch.from_numpy(labels[training]))
    with torch.no_grad():
        predicted = network(torch.from_numpy(images[evaluation])).argmax(dim=1).numpy()
    print(f"accuracy on {EVALUATION} test images: {np.mean(predicted == labels[evaluation]):.2%}")
    export(network, FOLDER / "model.onnx")
    np.savez_compressed(FOLDER / "calibration.npz", **{IMAGE: images[calibration]})
    np.savez_compressed(FOLDER / "evaluation.npz", **{IMAGE: images[evaluation], "labels": labels[evaluation]})


if __name__ == "__main__":
    main()
