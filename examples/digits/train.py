"""Trains a small neural network on scikit-learn's bundled handwritten digits.

Runs the same with and without FetchML: the places to write to come from FETCHML_OUTPUT_DIR and
FETCHML_METRICS when they are set, else from ./output. Nothing is downloaded.
"""

import argparse
import json
import os
import time
from pathlib import Path

# The figure is only written to a file; no display is needed. Font caches go where we may write.
os.environ.setdefault("MPLBACKEND", "Agg")

import joblib
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import ConfusionMatrixDisplay, accuracy_score
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20, help="passes over the training data (default 20)")
    parser.add_argument("--lr", type=float, default=1e-3, help="initial learning rate (default 0.001)")
    parser.add_argument("--hidden", type=int, default=64, help="hidden units (default 64)")
    parser.add_argument("--seed", type=int, default=7, help="seed of the split, the weights and the order (default 7)")
    args = parser.parse_args()
    for name in ("epochs", "lr", "hidden"):
        if getattr(args, name) <= 0:
            parser.error(f"--{name} must be greater than 0")
    return args


def load(seed):
    """Returns the scaled training, validation and test parts as ((X, y), (X, y), (X, y))."""
    images, labels = load_digits(return_X_y=True)
    train_x, rest_x, train_y, rest_y = train_test_split(
        images, labels, test_size=0.3, random_state=seed, stratify=labels
    )
    val_x, test_x, val_y, test_y = train_test_split(
        rest_x, rest_y, test_size=0.5, random_state=seed, stratify=rest_y
    )
    scaler = StandardScaler().fit(train_x)
    return scaler, *((scaler.transform(x), y) for x, y in ((train_x, train_y), (val_x, val_y), (test_x, test_y)))


def main():
    args = parse_args()
    output = Path(os.environ.get("FETCHML_OUTPUT_DIR", "output"))
    output.mkdir(parents=True, exist_ok=True)
    metrics_path = Path(os.environ.get("FETCHML_METRICS", output / "metrics.jsonl"))

    scaler, (train_x, train_y), (val_x, val_y), (test_x, test_y) = load(args.seed)
    print(f"digits: {len(train_x)} train, {len(val_x)} validation, {len(test_x)} test images of 8x8", flush=True)

    model = MLPClassifier(
        hidden_layer_sizes=(args.hidden,), learning_rate_init=args.lr, batch_size=32, random_state=args.seed
    )
    classes = np.unique(train_y)
    started = time.monotonic()
    with open(metrics_path, "a", encoding="utf-8", buffering=1) as metrics:
        for epoch in range(1, args.epochs + 1):
            model.partial_fit(train_x, train_y, classes=classes)
            val_acc = accuracy_score(val_y, model.predict(val_x))
            metrics.write(json.dumps({"step": epoch, "loss": model.loss_, "val_acc": val_acc}) + "\n")
            print(f"epoch {epoch:3d}/{args.epochs}  loss {model.loss_:.4f}  val_acc {val_acc:.4f}", flush=True)

    predicted = model.predict(test_x)
    accuracy = accuracy_score(test_y, predicted)
    joblib.dump({"scaler": scaler, "model": model}, output / "model.joblib")
    display = ConfusionMatrixDisplay.from_predictions(test_y, predicted, cmap="Blues", colorbar=False)
    display.ax_.set_title(f"digits, test accuracy {accuracy:.3f}")
    display.figure_.savefig(output / "confusion_matrix.png", dpi=120, bbox_inches="tight")
    plt.close(display.figure_)
    summary = {
        "accuracy": accuracy,
        "epochs": args.epochs,
        "final_loss": model.loss_,
        "seconds": round(time.monotonic() - started, 3),
    }
    (output / "metrics.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(f"test accuracy {accuracy:.4f}; model, picture and metrics are in the output directory", flush=True)


if __name__ == "__main__":
    main()
