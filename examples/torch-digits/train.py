"""Trains a small convolutional network on scikit-learn's bundled handwritten digits, on the CPU, with checkpoints.

After each epoch the whole state goes into FETCHML_CHECKPOINT_DIR; a run that finds one there goes on where it ends.
Killed at any moment and started again, it ends with the very weights that an undisturbed run has. Without FetchML it
writes to ./output and ./checkpoint. Nothing is downloaded.
"""

import argparse
import json
import os
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10, help="passes over the training data (default 10)")
    parser.add_argument("--lr", type=float, default=2e-3, help="learning rate (default 0.002)")
    parser.add_argument("--seed", type=int, default=7, help="seed of the split, the weights and the order (default 7)")
    args = parser.parse_args()
    for name in ("epochs", "lr"):
        if getattr(args, name) <= 0:
            parser.error(f"--{name} must be greater than 0")
    return args


def load(seed):
    """Returns training and test parts as (images, labels)."""
    images, labels = load_digits(return_X_y=True)
    parts = train_test_split(images, labels, test_size=0.25, random_state=seed, stratify=labels)
    train_x, test_x, train_y, test_y = parts
    as_images = lambda x: torch.tensor(x, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    return (as_images(train_x), torch.tensor(train_y)), (as_images(test_x), torch.tensor(test_y))


def network():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 4 * 4, 64), nn.ReLU(), nn.Linear(64, 10),
    )


def save(state, path):
    """Written beside and renamed into place: whoever reads it sees all of it or none."""
    beside = path.with_suffix(".new")
    with open(beside, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def accuracy(model, images, labels):
    model.eval()
    with torch.no_grad():
        return (model(images).argmax(1) == labels).float().mean().item()


def train_epoch(model, optimizer, images, labels, epoch, seed):
    """One pass in an order of its own, known from seed and epoch alone. Returns the mean loss."""
    model.train()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed * 100_003 + epoch))
    total = 0.0
    for batch in order.split(32):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch)
    return total / len(images)


def main():
    args = parse_args()
    torch.manual_seed(args.seed)
    output = Path(os.environ.get("FETCHML_OUTPUT_DIR", "output"))
    checkpoint = Path(os.environ.get("FETCHML_CHECKPOINT_DIR", "checkpoint")) / "last.pt"
    metrics_path = Path(os.environ.get("FETCHML_METRICS", output / "metrics.jsonl"))
    for directory in (output, checkpoint.parent):
        directory.mkdir(parents=True, exist_ok=True)

    (train_x, train_y), (test_x, test_y) = load(args.seed)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=args.lr)
    first = 1
    if checkpoint.exists():
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["epoch"] + 1
        print(f"resumed after epoch {state['epoch']}", flush=True)

    with open(metrics_path, "a", encoding="utf-8", buffering=1) as metrics:
        for epoch in range(first, args.epochs + 1):
            loss = train_epoch(model, optimizer, train_x, train_y, epoch, args.seed)
            test_acc = accuracy(model, test_x, test_y)
            save({"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, checkpoint)
            metrics.write(json.dumps({"step": epoch, "loss": loss, "test_acc": test_acc}) + "\n")
            print(f"epoch {epoch:3d}/{args.epochs}  loss {loss:.4f}  test_acc {test_acc:.4f}", flush=True)

    torch.save(model.state_dict(), output / "model.pt")
    weights = sum(parameter.double().sum().item() for parameter in model.parameters())
    summary = {"accuracy": accuracy(model, test_x, test_y), "first_epoch": first, "weights": weights}
    (output / "metrics.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(f"test accuracy {summary['accuracy']:.4f}; model and metrics are in the output directory", flush=True)


if __name__ == "__main__":
    main()
